"""``sync-schema`` and ``benchmarks``: the federation as a whole, over the hub's REST API."""

from __future__ import annotations

from typing import Annotated

import typer

from syndb_cli.client import Connection
from syndb_cli.federation.options import AsJson, ServerUrl, TokenFile, cluster_path
from syndb_cli.output import errors_as_lines, note, show_json, show_table

BENCHMARKS = "/v1/federation/benchmarks"
SUMMARY = (
    "query_type",
    "count",
    "successes",
    *(f"latency_ms_{what}" for what in ("mean", "p50", "p95", "p99", "max")),
    "rows",
    "bytes",
)


def sync_schema(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be applied.")] = False,
    documented_value: Annotated[str, typer.Argument(hidden=True)] = "true",
    node: Annotated[list[str] | None, typer.Option(help="Only this node, by name or id. Repeatable.")] = None,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have the hub push pending schema migrations to its active nodes. `--dry-run true` is understood too.

    Nodes get them by themselves when they join and when they come back; this is for whoever does not want to wait, or
    wants to see why it failed. Needs a token with the right `admin`.
    """
    with errors_as_lines(as_json=as_json):
        hub = Connection.from_environment(server_url, token_file)
        only_show = dry_run and documented_value.lower() != "false"
        body: dict[str, object] = {"dry_run": only_show}
        if node:
            body["cluster_ids"] = [cluster_path(hub, each).rsplit("/", 1)[1] for each in node]
        report = hub.post("/v1/federation/schema/sync", body)
        if as_json:
            show_json(report)
        else:
            show_table(
                ["cluster", "schema", "would apply" if only_show else "applied", "cause"],
                [
                    [r["cluster"], r["schema_version"], str(r["applied"] or "nothing"), r["cause"]]
                    for r in report["results"]
                ],
            )
        if any(result["cause"] for result in report["results"]):
            raise typer.Exit(10)


def benchmarks(
    query_type: Annotated[str | None, typer.Option(help="Only this type, for instance remote_single.")] = None,
    node: Annotated[str | None, typer.Option(help="Only of this node, by name or id.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this day or moment on: 2026-01-31.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the latest first.")] = 50,
    aggregate: Annotated[bool, typer.Option("--aggregate", help="Counts and latencies by query type.")] = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what queries cost: how long they took, what came back, and whether everybody answered."""
    with errors_as_lines(as_json=as_json):
        hub = Connection.from_environment(server_url, token_file)
        wanted: dict[str, object] = {"since": since}
        if not aggregate:
            wanted |= {"query_type": query_type, "limit": limit}
            if node:
                wanted["cluster_id"] = cluster_path(hub, node).rsplit("/", 1)[1]
        wanted = {name: value for name, value in wanted.items() if value is not None}
        found = hub.get(f"{BENCHMARKS}/aggregate" if aggregate else BENCHMARKS, params=wanted)
        if as_json:
            show_json(found)
        elif not found:
            note("nothing was measured yet: ask a query with the scope federation or remote")
        elif aggregate:
            show_table(
                ["query type", "count", "answered", "mean ms", "p50 ms", "p95 ms", "p99 ms", "max ms", "rows", "bytes"],
                [[each[key] for key in SUMMARY] for each in found],
            )
        else:
            show_table(
                ["at", "query type", "ms", "rows", "nodes", "bytes", "all answered"],
                [
                    [
                        each["at"][:19],
                        each["query_type"],
                        each["latency_ms"],
                        each["row_count"],
                        each["cluster_count"],
                        each["payload_bytes"],
                        "yes" if each["success"] else "no",
                    ]
                    for each in found
                ],
            )
