"""Rows as files that other programs read: Arrow, Parquet, CSV, and whole versions as one ``.tar.xz``.

Writers take a stream of record batches and hold a few of them at a time, however many there are. A file gets its name
when it is whole and on disk, and its SHA-256 is known from writing it.
"""

from __future__ import annotations

from syndb_common.exporting.archive import ExportFormat, Member, write_archive
from syndb_common.exporting.files import Saved, Sink, save
from syndb_common.exporting.metadata import METADATA_FILE, metadata
from syndb_common.exporting.writers import MEDIA_TYPES, ROWS_PER_BATCH, FileFormat, read_batches, write_rows

__all__ = [
    "MEDIA_TYPES",
    "METADATA_FILE",
    "ROWS_PER_BATCH",
    "ExportFormat",
    "FileFormat",
    "Member",
    "Saved",
    "Sink",
    "metadata",
    "read_batches",
    "save",
    "write_archive",
    "write_rows",
]
