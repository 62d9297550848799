"""Results as files in any format: written once, so that size and checksum are known and a download resumes.

The checksum stands in the name of the file, which it gets when it is whole: nothing has to be remembered about it.
An archive holds the rows as Parquet and, as ``metadata.json``, the query and where its answer came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog
import trio

from syndb_common.errors import SynDBError, Unavailable
from syndb_common.exporting import (
    METADATA_FILE,
    ExportFormat,
    Member,
    Saved,
    Sink,
    read_batches,
    save,
    write_archive,
    write_rows,
)
from syndb_hub.jobs.results import ResultFiles
from syndb_hub.store.jobs import Job, StoredResult

GROWTH = 4
"""How many times the size of an Arrow file its CSV may have: a UUID of 16 bytes becomes 39 characters."""

WRITERS = 2
"""Conversions at once; more would not be faster on a small machine."""

_ABANDONED = ".converting"
_UNFINISHED = (_ABANDONED, ".part")
_ROWS_FILE = "rows.parquet"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """A result as a file: where it stands, and its SHA-256."""

    path: Path
    sha256: str


class _Conversion:
    def __init__(self) -> None:
        self.ended = trio.Event()
        self.outcome: Exported | SynDBError = Unavailable("the hub is stopping", hint="Try again soon.")


class Conversions:
    """A folder of converted results. :meth:`run` must be running for anything to be had.

    Args:
        folder: of the files; it belongs to this object.
        results: the Arrow files of which they are made.
        max_bytes: of all files together; the oldest give way.
    """

    def __init__(self, folder: Path, results: ResultFiles, *, max_bytes: int) -> None:
        self._folder = folder
        self._results = results
        self._max_bytes = max_bytes
        self._running: dict[tuple[UUID, ExportFormat], _Conversion] = {}
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

    async def get(self, job: Job, kept: StoredResult, form: ExportFormat) -> Exported:
        """The kept result of a job in some format.

        A caller that gives up does not end the conversion: the next one waits for the same, or finds it done.

        Raises:
            NotFound, DataError: the Arrow file is gone, or damaged.
            LimitExceeded: it would be too large in this format.
            Unavailable: the disk is full, or the hub is starting or stopping.
        """
        key = job.id, form
        if (running := self._running.get(key)) is None:
            if self._nursery is None:
                raise Unavailable("the hub converts nothing right now: it is starting or stopping", hint="Try again.")
            running = self._running[key] = _Conversion()
            self._nursery.start_soon(self._convert, running, job, kept, form)
        await running.ended.wait()
        if isinstance(running.outcome, SynDBError):
            raise running.outcome
        return running.outcome

    async def remove(self, job_id: UUID) -> None:
        """Delete all that was made of one result."""
        await trio.to_thread.run_sync(self._remove, f"{job_id}.*")

    async def _convert(self, running: _Conversion, job: Job, kept: StoredResult, form: ExportFormat) -> None:
        try:
            arrow = await self._results.verified(job.id, kept)
            if form is ExportFormat.ARROW:
                running.outcome = Exported(arrow, kept.sha256)
            elif (found := await trio.to_thread.run_sync(self._find, job.id, form)) is not None:
                running.outcome = found
            else:
                running.outcome = await trio.to_thread.run_sync(self._write, job, form, arrow, limiter=self._limiter)
        except SynDBError as error:
            running.outcome = error
        except Exception:
            _log.exception("a result could not be converted", job_id=str(job.id), form=form.value)
            running.outcome = SynDBError(f"the result cannot be made {form.value}", hint="Take another format.")
        finally:
            del self._running[job.id, form]
            running.ended.set()

    def _find(self, job_id: UUID, form: ExportFormat) -> Exported | None:
        for path in self._folder.glob(f"{job_id}.*.{form}"):
            return Exported(path, path.name.split(".")[1])
        return None

    def _write(self, job: Job, form: ExportFormat, arrow: Path) -> Exported:
        working = self._folder / f"{job.id}.{form}{_ABANDONED}"
        try:
            self._folder.mkdir(exist_ok=True, mode=0o700)
            size = GROWTH * arrow.stat().st_size + 1024**2
            self._make_room(size)
            if form is ExportFormat.ARCHIVE:
                saved = self._archive(job, arrow, working, size)
            else:
                saved = _rows(form, arrow, working, size)
            return Exported(working.rename(self._folder / f"{job.id}.{saved.sha256}.{form}"), saved.sha256)
        except OSError as error:
            raise Unavailable(f"the result cannot be converted: {error.strerror or error}") from error

    def _archive(self, job: Job, arrow: Path, working: Path, size: int) -> Saved:
        rows = working.with_name(f"{job.id}.{_ROWS_FILE}{_ABANDONED}")
        about = working.with_name(f"{job.id}.{METADATA_FILE}{_ABANDONED}")
        try:
            described = _described(job, _rows(ExportFormat.ARCHIVE, arrow, rows, size))
            save(about, lambda sink: _put(sink, described), max_bytes=len(described))
            members = [Member(_ROWS_FILE, rows), Member(METADATA_FILE, about)]
            at = job.finished_at or datetime.fromtimestamp(0, UTC)

            def pack(sink: Sink) -> int:
                write_archive(sink, str(job.id), members, at)
                return 0

            return save(working, pack, max_bytes=2 * size)
        finally:
            rows.unlink(missing_ok=True)
            about.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        whole = [entry for entry in self._files() if not entry.name.endswith(_UNFINISHED)]
        files = sorted(whole, key=lambda entry: entry.stat().st_mtime)
        total = sum(entry.stat().st_size for entry in files) + size
        for entry in files:
            if total <= self._max_bytes:
                return
            total -= entry.stat().st_size
            os.unlink(entry)

    def _prepare(self, keep: set[str]) -> None:
        for entry in self._files():
            if entry.name.split(".")[0] not in keep or entry.name.endswith(_UNFINISHED):
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


def _rows(form: ExportFormat, arrow: Path, path: Path, size: int) -> Saved:
    schema, batches = read_batches(arrow)
    return save(path, lambda sink: write_rows(form.of_tables, sink, schema, batches), max_bytes=size)


def _put(sink: Sink, content: bytes) -> int:
    sink.write(content)
    return 0


def _described(job: Job, rows: Saved) -> bytes:
    """The query, the file of its rows, and where they came from: the same for the same job."""
    document = {
        "job_id": str(job.id),
        "query": job.query,
        "finished_at": job.finished_at.isoformat() if job.finished_at else None,
        "files": [{"name": _ROWS_FILE, "rows": rows.rows, "bytes": rows.bytes, "sha256": rows.sha256}],
        "provenance": job.provenance.model_dump(mode="json") if job.provenance else None,
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
