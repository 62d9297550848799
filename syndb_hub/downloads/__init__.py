"""Whole versions of data sets as files: prepared once, kept for a while, downloaded in as many pieces as it takes."""

from __future__ import annotations

from syndb_hub.downloads.download import Download, DownloadedFile, DownloadFormat
from syndb_hub.downloads.keeper import Downloads

__all__ = ["Download", "DownloadFormat", "DownloadedFile", "Downloads"]
