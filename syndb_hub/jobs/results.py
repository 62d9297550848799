"""Result files: one Arrow IPC file per job, whole or absent, with a checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from functools import partial
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import trio

from syndb_common.errors import DataError, LimitExceeded, NotFound, Unavailable
from syndb_hub.store.jobs import StoredResult

ROWS_PER_BATCH = 65_536
"""Rows of a record batch in a result file: what a reader has to hold at a time."""

_EXPIRED = "the result is not kept any more"
_RUN_AGAIN = "Run the query again."


class ResultFiles:
    """The folder of results. Files are written beside their place, synced, and then moved there."""

    def __init__(self, folder: Path, *, max_result_bytes: int) -> None:
        self._folder = folder
        self._max_result_bytes = max_result_bytes
        self._limiter = trio.CapacityLimiter(4)

    def path(self, job_id: UUID) -> Path:
        """Where the result of a job stands."""
        return self._folder / f"{job_id}.arrow"

    async def prepare(self, keep: Collection[UUID]) -> None:
        """Create the folder; remove everything in it that belongs to none of these jobs."""
        await trio.to_thread.run_sync(self._prepare, {self.path(job_id).name for job_id in keep}, limiter=self._limiter)

    async def write(self, job_id: UUID, table: pa.Table) -> StoredResult:
        """Keep a table as the result of a job.

        Raises:
            LimitExceeded: it is larger than one result may be.
            Unavailable: the folder cannot be written.
        """
        return await trio.to_thread.run_sync(self._write, job_id, table, limiter=self._limiter)

    async def verified(self, job_id: UUID, kept: StoredResult) -> Path:
        """The file of a result, after its checksum was compared.

        Raises:
            NotFound: it is gone.
            DataError: it is not what was written.
        """
        return await trio.to_thread.run_sync(self._verify, job_id, kept, limiter=self._limiter)

    async def remove(self, job_id: UUID) -> None:
        """Delete a result; nothing happens when there is none."""
        unlink = partial(self.path(job_id).unlink, missing_ok=True)
        await trio.to_thread.run_sync(unlink, limiter=self._limiter)

    def _prepare(self, keep: set[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in self._folder.iterdir():
            if entry.suffix in (".arrow", ".part") and entry.name not in keep:
                entry.unlink()

    def _write(self, job_id: UUID, table: pa.Table) -> StoredResult:
        if table.nbytes > self._max_result_bytes:
            raise self._too_large(table.nbytes)
        target = self.path(job_id)
        part = target.with_suffix(".part")
        try:
            try:
                with part.open("wb") as file:
                    with pa.ipc.new_file(file, table.schema) as writer:
                        writer.write_table(table, max_chunksize=ROWS_PER_BATCH)
                    file.flush()
                    os.fsync(file.fileno())
                size = part.stat().st_size
                if size > self._max_result_bytes:
                    raise self._too_large(size)
                kept = StoredResult(size, _sha256(part))
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the result cannot be stored: {error.strerror}", hint="Check free space on the hub's disk."
            ) from error
        return kept

    def _verify(self, job_id: UUID, kept: StoredResult) -> Path:
        path = self.path(job_id)
        try:
            intact = _sha256(path) == kept.sha256
        except FileNotFoundError:
            raise NotFound(_EXPIRED, hint=_RUN_AGAIN) from None
        if not intact:
            raise DataError("The stored result is damaged: its checksum differs.", hint=_RUN_AGAIN)
        return path

    def _too_large(self, size: int) -> LimitExceeded:
        return LimitExceeded(
            f"the result has {size:,} bytes; a job may keep {self._max_result_bytes:,}",
            hint="Select fewer columns or rows, aggregate, or raise jobs.max_result_bytes on the hub.",
            bytes=size,
            limit=self._max_result_bytes,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
