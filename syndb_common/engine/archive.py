"""A backup as one file: a tar archive whose last members are a manifest and the manifest's digest.

::

    files/...                           the daemon's own files, each with its mode
    versions/<data set>/<number>/<table>.arrow
    audit.arrow                         who published and deleted what
    manifest.json                       what is in it, with sizes and SHA-256
    manifest.sha256

It holds keys and passwords, so it is made with mode 0600. Any tar reads it, and any Arrow the tables.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from syndb_common.engine.copying import Commit, Rows
from syndb_common.errors import Conflict, DataError, SynDBError
from syndb_common.settings import sync_folder

_MANIFEST, _DIGEST, _AUDIT = "manifest.json", "manifest.sha256", "audit.arrow"
_MAX_MANIFEST_BYTES = 256 * 1024**2
_PIECE_BYTES = 1024**2

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Model):
    """One file of the archive: size in bytes and digest."""

    size: int = Field(ge=0)
    sha256: Sha256


class StoredFile(Member):
    """A file of the daemon, its path below the data folder."""

    path: str = Field(max_length=4096)
    mode: int = Field(ge=0, le=0o777)

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in value or str(path) != value:
            raise ValueError("leads out of the folder")
        return value


class StoredVersion(_Model):
    """A published version and its tables."""

    commit: Commit
    tables: dict[str, Member]


class Manifest(_Model):
    """What an archive holds.

    Attributes:
        kind: whose it is.
        name: of the node; empty for a hub.
        tables_version: number of the last migration of its tables.
        audit: None when nothing has been written down yet.
    """

    schema_version: Literal[1] = 1
    kind: Literal["node", "hub"]
    name: str
    software: str
    made_at: AwareDatetime
    tables_version: int = Field(ge=0)
    audit: Member | None
    files: tuple[StoredFile, ...]
    versions: tuple[StoredVersion, ...]


def _table_name(commit: Commit, table: str) -> str:
    return f"versions/{commit.dataset_id}/{commit.version}/{table}.arrow"


class _Sink(io.RawIOBase):
    """Where a member's bytes go: counted and hashed on their way."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        self._hash.update(data)
        self._file.write(data)
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    @property
    def member(self) -> Member:
        return Member(size=self.size, sha256=self._hash.hexdigest())


class Writer:
    """An archive that is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add_file(self, path: Path, name: str) -> StoredFile:
        """Add a file of the daemon under ``name``."""
        with path.open("rb") as file, self._member(f"files/{name}") as sink:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o777
            while piece := file.read(_PIECE_BYTES):
                sink.write(piece)
        return StoredFile(path=name, mode=mode, **sink.member.model_dump())

    def add_table(self, commit: Commit, table: str, rows: Rows) -> Member:
        """Add one table of a version, as a compressed Arrow stream."""
        return self._add_rows(_table_name(commit, table), rows)

    def add_audit(self, entries: pa.Table) -> Member:
        """Add the audit, in the same way."""
        return self._add_rows(_AUDIT, Rows(entries.schema, iter(entries.to_batches())))

    def _add_rows(self, name: str, rows: Rows) -> Member:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with (
            self._member(name) as sink,
            pa.ipc.new_stream(sink, rows.schema, options=options) as writer,
        ):
            for batch in rows.batches:
                writer.write_batch(batch)
        return sink.member

    def finish(self, manifest: Manifest) -> None:
        """Add the manifest and end the archive."""
        content = manifest.model_dump_json(indent=1).encode()
        with self._member(_MANIFEST) as sink:
            sink.write(content)
        with self._member(_DIGEST) as sink:
            sink.write(f"{hashlib.sha256(content).hexdigest()}  {_MANIFEST}\n".encode())
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))

    @contextmanager
    def _member(self, name: str) -> Iterator[_Sink]:
        """A member of a size that is known only when it has been written: its header is filled in afterwards."""
        start = self._file.tell()
        self._file.write(bytes(tarfile.BLOCKSIZE))
        sink = _Sink(self._file)
        yield sink
        self._file.write(bytes(-sink.size % tarfile.BLOCKSIZE))
        end = self._file.tell()
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = sink.size, 0o600, int(time.time())
        header = info.tobuf(tarfile.GNU_FORMAT)
        if len(header) != tarfile.BLOCKSIZE:
            raise DataError(f"the path of {name[-100:]} is too long for a backup", hint="move that file elsewhere")
        self._file.seek(start)
        self._file.write(header)
        self._file.seek(end)


@contextmanager
def create(path: Path) -> Iterator[Writer]:
    """Write an archive, mode 0600, that is at ``path`` when it is whole and not before.

    Raises:
        Conflict: there is a file of that name.
        SynDBError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            raise Conflict(f"{path} exists", hint="name another file; a backup never replaces one")
        draft.unlink(missing_ok=True)  # of a backup that was cut short
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w+b", buffering=_PIECE_BYTES) as file:
                yield Writer(file)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
            sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise SynDBError(
            f"cannot write {path}: {error.strerror}", hint="make room there, or name a place on another disk"
        ) from error


class Reader:
    """An archive whose every byte has been checked against its manifest."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar = tar
        self.manifest = manifest

    def write_file(self, entry: StoredFile, path: Path) -> None:
        """Write a file of the daemon with its mode, to a place where there is none."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target, self._open(f"files/{entry.path}") as source:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
            os.fchmod(target.fileno(), entry.mode)

    def rows(self, commit: Commit, table: str) -> AbstractContextManager[Rows]:
        """The rows of one table of a version."""
        return self._rows(_table_name(commit, table))

    def audit(self) -> pa.Table | None:
        """Who published and deleted what."""
        if self.manifest.audit is None:
            return None
        with self._rows(_AUDIT) as rows:
            return pa.Table.from_batches(rows.batches, rows.schema)

    @contextmanager
    def _rows(self, name: str) -> Iterator[Rows]:
        def checked(stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
            for batch in stream:
                batch.validate(full=True)
                yield batch

        try:
            with self._open(name) as file, pa.ipc.open_stream(file) as stream:
                yield Rows(stream.schema, checked(stream))
        except pa.ArrowException as error:
            raise DataError(f"{name} is not Arrow data: {str(error)[:200]}") from None

    def check(self) -> None:
        """Read everything once and compare it with the manifest.

        Raises:
            DataError: something is missing, or differs.
        """
        wanted: dict[str, Member] = {f"files/{entry.path}": entry for entry in self.manifest.files}
        if self.manifest.audit is not None:
            wanted[_AUDIT] = self.manifest.audit
        for version in self.manifest.versions:
            if set(version.tables) != set(version.commit.tables):
                raise _damaged(f"{version.commit} lacks tables")
            wanted |= {_table_name(version.commit, table): member for table, member in version.tables.items()}
        for name, member in wanted.items():
            digest = hashlib.sha256()
            with self._open(name) as file:
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
            if digest.hexdigest() != member.sha256:
                raise _damaged(f"{name} has another checksum than the manifest says")

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        yield _member(self._tar, name)


@contextmanager
def read(path: Path) -> Iterator[Reader]:
    """Open an archive and check all of it.

    Raises:
        DataError: it is no backup, of a newer layout, or damaged.
        SynDBError: it cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            with _member(tar, _MANIFEST) as file:
                content = file.read(_MAX_MANIFEST_BYTES + 1)
            with _member(tar, _DIGEST) as file:
                digest = file.read(64).decode("ascii", "replace")
            if hashlib.sha256(content).hexdigest() != digest:
                raise _damaged("its manifest has another checksum")
            reader = Reader(tar, _manifest(content))
            reader.check()
            yield reader
    except tarfile.TarError:
        raise _damaged("it is no tar archive") from None
    except OSError as error:
        raise SynDBError(f"cannot read or write: {error.strerror or error}") from error


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    with suppress(KeyError):
        member = tar.getmember(name)
        file = tar.extractfile(member) if member.isreg() else None
        if file is not None:
            return file
    raise _damaged(f"{name} is missing")


def _manifest(content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        if any(fault["loc"] == ("schema_version",) for fault in error.errors(include_input=False)):
            raise DataError(
                "this backup is of a layout that this release does not read",
                hint="use the release that made it, or a newer one",
            ) from None
        raise _damaged("its manifest cannot be read") from None


def _damaged(what: str) -> DataError:
    return DataError(f"this backup cannot be used: {what}", hint="take another one; nothing was restored")
