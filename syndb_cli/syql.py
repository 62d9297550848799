"""``syndb syql "..."``: ask a question, see the answer and where it comes from."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_cli.client import Connection
from syndb_cli.output import errors_as_lines, note, notes, plain, show_json, show_table
from syndb_common.errors import Cancelled, ErrorBody, SynDBError

FIRST_WAIT_SECONDS = 1.0
"""Most answers come within this time and save a round of asking; Ctrl-C can cancel a job once its id is known."""


class Format(enum.StrEnum):
    """How a result is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


def syql(
    query: Annotated[str, typer.Argument(help="The query, for instance: FROM synapses SELECT COUNT(*) SCOPE remote")],
    scope: Annotated[
        str | None, typer.Option(help="local, remote or federation; must agree with SCOPE in the text")
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", help="Form of the result.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show plan and SQL; execute nothing.")] = False,
    require_all: Annotated[bool, typer.Option("--require-all", help="Fail unless every node answers.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.1)] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Result and provenance as one JSON document.")] = False,
    server_url: Annotated[str | None, typer.Option(help="Address of the hub.", envvar="SYNDB_SERVER_URL")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File that holds the API token.")] = None,
) -> None:
    """Run a SyQL query at the hub and show the result."""
    with errors_as_lines(as_json=as_json):
        hub = Connection.from_environment(server_url, token_file)
        body: dict[str, Any] = {"query": query, **({"scope": scope} if scope else {})}
        if explain:
            _show_explanation(hub.post("/v1/syql/explain", body), as_json)
            return
        job = _run(hub, {**body, "require": "all" if require_all else "any"}, timeout)
        if as_json:
            result = hub.get(f"/v1/jobs/{job['job_id']}/result", params={"format": "json"})
            show_json({**result, "provenance": job["provenance"]})
            return
        _deliver(hub, job["job_id"], output_format, output)
        _show_provenance(job["provenance"])


def _run(hub: Connection, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    with _progress() as on_status:
        started = hub.post("/v1/syql/exec", {**body, "wait": FIRST_WAIT_SECONDS})
    try:
        with _progress() as on_status:
            job = hub.wait_for_job(started["job_id"], timeout, on_status)
    except KeyboardInterrupt:
        with contextlib.suppress(SynDBError):
            hub.post("/v1/syql/cancel", {"query_id": started["job_id"]}, seconds=5)
        raise
    if job["status"] == "cancelled":
        raise Cancelled(f"job {job['job_id']} was cancelled")
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
    content = hub.request("GET", f"/v1/jobs/{job_id}/result", params={"format": wanted.value}).content
    if output is not None:
        output.write_bytes(content)
        note(f"wrote {output} ({len(content):,} bytes)")
    else:
        typer.get_binary_stream("stdout").write(content)


def _show_provenance(provenance: dict[str, Any]) -> None:
    answered = [node["cluster"] for node in provenance["nodes"] if node["status"] == "answered"]
    versions = len(provenance["versions"])
    note(
        f"{provenance['rows']:,} rows from {versions} data set versions; answered: {', '.join(answered) or 'nobody'}; "
        f"{provenance['seconds']:.2f} s; plan {provenance['plan_hash'][:12]}",
        "dim",
    )
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
