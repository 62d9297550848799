"""The downloads of a hub: asked for, prepared one after the other, kept as long as results are.

A download that has completed survives a restart of the hub, since its folder says what it is; one that was being
prepared does not, and is asked for again. Asking twice for the same gives the same download.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import structlog
import trio
from pydantic import ValidationError

from syndb_common import tracing
from syndb_common.errors import Conflict, NotFound, SynDBError, TooManyRequests, Unavailable
from syndb_common.exporting import ExportFormat, Sink, save
from syndb_hub.ages import Ages
from syndb_hub.downloads.download import Download, DownloadedFile
from syndb_hub.downloads.preparing import prepare
from syndb_hub.downloads.versions import select, tables_of
from syndb_hub.federation.targets import Holding
from syndb_hub.jobs import JobRunner, JobStatus
from syndb_hub.settings import JobSettings

WORKERS = 2
"""Downloads prepared at once: half of the workers that answer queries by default, so that others are served too."""
MAX_UNFINISHED = 50
"""Downloads that wait or are being prepared."""
MAX_OF_ONE_OWNER = 5
"""Of these, for the same token."""
STORED = 20
"""Largest results that fit into the folder together; the oldest downloads give way."""
CLEANING_SECONDS = 300.0

_ABOUT = "download.json"
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Active:
    """A download that waits or is being prepared."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Downloads:
    """Accepts, prepares and remembers downloads. :meth:`run` must be running for anything to happen.

    Args:
        folder: of the files; it belongs to this object.
        jobs: answers the queries for the rows.
        holdings: what may be seen, with its holders.
        settings: how large a table, and how old a download, may become.
        now: the machine's clock, for the dates.
        ages: how old downloads are.
    """

    def __init__(
        self,
        folder: Path,
        jobs: JobRunner,
        holdings: Callable[[], Awaitable[Sequence[Holding]]],
        settings: JobSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        ages: Ages | None = None,
    ) -> None:
        self._folder = folder
        self._jobs = jobs
        self._holdings = holdings
        self._life = timedelta(hours=settings.result_ttl_hours)
        self._room = STORED * settings.max_result_bytes
        self._now = now
        self._ages = ages or Ages(now)
        self._downloads: dict[UUID, Download] = {}
        self._active: dict[UUID, _Active] = {}
        self._workers = trio.Semaphore(WORKERS)
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find what the last run has left, then work until cancelled."""
        found = await trio.to_thread.run_sync(self._read)
        self._downloads = {download.download_id: download for download in found}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._clean_regularly)
                self._nursery = nursery
                task_status.started()
        finally:
            self._nursery = None
            self._active.clear()

    async def start(
        self,
        dataset: str,
        version: int | None,
        form: ExportFormat,
        *,
        owner: str,
        tables: Sequence[str] | None = None,
    ) -> Download:
        """Ask for a version of a data set, the newest unless told; the same again gives the same download.

        Args:
            dataset: its name or id.
            version: its number.
            form: how it is wanted.
            owner: who asks.
            tables: only these.

        Raises:
            NotFound: nobody holds such a data set or version.
            Conflict: the name is that of two data sets.
            InvalidRequest: a table is not part of the version.
            TooManyRequests: too many are being prepared.
        """
        holding = select(await self._holdings(), dataset, version)
        published = holding.version
        chosen = tables_of(published, tables)
        if (nursery := self._nursery) is None:
            raise Unavailable("the hub prepares no downloads right now: it is starting or stopping", hint="Try again.")
        download = Download(
            download_id=uuid4(),
            owner=owner,
            dataset=published.metadata.dataset,
            dataset_id=published.dataset_id,
            version=published.version,
            content_hash=published.content_hash,
            announced_by=holding.holder,
            format=form,
            tables=chosen,
            status=JobStatus.PENDING,
            created_at=self._now(),
        )
        for other in self._downloads.values():
            if other.subject == download.subject and other.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
                return other
        own = sum(self._downloads[each].owner == owner for each in self._active)
        if len(self._active) >= MAX_UNFINISHED or own >= MAX_OF_ONE_OWNER:
            raise TooManyRequests(f"{own} downloads of yours are being prepared", hint="Wait until one has completed.")
        self._downloads[download.download_id] = download
        self._active[download.download_id] = _Active()
        nursery.start_soon(self._work, download, holding)
        return download

    def get(self, download_id: UUID, *, owner: str | None = None) -> Download:
        """A download; with ``owner``, only if it is theirs.

        Raises:
            NotFound: there is none, it is not kept any more, or it is somebody else's.
        """
        download = self._downloads.get(download_id)
        if download is None or owner not in (None, download.owner):
            raise NotFound(f"there is no download {download_id}", hint="Ask for the data set again.")
        return download

    async def wait(self, download_id: UUID, seconds: float, *, owner: str | None = None) -> Download:
        """The download as soon as it has ended, or as it is after ``seconds``."""
        if (active := self._active.get(download_id)) is not None and self.get(download_id, owner=owner):
            with trio.move_on_after(seconds):
                await active.ended.wait()
        return self.get(download_id, owner=owner)

    async def remove(self, download_id: UUID, *, owner: str | None = None) -> Download:
        """Stop preparing a download, or delete its files; returns it as it was."""
        download = self.get(download_id, owner=owner)
        if (active := self._active.get(download_id)) is not None:
            active.scope.cancel()
        else:
            await self._forget(download)
        return download

    def file(self, download_id: UUID, name: str, *, owner: str | None = None) -> tuple[DownloadedFile, Path]:
        """A file of a completed download, and where it stands.

        Raises:
            NotFound: there is no such download or file.
            Conflict: it has not completed.
        """
        download = self.get(download_id, owner=owner)
        if download.status is not JobStatus.COMPLETED:
            raise Conflict(f"the download has no files: it is {download.status}", status=download.status.value)
        for file in download.files:
            if file.name == name:
                return file, self._folder / str(download_id) / name
        raise NotFound("the download has no such file", hint="GET the download; its `files` have their names.")

    async def clean(self) -> None:
        """Forget what is too old and, where all together are too large, the oldest."""
        room = self._room - sum(file.bytes for download in self._downloads.values() for file in download.files)
        for download in sorted(self._downloads.values(), key=lambda each: each.created_at):
            if download.finished_at is None:
                continue
            if self._ages.of(download.download_id, download.finished_at) > self._life or room < 0:
                room += sum(file.bytes for file in download.files)
                await self._forget(download)

    async def _clean_regularly(self) -> None:
        while True:
            await self.clean()
            await trio.sleep(CLEANING_SECONDS)

    async def _forget(self, download: Download) -> None:
        self._downloads.pop(download.download_id, None)
        self._ages.forget(download.download_id)
        await trio.to_thread.run_sync(shutil.rmtree, self._folder / str(download.download_id), True)

    async def _work(self, download: Download, holding: Holding) -> None:
        active = self._active[download.download_id]
        ended = download.model_copy(update={"status": JobStatus.CANCELLED})
        work = tracing.Work(str(download.download_id))
        try:
            with active.scope, tracing.doing(work), tracing.span("download", download_id=str(download.download_id)):
                async with self._workers:
                    running = download.model_copy(update={"status": JobStatus.RUNNING})
                    self._downloads[download.download_id] = running
                    ended = await self._prepare(running, holding)
        finally:
            del self._active[download.download_id]
            self._downloads[download.download_id] = ended.model_copy(update={"finished_at": self._now()})
            self._ages.begin(download.download_id)
            if ended.status is not JobStatus.COMPLETED:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(shutil.rmtree, self._folder / str(download.download_id), True)
            active.ended.set()
        await self.clean()

    async def _prepare(self, download: Download, holding: Holding) -> Download:
        folder = self._folder / str(download.download_id)
        try:
            await trio.Path(folder).mkdir(mode=0o700, parents=True)
            files = await prepare(download, holding, folder, self._jobs, max_bytes=self._room // 2)
            done = download.model_copy(
                update={"status": JobStatus.COMPLETED, "files": files, "finished_at": self._now()}
            )
            await trio.to_thread.run_sync(_note, folder, done)
        except SynDBError as error:
            failed = error
        except OSError as error:
            failed = Unavailable(
                f"the download cannot be stored: {error.strerror or error}", hint="Check free space on the hub's disk."
            )
        except Exception:
            _log.exception("a download failed unexpectedly", download_id=str(download.download_id))
            failed = SynDBError("the download failed for an unexpected reason", hint="The hub's log has the details.")
        else:
            return done
        return download.model_copy(update={"status": JobStatus.FAILED, "error": failed.to_body()})

    def _read(self) -> list[Download]:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for folder in self._folder.iterdir():
            try:
                download = Download.model_validate_json((folder / _ABOUT).read_bytes())
                if any((folder / file.name).stat().st_size != file.bytes for file in download.files):
                    raise FileNotFoundError
                found.append(download)
            except (OSError, ValidationError):  # being prepared when the hub ended
                shutil.rmtree(folder, ignore_errors=True)
        return found


def _note(folder: Path, download: Download) -> None:
    """Write down what the folder holds: from now on it is whole."""

    def write(sink: Sink) -> int:
        sink.write(download.model_dump_json().encode())
        return 0

    save(folder / _ABOUT, write, max_bytes=1024**2)
