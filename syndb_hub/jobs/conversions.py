"""Results in other formats: written to a file once, so that its size and checksum are known and a download resumes.

The checksum stands in the name of the file, which it gets when it is whole: nothing has to be remembered about it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import trio

from syndb_common.errors import SynDBError, Unavailable
from syndb_common.exporting import FileFormat, read_batches, save, write_rows

GROWTH = 4
"""How many times the size of an Arrow file its CSV may have: a UUID of 16 bytes becomes 39 characters."""

WRITERS = 2
"""Conversions at once; more would not be faster on a small machine."""

_ABANDONED = ".converting"


@dataclass(frozen=True, slots=True)
class Converted:
    """A result in another format: where it stands, and its SHA-256."""

    path: Path
    sha256: str


class _Conversion:
    def __init__(self) -> None:
        self.ended = trio.Event()
        self.outcome: Converted | SynDBError = Unavailable("the hub is stopping", hint="Try again soon.")


class Conversions:
    """A folder of converted results. :meth:`run` must be running for new ones to be made.

    Args:
        folder: of the files; it belongs to this object.
        max_bytes: of all files together; the oldest give way.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._running: dict[tuple[UUID, FileFormat], _Conversion] = {}
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(WRITERS)

    async def run(
        self, keep: Collection[UUID], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Delete what belongs to none of these jobs, then convert until cancelled."""
        await trio.to_thread.run_sync(self._prepare, {str(job_id) for job_id in keep})
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def get(self, job_id: UUID, form: FileFormat, arrow: Path) -> Converted:
        """The result of a job, which is an Arrow file, in another format.

        A caller that gives up does not end the conversion: the next one finds it done.

        Raises:
            LimitExceeded: it would be too large in this format.
            Unavailable: the disk is full, or the hub is starting or stopping.
        """
        key = job_id, form
        if (running := self._running.get(key)) is None:
            found = await trio.to_thread.run_sync(self._find, job_id, form)
            if found is not None:
                return found
            if self._nursery is None:
                raise Unavailable("the hub converts nothing right now: it is starting or stopping", hint="Try again.")
            if (running := self._running.get(key)) is None:
                running = self._running[key] = _Conversion()
                self._nursery.start_soon(self._convert, key, running, arrow)
        await running.ended.wait()
        if isinstance(running.outcome, SynDBError):
            raise running.outcome
        return running.outcome

    async def remove(self, job_id: UUID) -> None:
        """Delete all that was made of one result."""
        await trio.to_thread.run_sync(self._remove, f"{job_id}.*")

    async def _convert(self, key: tuple[UUID, FileFormat], running: _Conversion, arrow: Path) -> None:
        try:
            running.outcome = await trio.to_thread.run_sync(self._write, *key, arrow, limiter=self._limiter)
        except SynDBError as error:
            running.outcome = error
        finally:
            del self._running[key]
            running.ended.set()

    def _find(self, job_id: UUID, form: FileFormat) -> Converted | None:
        for path in self._folder.glob(f"{job_id}.*.{form}"):
            return Converted(path, path.name.split(".")[1])
        return None

    def _write(self, job_id: UUID, form: FileFormat, arrow: Path) -> Converted:
        try:
            self._folder.mkdir(exist_ok=True, mode=0o700)
            size = GROWTH * arrow.stat().st_size + 1024**2
            self._make_room(size)
            schema, batches = read_batches(arrow)
            working = self._folder / f"{job_id}.{form}{_ABANDONED}"
            saved = save(working, lambda sink: write_rows(form, sink, schema, batches), max_bytes=size)
            return Converted(working.rename(self._folder / f"{job_id}.{saved.sha256}.{form}"), saved.sha256)
        except OSError as error:
            raise Unavailable(f"the result cannot be converted: {error.strerror or error}") from error

    def _make_room(self, size: int) -> None:
        files = sorted(self._files(), key=lambda entry: entry.stat().st_mtime)
        total = sum(entry.stat().st_size for entry in files) + size
        for entry in files:
            if total <= self._max_bytes:
                return
            total -= entry.stat().st_size
            os.unlink(entry)

    def _prepare(self, keep: set[str]) -> None:
        for entry in self._files():
            if entry.name.split(".")[0] not in keep or entry.name.endswith((_ABANDONED, ".part")):
                os.unlink(entry)

    def _files(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._folder) as entries:
                return [entry for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []

    def _remove(self, pattern: str) -> None:
        for path in self._folder.glob(pattern):
            path.unlink(missing_ok=True)
