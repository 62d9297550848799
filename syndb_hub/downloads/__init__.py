"""Whole versions of data sets as files: prepared once, kept for a while, downloaded in as many pieces as it takes."""

from __future__ import annotations

from syndb_hub.downloads.download import Download, DownloadedFile
from syndb_hub.downloads.keeper import Downloads
from syndb_hub.downloads.versions import asked_of, check_rows, rows_query, select, tables_of

__all__ = ["Download", "DownloadedFile", "Downloads", "asked_of", "check_rows", "rows_query", "select", "tables_of"]
