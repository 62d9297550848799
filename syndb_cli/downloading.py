"""``syndb dataset download``: a whole version of a data set, as one archive or as a file for each table."""

from __future__ import annotations

import contextlib
import enum
import glob
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import typer
from pydantic import BaseModel, Field, ValidationError, model_validator

from syndb_cli.client import Connection
from syndb_cli.fetching import Fetched, Progress, fetch
from syndb_cli.options import ServerUrl, TokenFile
from syndb_cli.output import errors_as_lines, note, notes, plain, show_json
from syndb_cli.output import progress as waiting
from syndb_common.errors import (
    Cancelled,
    DataError,
    DeadlineExceeded,
    ErrorBody,
    IncompleteResult,
    InvalidRequest,
    NotFound,
    SynDBError,
    Unavailable,
)

DOWNLOADS = "/v1/neurodata/downloads"
WAIT_SECONDS = 10.0
"""How long one request waits at the hub for a download to be prepared."""
AWAY_SECONDS = 1.0
"""Between two attempts while the hub is away."""
_ANY_ID = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))


PlainName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
"""A name that stays in its folder, hides nothing and is no option of another program."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AnnouncedFile(BaseModel):
    """A file of a download, as the hub describes it."""

    name: PlainName
    bytes: int = Field(ge=0)
    sha256: Sha256


class Download(BaseModel):
    """A download, as the hub describes it: what may be anything becomes names of files here only after this check."""

    download_id: UUID
    dataset: PlainName
    dataset_id: UUID
    version: int = Field(ge=1)
    content_hash: Sha256
    announced_by: PlainName
    format: PlainName
    folder: PlainName
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    files: tuple[AnnouncedFile, ...]
    error_message: str | None
    error_code: str | None
    error_hint: str | None

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if self.status == "completed" and not self.files:
            raise ValueError("it has no files")
        return self

    @classmethod
    def read(cls, answer: object) -> Self:
        """What the hub has answered.

        Raises:
            DataError: it is no download.
        """
        try:
            return cls.model_validate(answer)
        except ValidationError as error:
            where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            raise DataError(
                f"what the hub answered is no download ({where})", hint="Check the server URL; nothing was written."
            ) from None


class Format(enum.StrEnum):
    """Forms of a whole version."""

    ARCHIVE = "tar.xz"
    ARROW = "arrow"
    PARQUET = "parquet"
    CSV = "csv"


def download_command(
    dataset: Annotated[str, typer.Argument(help="Name or id of the data set; NAME@2 is its version 2.")],
    form: Annotated[
        Format, typer.Option("--format", help="One archive of Parquet files, or a folder with a file per table.")
    ] = Format.ARCHIVE,
    output: Annotated[
        Path | None, typer.Option(help="File (tar.xz) or folder to make; otherwise named after data set and version.")
    ] = None,
    table: Annotated[list[str] | None, typer.Option("--table", help="Only this table. Repeatable.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until the hub has it ready.", min=0.1)] = 3600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was fetched as JSON.")] = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Fetch a whole version of a data set. Repeat the command to go on after an interruption."""
    with errors_as_lines(as_json=as_json):
        name, version = which(dataset)
        body: dict[str, Any] = {"dataset": name, "version": version, "format": form.value, "tables": table or None}
        if output is not None:
            _check(output, form)
        hub = Connection.from_environment(server_url, token_file)
        try:
            download = _ready(hub, body, timeout)
            target = output or Path(download.folder + (".tar.xz" if form is Format.ARCHIVE else ""))
            _check(target, form)
            if form is Format.ARCHIVE:
                fetched = [_fetch(hub, download, download.files[0], target)]
            else:
                fetched = _folder(hub, download, target)
        except KeyboardInterrupt:
            note("What the hub has prepared and what has come is kept: run the same command again to go on.")
            raise
        if as_json:
            show_json(_told(download, fetched))
            return
        size = sum(file.bytes for file in fetched)
        done = "wrote" if any(file.resumed_at < file.bytes for file in fetched) else "nothing to do, there already:"
        place = target if form is Format.ARCHIVE else f"{target}/"
        note(
            f"{done} {place} ({size:,} bytes): {download.dataset} version {download.version}, "
            f"content SHA-256 {download.content_hash[:12]} as {download.announced_by} announced it"
        )


def which(dataset: str) -> tuple[str, int | None]:
    """The data set and the version that ``NAME@2`` names; without a version there is none.

    Raises:
        InvalidRequest: it is not written so.
    """
    name, at, number = dataset.rpartition("@")
    if not at:
        return dataset, None
    if not name or not number.isdecimal() or not int(number):
        raise InvalidRequest(f"{dataset} is no data set with its version", hint="Write it as NAME@2.")
    return name, int(number)


def _check(target: Path, form: Format) -> None:
    """Refuse what could not be written before anything is asked for."""
    if not target.parent.is_dir():
        raise InvalidRequest(f"the folder {target.parent} does not exist")
    if form is Format.ARCHIVE and target.exists() and not target.is_file():
        raise InvalidRequest(f"{target} is no file", hint="Name a file with --output.")
    if form is not Format.ARCHIVE and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest(f"{target} is there already", hint="Name a new folder with --output.")


def _ready(hub: Connection, body: dict[str, Any], timeout: float) -> Download:
    """The download when its files are there; a hub that restarts meanwhile is asked again."""
    until = time.monotonic() + timeout
    download = Download.read(hub.post(DOWNLOADS, body))
    with waiting(f"the hub prepares {download.folder}"):
        while download.status in ("pending", "running"):
            left = until - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(
                    f"the hub has not prepared {download.folder} within {timeout:g} s",
                    hint="It goes on; run the same command again later.",
                )
            try:
                wait = {"wait": min(WAIT_SECONDS, left)}
                download = Download.read(hub.get(f"{DOWNLOADS}/{download.download_id}", params=wait))
            except NotFound:  # it restarted before this one was ready
                download = Download.read(hub.post(DOWNLOADS, body))
            except Unavailable:
                if left < AWAY_SECONDS:
                    raise
                time.sleep(AWAY_SECONDS)
    if download.status == "cancelled":
        raise Cancelled(f"the download of {download.folder} was cancelled", hint="Run the same command again.")
    if download.status == "failed":
        message, code, hint = download.error_message or "", download.error_code or "", download.error_hint or ""
        raise SynDBError.from_body(ErrorBody(error=message[:8192], code=code[:64], hint=hint[:4096]))
    return download


def _folder(hub: Connection, download: Download, target: Path) -> list[Fetched]:
    """Every file, in a folder that gets its name when all of them are there."""
    working = target.with_name(f".{target.name}.{download.download_id}.part")
    working.mkdir(exist_ok=True)
    for other in target.parent.glob(f".{glob.escape(target.name)}.{_ANY_ID}.part"):
        if other != working and other.is_dir():  # of a download that is not kept any more, or was for other tables
            shutil.rmtree(other, ignore_errors=True)
    fetched = [_fetch(hub, download, file, working / file.name) for file in download.files]
    working.replace(target)
    return [Fetched(target / file.path.name, file.bytes, file.sha256, file.resumed_at) for file in fetched]


def _fetch(hub: Connection, download: Download, file: AnnouncedFile, target: Path) -> Fetched:
    if target.is_file() and _sha256(target) == file.sha256:
        return Fetched(target, file.bytes, file.sha256, file.bytes)
    with bar(file.name) as progress:
        fetched = fetch(hub, f"{DOWNLOADS}/{download.download_id}/files/{file.name}", target, progress=progress)
    if fetched.sha256 != file.sha256:
        target.unlink()
        raise IncompleteResult(f"{file.name} is not what the hub prepared", hint="Run the same command again.")
    if fetched.resumed_at:
        note(f"{file.name}: went on after {fetched.resumed_at:,} bytes", "dim")
    return fetched


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(download: Download, fetched: list[Fetched]) -> dict[str, Any]:
    names = {"dataset", "dataset_id", "version", "content_hash", "announced_by", "format"}
    about = download.model_dump(mode="json", include=names)
    files = [
        {"path": str(each.path), "bytes": each.bytes, "sha256": each.sha256, "resumed_at": each.resumed_at}
        for each in fetched
    ]
    return {**about, "files": files}


@contextlib.contextmanager
def bar(name: str) -> Iterator[Progress]:
    """Bytes, rate and time left, on terminals only."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = Bars(*columns, TimeRemainingColumn(), console=notes, transient=True, disable=not notes.is_terminal)
    with shown:
        task = shown.add_task(plain(name), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
