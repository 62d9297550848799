"""Ids that depend on nothing but the source, so that an import can be repeated.

UUID version 5 (RFC 9562): the same namespace and name always give the same id.
"""

from __future__ import annotations

from uuid import UUID, uuid5

SYNDB_NAMESPACE = UUID("6f0a3c38-5b57-5f0e-9b54-0d8b7f1d9a11")
"""Namespace of data sets named by a key of ours. Fixed for ever: changing it changes every id."""


def dataset_id(key: str) -> UUID:
    """Id of the data set that an importer calls ``key``, for instance ``cook-2019-hermaphrodite``."""
    return uuid5(SYNDB_NAMESPACE, key)


def row_id(dataset: UUID, table: str, source_id: str) -> UUID:
    """``cid`` of the row that its source calls ``source_id`` in ``table`` of a data set."""
    return uuid5(dataset, f"{table}/{source_id}")
