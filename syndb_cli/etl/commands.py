"""The commands ``syndb etl <dataset> {download,validate,import}``, the same for every source.

Sources are loaded when they are used: naming them all must not cost a start of the program anything.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from syndb_cli.client import config_folder
from syndb_cli.etl.source import Finding, Progress, Source
from syndb_cli.options import DashedGroup
from syndb_cli.output import errors_as_lines, note, notes, show_json, show_table
from syndb_common.errors import Cancelled, DataError, InvalidRequest, SynDBError


@dataclass(frozen=True, slots=True)
class Entry:
    """A source by name; ``stages`` is how many data sets ``--stage`` can choose from, 0 where there is one only."""

    key: str
    title: str
    module: str
    attribute: str
    stages: int = 0

    def load(self) -> Source:
        """The source itself."""
        source: Source = getattr(import_module(self.module), self.attribute)
        return source


CATALOG = (
    Entry(
        "c-elegans-herm",
        "C. elegans hermaphrodite, whole animal (Cook 2019)",
        "syndb_cli.etl.cook_2019",
        "HERMAPHRODITE",
    ),
    Entry("c-elegans-male", "C. elegans male, whole animal (Cook 2019)", "syndb_cli.etl.cook_2019", "MALE"),
    Entry(
        "c-elegans-dev",
        "C. elegans brains through development, eight stages (Witvliet 2020)",
        "syndb_cli.etl.witvliet_2020",
        "DEVELOPMENT",
        stages=8,
    ),
)

app = typer.Typer(cls=DashedGroup, no_args_is_help=True, help="Import published connectomes into your node.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def commands(entry: Entry) -> typer.Typer:
    """The three commands of one source."""
    group = typer.Typer(cls=DashedGroup, no_args_is_help=True, help=entry.title)
    folder = Path("external_datasets") / entry.key
    DataDir = Annotated[Path, typer.Option("--data-dir", help="Folder of the downloaded files.")]  # noqa: N806

    @group.command("download")
    def download_command(
        output_dir: Annotated[Path, typer.Option("--output-dir", help="Folder for the files.")] = folder,
        extract: Annotated[
            bool, typer.Option("--extract", help="Unpack archives. Always done: only the files needed are kept.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Fetch the files; those that are there already are not fetched again."""
        with errors_as_lines(as_json=as_json):
            fetch(entry.load(), output_dir, as_json=as_json)

    @group.command("validate")
    def validate_command(data_dir: DataDir = folder, as_json: AsJson = False) -> None:
        """Read the files and say what is wrong with them."""
        with errors_as_lines(as_json=as_json):
            check(entry.load(), data_dir, as_json=as_json)

    @group.command("import")
    def import_command(
        data_dir: DataDir = folder,
        config: Annotated[
            Path | None, typer.Option("--config", help="The node's configuration file.", envvar="SYNDB_NODE_CONFIG")
        ] = None,
        dataset_id: Annotated[
            UUID | None, typer.Option("--dataset-id", help="Id instead of the one that follows from the name.")
        ] = None,
        table: Annotated[list[str] | None, typer.Option("--table", help="Only this table. Repeatable.")] = None,
        tables: Annotated[str, typer.Option("--tables", help="Only these tables, separated by commas.")] = "",
        stage: Annotated[
            list[int] | None,
            typer.Option("--stage", help=f"Only this stage, 1 to {entry.stages}. Repeatable.", hidden=not entry.stages),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Publish the data sets in a node of this machine, each as its next version."""
        with errors_as_lines(as_json=as_json):
            source = entry.load()
            load_into_node(
                source,
                data_dir,
                config or config_folder() / "node.toml",
                datasets=chosen_stages(source, stage or []),
                tables=chosen_tables(source, [*(table or []), *filter(None, map(str.strip, tables.split(",")))]),
                dataset_id=dataset_id,
                as_json=as_json,
            )

    return group


for _entry in CATALOG:
    app.add_typer(commands(_entry), name=_entry.key)


def fetch(source: Source, folder: Path, *, as_json: bool) -> None:
    """Download the files of ``source`` and say what happened."""
    from syndb_cli.etl.download import download

    with bars() as progress:
        files = download(source.files, folder, progress)
    if as_json:
        show_json([{"file": str(d.path), "sha256": d.file.sha256, "fetched": d.fetched} for d in files])
    else:
        show_table(("file", ""), [(d.path, "fetched" if d.fetched else "there already") for d in files])


def check(source: Source, folder: Path, *, as_json: bool) -> None:
    """Validate the files of ``source``; leaves with the exit code of wrong data when they cannot be imported."""
    with bars() as progress:
        report = source.validate(folder, progress=progress)
    if as_json:
        findings = [{"level": f.level, "file": f.file, "message": f.message, "hint": f.hint} for f in report.findings]
        show_json({"ok": report.ok, "findings": findings, "rows": report.rows})
    else:
        show_findings(report.findings)
        if report.rows:
            show_table(("data set", *source.tables), [(name, *rows.values()) for name, rows in report.rows.items()])
    if not report.ok:
        raise typer.Exit(DataError.exit_code)


def load_into_node(
    source: Source,
    folder: Path,
    config: Path,
    *,
    datasets: list[str] | None,
    tables: list[str],
    dataset_id: UUID | None,
    as_json: bool,
) -> None:
    """Read, upload and publish one data set after the other."""
    from syndb_cli.etl.publish import publish
    from syndb_cli.etl.target import node_target
    from syndb_common.node_settings import NodeSettings
    from syndb_common.settings import load

    target = node_target(load(NodeSettings, config))
    imported: list[dict[str, Any]] = []
    try:
        with bars() as progress:
            for extract in source.extract(folder, datasets=datasets, dataset_id=dataset_id, progress=progress):
                show_findings(extract.warnings)
                result = publish(target, extract, tables, progress)
                facts = {"dataset": extract.metadata.dataset, "dataset_id": str(extract.dataset_id)}
                imported.append(facts | result.model_dump(mode="json"))
    except (SynDBError, KeyboardInterrupt) as error:
        if imported and not as_json:
            show_imported(imported, tables)  # what came before the error stays published
        if isinstance(error, KeyboardInterrupt):
            raise Cancelled("the import was stopped while reading; nothing more was published") from None
        raise
    if as_json:
        show_json(imported)
    else:
        show_imported(imported, tables)


def show_imported(imported: list[dict[str, Any]], tables: list[str]) -> None:
    """The data sets that can be queried now, with the rows of each table."""
    rows = [
        (
            facts["dataset"],
            facts["version"],
            *(facts["row_counts"].get(table, 0) for table in tables),
            "there already" if facts["unchanged"] else "published",
            facts["dataset_id"],
        )
        for facts in imported
    ]
    show_table(("data set", "version", *tables, "", "id"), rows)


def show_findings(findings: tuple[Finding, ...]) -> None:
    """Findings as lines on standard error, what to do about them once below."""
    for finding in findings:
        note(f"{finding.level}: {finding.message}")
    for hint in dict.fromkeys(finding.hint for finding in findings):
        note(f"  {hint}")


def chosen_stages(source: Source, stages: list[int]) -> list[str] | None:
    """Names of the data sets that ``--stage`` numbers, or None for all."""
    if not stages:
        return None
    names = source.datasets
    if len(names) == 1:
        raise InvalidRequest(f"{source.key} has no stages", hint="Leave --stage out.")
    if wrong := [stage for stage in stages if not 1 <= stage <= len(names)]:
        raise InvalidRequest(f"{source.key} has no stage {wrong[0]}", hint=f"Its stages are 1 to {len(names)}.")
    return [names[stage - 1] for stage in sorted(set(stages))]


def chosen_tables(source: Source, tables: list[str]) -> list[str]:
    """The tables named, or all of them."""
    if unknown := [table for table in tables if table not in source.tables]:
        raise InvalidRequest(f"{source.key} has no table {unknown[0]}", hint=f"It has {', '.join(source.tables)}.")
    return [table for table in source.tables if not tables or table in tables]


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A progress callback that draws on standard error; draws nothing where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=notes, transient=True, disable=not notes.is_terminal) as drawn:
        task = drawn.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            drawn.update(task, description=what, completed=done, total=total)

        yield progress
