"""Result files: one Arrow IPC file per job, whole or absent, with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import trio

from syndb_common.errors import DataError, NotFound
from syndb_hub.jobs.live import Live
from syndb_hub.jobs.writing import ResultWriter
from syndb_hub.store.jobs import StoredResult

_EXPIRED = "the result is not kept any more"
_RUN_AGAIN = "Run the query again."


class ResultFiles:
    """The folder of results. Files are written beside their place, synced, and then moved there."""

    def __init__(self, folder: Path, *, max_result_bytes: int) -> None:
        self._folder = folder
        self._max_result_bytes = max_result_bytes
        self._intact: dict[UUID, tuple[int, ...]] = {}  # inode, times of change and size, when they were compared
        self._limiter = trio.CapacityLimiter(4)
        self._verifying = trio.CapacityLimiter(2)  # of their own: who reads large files does not hold up who writes

    def path(self, job_id: UUID) -> Path:
        """Where the result of a job stands."""
        return self._folder / f"{job_id}.arrow"

    async def prepare(self, keep: Collection[UUID]) -> None:
        """Create the folder; remove everything in it that belongs to none of these jobs."""
        await trio.to_thread.run_sync(self._prepare, {self.path(job_id).name for job_id in keep}, limiter=self._limiter)

    @asynccontextmanager
    async def writing(self, job_id: UUID, live: Live | None = None) -> AsyncIterator[ResultWriter]:
        """Write the result of a job; nothing of it is left after the block unless it was kept.

        ``live`` says how far somebody is who reads it meanwhile.

        Raises:
            Unavailable: the folder cannot be written.
        """
        part = self.path(job_id).with_suffix(".part")
        writer = ResultWriter(part, max_bytes=self._max_result_bytes, limiter=self._limiter, live=live)
        try:
            yield writer
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(writer.abandon, limiter=self._limiter)

    async def keep(self, job_id: UUID, writer: ResultWriter) -> StoredResult:
        """Keep what was written as the result of a job.

        Raises:
            LimitExceeded: it is larger than one result may be.
            Unavailable: the folder cannot be written.
        """
        return await trio.to_thread.run_sync(self._keep, job_id, writer, limiter=self._limiter)

    async def verified(self, job_id: UUID, kept: StoredResult) -> Path:
        """The file of a result, after its checksum was compared; not again while the file is as it was then.

        Raises:
            NotFound: it is gone.
            DataError: it is not what was written.
        """
        return await trio.to_thread.run_sync(self._verify, job_id, kept, limiter=self._verifying)

    async def remove(self, job_id: UUID) -> None:
        """Delete a result; nothing happens when there is none."""
        self._intact.pop(job_id, None)
        unlink = partial(self.path(job_id).unlink, missing_ok=True)
        await trio.to_thread.run_sync(unlink, limiter=self._limiter)

    def _prepare(self, keep: set[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for entry in self._folder.iterdir():
            if entry.suffix in (".arrow", ".part") and entry.name not in keep:
                entry.unlink()

    def _keep(self, job_id: UUID, writer: ResultWriter) -> StoredResult:
        kept = writer.finish()
        target = self.path(job_id)
        target.with_suffix(".part").replace(target)
        return kept

    def _verify(self, job_id: UUID, kept: StoredResult) -> Path:
        path = self.path(job_id)
        try:
            stat = path.stat()
            state = stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
            if self._intact.get(job_id) != state:
                if _sha256(path) != kept.sha256:
                    raise DataError("The stored result is damaged: its checksum differs.", hint=_RUN_AGAIN)
                self._intact[job_id] = state
        except FileNotFoundError:
            raise NotFound(_EXPIRED, hint=_RUN_AGAIN) from None
        return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
