"""Backup and restore of a daemon with an embedded engine: its keys and files, and every published version.

Versions are saved as Arrow and not as ClickHouse's files, so that a backup can be restored by any later release and
its content hashes are computed anew on both ways. The daemon has to be stopped, since one process owns the engine's
folder. A restore builds everything beside its target and puts it in place by one rename.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from syndb_common.engine import archive, lock
from syndb_common.engine.archive import Manifest, Reader, StoredFile, StoredVersion, Writer
from syndb_common.engine.copying import Commit, Versions
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.owning import bring_tables, owned
from syndb_common.errors import Conflict, DataError, SynDBError
from syndb_common.settings import sync_folder

ENGINE = "engine"
"""Folder of the embedded engine below a daemon's data folder."""

RESERVE_BYTES = 64 * 1024**2
"""What an engine needs beside the rows. On a full disk it was seen to lose some without a word."""

Tell = Callable[[str], None]
"""Takes a line for the operator."""


@dataclass(frozen=True, slots=True)
class Home:
    """What belongs to one daemon.

    Attributes:
        kind: of daemon.
        name: of the node; empty for a hub.
        data_dir: folder of its files.
        config: its configuration file.
    """

    kind: Literal["node", "hub"]
    name: str
    data_dir: Path
    config: Path


def backup(home: Home, target: Path, tell: Tell) -> Path:
    """Save everything and return where: ``target``, or a new file in it when it is a folder.

    Raises:
        ConfigError: the daemon runs.
        Conflict: the file exists.
        IncompleteResult: a version does not have its content hash; nothing was saved.
    """
    path = target / _file_name(home) if target.is_dir() else target
    with owned(home.data_dir / ENGINE) as keeper, archive.create(path) as writer:
        held = Versions(keeper)
        stored = [_save_version(held, commit, writer, tell) for commit in held.published()]
        audit = held.audit()
        manifest = Manifest(
            kind=home.kind,
            name=home.name,
            software=version("syndb"),
            made_at=datetime.now(UTC),
            tables_version=held.schema_version(),
            audit=None if audit is None else writer.add_audit(audit),
            files=tuple(_save_files(home, writer)),
            versions=tuple(stored),
        )
        writer.finish(manifest)
    tell(f"{len(stored)} versions and {len(manifest.files)} files")
    return path


def _file_name(home: Home) -> str:
    return "-".join(filter(None, ("syndb", home.kind, home.name, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))) + ".tar"


def _save_version(held: Versions, commit: Commit, writer: Writer, tell: Tell) -> StoredVersion:
    held.verify(commit)
    tables = {}
    for table in commit.tables:
        with held.rows(commit, table) as rows:
            tables[table] = writer.add_table(commit, table, rows)
    tell(f"saved {commit}, {sum(commit.row_counts.values())} rows")
    return StoredVersion(commit=commit, tables=tables)


def _save_files(home: Home, writer: Writer) -> Iterator[StoredFile]:
    """The configuration, and all files but ClickHouse's own."""
    config = _config_name(home.kind)
    yield writer.add_file(home.config, config)
    clickhouse = home.data_dir / ENGINE / lock.FOLDER
    for folder, folders, names in os.walk(home.data_dir, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(folder, name) != clickhouse)
        for path in (Path(folder, name) for name in sorted(names)):
            name = path.relative_to(home.data_dir).as_posix()
            if path.is_file() and name != config:
                yield writer.add_file(path, name)


def _config_name(kind: str) -> str:
    return f"{kind}.toml"


def restore(path: Path, kind: Literal["node", "hub"], data_dir: Path, tell: Tell) -> Path:
    """Put everything back into ``data_dir`` and return the path of the configuration there.

    Killed at any moment, it leaves ``data_dir`` as it was or whole; what it had built so far goes with the next one.

    Raises:
        Conflict: there is something in ``data_dir``, or another user could change what is being built beside it.
        DataError: the archive is damaged, or another daemon's.
        SynDBError: there is too little room on the disk.
        IncompleteResult: what was restored does not have its content hash; ``data_dir`` is as it was.
    """
    data_dir = data_dir.resolve()
    with archive.read(path) as reader:
        manifest = reader.manifest
        if manifest.kind != kind:
            raise DataError(f"this is the backup of a {manifest.kind}", hint=f"use syndb-{manifest.kind}")
        tell(f"all checksums are right: {manifest.name or kind}, made {manifest.made_at:%Y-%m-%d %H:%M} UTC")
        data_dir.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_room(path, data_dir)
        with _building(data_dir) as building:
            _build(reader, building, tell)
            _put_in_place(building, data_dir)
    return data_dir / _config_name(kind)


def _check_room(archive_path: Path, data_dir: Path) -> None:
    """Tables take about the room of the archive, and as much again while ClickHouse merges their parts."""
    needed, free = 2 * archive_path.stat().st_size + RESERVE_BYTES, shutil.disk_usage(data_dir.parent).free
    if free < needed:
        raise SynDBError(
            f"too little room for {data_dir}: {needed // 10**6} MB are needed, {free // 10**6} are free",
            hint="make room on that disk, or restore into a folder on another one",
        )


@contextmanager
def _building(data_dir: Path) -> Iterator[Path]:
    """An empty folder beside ``data_dir``, ours alone; gone afterwards unless it was put in place."""
    _refuse_existing(data_dir)
    _refuse_others_place(data_dir)
    building = data_dir.with_name(f".{data_dir.name}.restoring")
    handle = _open_own(building)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another restore of {data_dir} is at work", hint="wait until it ends") from None
        _empty(building)  # of a restore that was cut short
        try:
            yield building
        finally:
            if building.exists():
                _empty(building)
                building.rmdir()
    finally:
        os.close(handle)


def _open_own(folder: Path) -> int:
    """Make a folder if there is none, and open it: what somebody else put there may lead anywhere."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        if os.fstat(handle).st_uid == os.geteuid():
            return handle
        os.close(handle)
    raise Conflict(f"{folder} is no folder of yours", hint="remove it, and do this again")


def _refuse_others_place(data_dir: Path) -> None:
    """Root builds only where nobody else can put another folder in the place of the one that is being built."""
    if os.geteuid() != 0:
        return
    for folder in data_dir.parents:
        state = folder.stat()
        shared = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not state.st_mode & stat.S_ISVTX
        if state.st_uid != 0 or shared:
            raise Conflict(
                f"root cannot restore safely below {folder}: others can change it",
                hint="restore as the user to whom it belongs, or into a folder of root's and move it then",
            )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _refuse_existing(data_dir: Path) -> None:
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise Conflict(f"{data_dir} is not empty", hint="restore into a new folder, or move that one away")


def _build(reader: Reader, building: Path, tell: Tell) -> None:
    manifest = reader.manifest
    for entry in manifest.files:
        reader.write_file(entry, building / entry.path)
    bring_tables(LocalEngine(building / ENGINE), manifest.tables_version)
    with owned(building / ENGINE) as keeper:
        versions = Versions(keeper)
        if (audit := reader.audit()) is not None:
            versions.put_audit(audit)
        for stored in manifest.versions:
            versions.put(stored.commit, lambda table, commit=stored.commit: reader.rows(commit, table))  # type: ignore[misc]
            tell(f"restored {stored.commit}, its content hash is right")


def _put_in_place(building: Path, data_dir: Path) -> None:
    _hand_over(building, data_dir)
    os.sync()  # everything is on the disk before its name is
    _refuse_existing(data_dir)
    try:
        building.rename(data_dir)
    except OSError as error:
        raise SynDBError(
            f"cannot put {data_dir} in place: {error.strerror}",
            hint="it must be a new or empty folder, and no mount point; restore into a folder below",
        ) from error
    sync_folder(data_dir.parent)


def _hand_over(building: Path, data_dir: Path) -> None:
    """What root restores belongs to whom the place belongs: a service without privileges has to read it."""
    if os.geteuid() != 0 or not data_dir.exists():
        return
    owner = data_dir.stat()
    for place, folders, names in os.walk(building):
        for name in (*folders, *names):
            os.chown(os.path.join(place, name), owner.st_uid, owner.st_gid, follow_symlinks=False)
    os.chown(building, owner.st_uid, owner.st_gid)  # the way in comes last
