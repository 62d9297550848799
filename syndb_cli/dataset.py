"""``syndb dataset``: files of rows into a node as a new version of a data set, and versions out of it for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID, uuid5

import typer

from syndb_cli.background import in_background
from syndb_cli.client import config_folder
from syndb_cli.downloading import which
from syndb_cli.options import DashedGroup
from syndb_cli.output import errors_as_lines, note, show_json, show_table
from syndb_common.errors import Cancelled, DataError, InvalidRequest

if TYPE_CHECKING:
    import pyarrow as pa

    from syndb_common.flight.uploader import Rows, UploadTarget
    from syndb_common.tables.versions import DatasetMetadata

app = typer.Typer(
    cls=DashedGroup,
    no_args_is_help=True,
    help="Put data sets into your node and delete them there; fetch any from a hub.",
)

Config = Annotated[
    Path | None, typer.Option("--config", help="The node's configuration file.", envvar="SYNDB_NODE_CONFIG")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("upload")
def upload_command(
    metadata: Annotated[Path, typer.Argument(help="JSON file that describes the data set: dataset, species, ...")],
    table: Annotated[
        list[str], typer.Option("--table", help="TABLE=FILE, Parquet (.parquet) or Arrow (.arrow). Repeatable.")
    ],
    dataset_id: Annotated[
        UUID | None, typer.Option("--dataset-id", help="Id instead of the one that follows from the name.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Publish files as the next version of a data set. Repeat the command to go on after an interruption."""
    with errors_as_lines(as_json=as_json):
        from syndb_cli.etl.commands import bars
        from syndb_common.flight.uploader import upload
        from syndb_common.tables.identity import dataset_id as named

        described, files = _described(metadata), _files(table)
        dataset = dataset_id or named(described.dataset)
        key = uuid5(dataset, _digest(described.model_dump_json(), files))
        rows = {name: _rows(name, path) for name, path in files.items()}
        try:
            with bars() as progress:
                target = _target(config)
                sending = partial(upload, target, described, dataset, rows, progress, key=key)
                result = in_background(sending, "upload").result()
        except KeyboardInterrupt:
            note("What was sent is kept for a day: repeat the command to go on.")
            raise
        facts = {"dataset": described.dataset, "dataset_id": str(dataset), **result.model_dump(mode="json")}
        if as_json:
            show_json(facts)
        else:
            fate = "there already" if result.unchanged else "published"
            show_table(("data set", "version", "", "id"), [(described.dataset, result.version, fate, dataset)])


@app.command("delete")
def delete_command(
    dataset: Annotated[
        str, typer.Argument(help="Name or id of the data set, all of it; NAME@2 is only its version 2.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Delete a version of a data set, or all of it, from your node. It cannot be undone; the node keeps a record."""
    with errors_as_lines(as_json=as_json):
        from syndb_common.flight.uploader import delete
        from syndb_common.tables.identity import dataset_id as named

        name, version = which(dataset)
        dataset_id = _id(name) or named(name)
        target = _target(config)
        what = f"version {version} of {name}" if version else f"all versions of {name}"
        if not yes:
            _ask(f"Delete {what} for ever?")
        deleted = in_background(partial(delete, target, dataset_id, version), "delete").result()
        if as_json:
            show_json({"dataset_id": str(dataset_id), "versions": list(deleted.versions)})
        else:
            note(f"deleted: version {', '.join(map(str, deleted.versions))}")


def _id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _ask(question: str) -> None:
    import sys

    if not sys.stdin.isatty():
        raise InvalidRequest("nobody can be asked here", hint="Give --yes if it shall be deleted.")
    if not typer.confirm(question, err=True):
        raise Cancelled("nothing was deleted")


def _target(config: Path | None) -> UploadTarget:
    from syndb_cli.etl.target import node_target
    from syndb_common.node_settings import NodeSettings
    from syndb_common.settings import load

    return node_target(load(NodeSettings, config or config_folder() / "node.toml"))


def _described(path: Path) -> DatasetMetadata:
    import json

    from pydantic import ValidationError

    from syndb_common.tables.versions import DatasetMetadata

    try:
        said = json.loads(path.read_bytes())
        unknown = set(said) - set(DatasetMetadata.model_fields)
        if unknown:
            raise DataError(f"{path}: unknown field {', '.join(sorted(unknown))[:200]}")
        return DatasetMetadata.model_validate(said)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a JSON object: {error}") from None


def _files(options: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for option in options:
        name, _, path = option.partition("=")
        if not path or name in files:
            raise InvalidRequest(f"--table {option} does not name one table and its file", hint="--table neurons=FILE")
        files[name] = Path(path)
    return files


def _digest(description: str, files: dict[str, Path]) -> str:
    """What is uploaded, as one text: the same only for the same content."""
    digest = hashlib.blake2b(description.encode())
    for name, path in sorted(files.items()):
        try:
            with path.open("rb") as file:
                digest.update(f"\0{name}\0".encode() + hashlib.file_digest(file, "blake2b").digest())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _ParquetRows:
    path: Path
    schema: pa.Schema
    num_rows: int

    def batches(self, first: int) -> Iterator[pa.RecordBatch]:
        """Read in order; what is stored already is read and left out."""
        import pyarrow.parquet as pq

        from syndb_common.flight.uploader import BATCH_ROWS

        with pq.ParquetFile(self.path) as file:
            yield from islice(file.iter_batches(BATCH_ROWS), first, None)


def _rows(name: str, path: Path) -> pa.Table | Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return _ParquetRows(path, file.schema_arrow, file.metadata.num_rows)
        if path.suffix in (".arrow", ".feather"):
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                return reader.read_all()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: cannot read {path}: {str(error)[:200]}") from None
    raise InvalidRequest(f"{path} is neither .parquet nor .arrow")
