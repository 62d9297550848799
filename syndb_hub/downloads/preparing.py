"""Preparing a download: one query per table, then the files. All of it is on disk, none of it in memory.

The rows come by the way of every question: as a job of whoever asked, so each node's policy decides, and the job's
limits hold. A version counts only with all its rows: a table that has fewer than were published fails the download.
They come from the owner of the data set and from nobody else (:mod:`syndb_hub.downloads.versions`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import UUID

import trio

from syndb_common.errors import DeadlineExceeded, IncompleteResult, LimitExceeded, SynDBError
from syndb_common.exporting import (
    METADATA_FILE,
    ExportFormat,
    Member,
    Saved,
    Sink,
    metadata,
    read_batches,
    save,
    write_archive,
    write_rows,
)
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.downloads.download import Download, DownloadedFile
from syndb_hub.downloads.versions import asked_of, check_rows, rows_query
from syndb_hub.federation.targets import Holding
from syndb_hub.jobs import Job, JobRunner, JobStatus

_writing = trio.CapacityLimiter(2)
_LARGER = (
    "Large tables need higher limits: federation.delegation_timeout_seconds, jobs.query_seconds, jobs.max_result_bytes "
    "at the hub, limits.seconds and limits.result_bytes at the node."
)


async def prepare(
    download: Download, holding: Holding, folder: Path, jobs: JobRunner, *, max_bytes: int
) -> tuple[DownloadedFile, ...]:
    """Make the files of a download in an empty folder and return them in order.

    Args:
        download: what is asked for.
        holding: the version, where its owner holds it.
        folder: where the files go.
        jobs: answers the queries.
        max_bytes: what all files may have together.

    Raises:
        SynDBError: what a query failed with.
        IncompleteResult: fewer rows came than were published.
        LimitExceeded: the files are too large.
    """
    form = download.format.of_tables
    made: dict[str, tuple[str, Saved]] = {}
    for table in download.tables:
        left = max_bytes - sum(saved.bytes for _, saved in made.values())
        name = f"{table}.{form}"
        made[name] = table, await _table(download, holding, table, folder / name, jobs, left)
    described = metadata(holding.version, holding.holder, made)
    files = [
        DownloadedFile(name=name, table=table, rows=saved.rows, bytes=saved.bytes, sha256=saved.sha256)
        for name, (table, saved) in made.items()
    ]
    return await trio.to_thread.run_sync(
        _finish, download, holding.version, folder, described, files, max_bytes, limiter=_writing
    )


async def _table(
    download: Download, holding: Holding, table: str, path: Path, jobs: JobRunner, max_bytes: int
) -> Saved:
    query = rows_query(holding.version, table)
    job = await jobs.submit(query, owner=download.owner, **asked_of(holding))
    try:
        job = await _completed(jobs, job)
        _, result = await jobs.result(job.id)
        saved = await trio.to_thread.run_sync(_write, download.format, result, path, max_bytes, limiter=_writing)
    finally:
        with trio.CancelScope(shield=True):
            await _drop(jobs, job.id)
    check_rows(holding.version, table, saved.rows)
    return saved


async def _completed(jobs: JobRunner, job: Job) -> Job:
    while not job.status.finished:
        job = await jobs.wait(job.id, 60.0)
    if job.status is JobStatus.COMPLETED:
        return job
    error = SynDBError.from_body(job.error) if job.error else IncompleteResult("the query was cancelled")
    if isinstance(error, DeadlineExceeded | LimitExceeded):
        error.hint = _LARGER
    raise error


async def _drop(jobs: JobRunner, job_id: UUID) -> None:
    """Stop a query that still runs, and delete its result."""
    with contextlib.suppress(SynDBError):  # it has ended meanwhile
        await jobs.cancel(job_id)
    with contextlib.suppress(SynDBError):  # then it expires, as results do
        await jobs.discard(job_id)


def _write(form: ExportFormat, result: Path, path: Path, max_bytes: int) -> Saved:
    schema, batches = read_batches(result)
    return save(path, lambda sink: write_rows(form.of_tables, sink, schema, batches), max_bytes=max_bytes)


def _finish(
    download: Download,
    version: PublishedVersion,
    folder: Path,
    described: bytes,
    files: list[DownloadedFile],
    max_bytes: int,
) -> tuple[DownloadedFile, ...]:
    """Add the description and, for an archive, put all files into one."""

    def describe(sink: Sink) -> int:
        sink.write(described)
        return 0

    path = folder / METADATA_FILE
    saved = save(path, describe, max_bytes=max(max_bytes, len(described)))
    files = [*files, DownloadedFile(name=METADATA_FILE, bytes=saved.bytes, sha256=saved.sha256)]
    if download.format is not ExportFormat.ARCHIVE:
        return tuple(files)
    name = f"{download.folder}.tar.xz"
    members = [Member(file.name, folder / file.name) for file in files]

    def archive(sink: Sink) -> int:
        write_archive(sink, download.folder, members, version.published_at)
        return 0

    saved = save(folder / name, archive, max_bytes=2 * max_bytes)
    for member in members:
        member.path.unlink()
    rows = sum(file.rows for file in files)
    return (DownloadedFile(name=name, rows=rows, bytes=saved.bytes, sha256=saved.sha256),)
