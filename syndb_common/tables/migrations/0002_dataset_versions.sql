-- One row per published version. The row is the commit: partitions without one are dropped at start-up.

CREATE TABLE IF NOT EXISTS syndb.dataset_versions
(
    dataset_id UUID COMMENT 'data set',
    version UInt32 COMMENT 'version of the data set, counted from 1',
    metadata String COMMENT 'description of the data set as JSON',
    row_counts Map(String, UInt64) COMMENT 'rows of every table that has any',
    content_hash String COMMENT 'SHA-256 of the content, independent of row order and version',
    schema_version UInt32 COMMENT 'last migration when it was published',
    published_at DateTime64(3, 'UTC') COMMENT 'time of publication'
)
ENGINE = MergeTree
ORDER BY (dataset_id, version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
COMMENT 'published versions of data sets';
