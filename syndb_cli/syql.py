"""``syndb syql "..."``: ask a question, see the answer and where it comes from."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from syndb_cli.client import Connection
from syndb_cli.downloading import bar
from syndb_cli.fetching import fetch
from syndb_cli.options import ServerUrl, TokenFile
from syndb_cli.output import errors_as_lines, note, notes, plain, show_json, show_table
from syndb_common.errors import Cancelled, ErrorBody, InvalidRequest, SynDBError, Unavailable

FIRST_WAIT_SECONDS = 1.0
"""Most answers come within this time and save a round of asking; Ctrl-C can cancel a job once its id is known."""


class Format(enum.StrEnum):
    """How a result is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"
    ARCHIVE = "tar.xz"


def syql(
    query: Annotated[
        str | None, typer.Argument(help="The query, for instance: FROM synapses SELECT COUNT(*) SCOPE remote")
    ] = None,
    job_id: Annotated[
        UUID | None, typer.Option("--job", help="Get the result of this job, started earlier, in place of a query.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="local, remote or federation; must agree with SCOPE in the text")
    ] = None,
    output_format: Annotated[
        Format | None, typer.Option("--format", help="Form of the result; otherwise as the output file is called.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show plan and SQL; execute nothing.")] = False,
    require_all: Annotated[bool, typer.Option("--require-all", help="Fail unless every node answers.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.1)] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Result and provenance as one JSON document.")] = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Run a SyQL query at the hub and show the result."""
    with errors_as_lines(as_json=as_json):
        if (query is None) == (job_id is None) or (job_id is not None and (scope or explain or require_all)):
            raise InvalidRequest("give either a query with its options, or --job with the id of a job")
        if (as_json or explain) and (output is not None or output_format is not None):
            raise InvalidRequest("--json and --explain print; they go with neither --output nor --format")
        wanted = _form(output_format, output)
        hub = Connection.from_environment(server_url, token_file)
        body: dict[str, Any] = {"query": query, **({"scope": scope} if scope else {})}
        if explain:
            _show_explanation(hub.post("/v1/syql/explain", body), as_json)
            return
        if job_id is not None:
            job = _ended(hub, str(job_id), timeout)
        else:
            job = _run(hub, {**body, "require": "all" if require_all else "any"}, timeout)
        if as_json:
            result = hub.get(f"/v1/jobs/{job['job_id']}/result", params={"format": "json"})
            show_json({**result, "provenance": job["provenance"]})
            return
        _deliver(hub, job["job_id"], wanted, output)
        _show_provenance(job["provenance"])


def _form(wanted: Format | None, output: Path | None) -> Format:
    """The form of the result: as told, else as the file's name ends, else a table on the screen."""
    if output is None:
        return wanted or Format.TABLE
    if output.exists() and not output.is_file():
        raise InvalidRequest(f"{output} is no file")
    if not output.parent.is_dir():
        raise InvalidRequest(f"the folder {output.parent} does not exist")
    files: dict[str, Format] = {f".{form}": form for form in Format if form is not Format.TABLE}
    named = (form for ending, form in files.items() if output.name.lower().endswith(ending))
    found = wanted or next(named, Format.TABLE)
    if found is Format.TABLE:
        raise InvalidRequest(
            f"the format of {output} is not known", hint="Use --format, or a name that ends with " + ", ".join(files)
        )
    return found


def _run(hub: Connection, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    with _progress():
        job_id = hub.post("/v1/syql/exec", {**body, "wait": FIRST_WAIT_SECONDS})["job_id"]
    try:
        return _ended(hub, job_id, timeout)
    except KeyboardInterrupt:
        with contextlib.suppress(SynDBError):
            hub.post("/v1/syql/cancel", {"query_id": job_id}, seconds=5)
        raise


def _ended(hub: Connection, job_id: str, timeout: float) -> dict[str, Any]:
    """The job when it has completed; otherwise its error is raised."""
    with _progress() as on_status:
        job = hub.wait_for_job(job_id, timeout, on_status)
    if job["status"] == "cancelled":
        raise Cancelled(f"job {job_id} was cancelled")
    if job["status"] == "failed":
        body = {name: job[f"error_{name}"] for name in ("code", "hint", "details")}
        raise SynDBError.from_body(ErrorBody(error=job["error_message"], **body))
    return job


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner with the job's status, on terminals only."""
    if not notes.is_terminal:
        yield lambda _status: None
        return
    with notes.status("asking the hub") as status:
        yield lambda text: status.update(f"job {text}")


def _deliver(hub: Connection, job_id: str, wanted: Format, output: Path | None) -> None:
    if wanted is Format.TABLE:
        result = hub.get(f"/v1/jobs/{job_id}/result", params={"format": "json"})
        show_table([column["name"] for column in result["columns"]], result["rows"])
        return
    path, params = f"/v1/jobs/{job_id}/result", {"format": wanted.value}
    if output is None:
        for piece in hub.download(path, params=params):
            typer.get_binary_stream("stdout").write(piece)
        return
    try:
        with bar(output.name) as progress:
            fetched = fetch(hub, path, output, params=params, progress=progress)
    except Unavailable as error:
        error.hint = f"Then go on from there: syndb syql --job {job_id} --output {output} --format {wanted}"
        raise
    note(f"wrote {output} ({fetched.bytes:,} bytes)")


def _show_provenance(provenance: dict[str, Any]) -> None:
    answered = [node["cluster"] for node in provenance["nodes"] if node["status"] == "answered"]
    versions = len(provenance["versions"])
    note(
        f"{provenance['rows']:,} rows from {versions} data set versions; answered: {', '.join(answered) or 'nobody'}; "
        f"{provenance['seconds']:.2f} s; plan {provenance['plan_hash'][:12]}",
        "dim",
    )
    if provenance["scope"] == "local" and not provenance["versions"]:
        note("this hub holds no such data itself; add SCOPE federation to ask the nodes too", "yellow")
    for node in provenance["nodes"]:
        if node["status"] != "answered":
            note(f"missing: {node['cluster']} ({node['cause']})", "yellow")


def _show_explanation(explanation: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(explanation)
        return
    show_table(
        ["node", "asked", "reason"],
        [[t["cluster"], "yes" if t["included"] else "no", t["reason"]] for t in explanation["targets"]],
    )
    for name, sql in explanation["node_sql"].items():
        note(f"-- {name}", "dim")
        typer.echo(plain(sql))
    note("-- hub", "dim")
    typer.echo(plain(explanation["hub_sql"]))
    for advisory in explanation["advisories"]:
        note(f"note: {advisory}", "yellow")
