"""``clusters``: the nodes as the hub sees them, and what its operator does to one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_cli.client import Connection
from syndb_cli.federation.options import CLUSTERS, AsJson, ServerUrl, TokenFile, Yes, cluster_path
from syndb_cli.options import DashedGroup
from syndb_cli.output import errors_as_lines, note, show_json, show_table
from syndb_common.asking import agreed
from syndb_common.errors import InvalidRequest

app = typer.Typer(
    cls=DashedGroup,
    invoke_without_command=True,
    help="List the nodes of the federation, or look after one of them. Changing needs a token with the right `admin`.",
)

Node = Annotated[str, typer.Argument(help="Name or id of the node.")]
TESTS = ("connectivity", "schema", "query")


@dataclass(frozen=True, slots=True)
class _Hub:
    """Options given before a sub-command; those behind it come first."""

    server_url: str | None
    token_file: Path | None
    as_json: bool


@app.callback()
def list_clusters(
    context: typer.Context, server_url: ServerUrl = None, token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """List the nodes with standing, health, cause, clock and data sets; with a sub-command, look after one of them."""
    context.obj = _Hub(server_url, token_file, as_json)
    if context.invoked_subcommand is not None:
        return
    with errors_as_lines(as_json=as_json):
        found = Connection.from_environment(server_url, token_file).get(CLUSTERS)
        if as_json:
            show_json(found)
            return
        if not found:
            note("no node yet: `syndb-hub invite` makes the line by which one joins")
            return
        show_table(
            [
                "cluster",
                "standing",
                "health",
                "since",
                "data sets",
                "rows",
                "schema",
                "way",
                "ms",
                "clock",
                "institution",
            ],
            [_row(node) for node in found],
        )
        for node in found:
            for trouble in _troubles(node):
                note(f"{node['name']}: {trouble}", "yellow")


@app.command()
def enter(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Unique name of the node.")],
    endpoint: Annotated[str, typer.Option(help="Host name or IP address; approved for the node.")] = "",
    port: Annotated[int, typer.Option(help="Port of its Flight server.", min=1, max=65535)] = 50052,
    institution: Annotated[str, typer.Option(help="Shown to users.")] = "",
    description: Annotated[str, typer.Option(help="Shown to users.")] = "",
    contact_email: Annotated[str, typer.Option(help="Of the node's operator.")] = "",
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Enter a node before it joins: its name is kept for it until it proves itself."""
    with errors_as_lines(as_json=_json(context, as_json)):
        body = {
            "name": name,
            "endpoint": endpoint,
            "port": port,
            "institution": institution,
            "description": description,
            "contact_email": contact_email,
        }
        entered = _hub(context, server_url, token_file).post(CLUSTERS, body)
        _changed(entered, _json(context, as_json))


@app.command()
def approve(
    context: typer.Context,
    node: Node,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a node take part that waits for approval. The same as `activate`."""
    _change(context, node, "POST", "activate", None, server_url, token_file, as_json)


@app.command()
def activate(
    context: typer.Context,
    node: Node,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a node take part that waits for approval or was deactivated."""
    _change(context, node, "POST", "activate", None, server_url, token_file, as_json)


@app.command()
def deactivate(
    context: typer.Context,
    node: Node,
    yes: Yes = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Exclude a node: it is asked nothing and its messages are refused, until it is activated again."""
    _confirm(yes, f"Exclude {node} from the federation?")
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        path = cluster_path(hub, node)
        hub.request("DELETE", path)
        _changed(hub.get(path), _json(context, as_json))


@app.command()
def forget(
    context: typer.Context,
    node: Node,
    yes: Yes = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove a node that takes no part, with its history. Its name is free then; a revoked key stays revoked."""
    _confirm(yes, f"Forget {node}, with all that the hub knows of it?")
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        forgotten = hub.post(f"{cluster_path(hub, node)}/forget", {})
        if _json(context, as_json):
            show_json(forgotten)
        else:
            note(f"{node} is forgotten")


@app.command()
def revoke_key(
    context: typer.Context,
    node: Node,
    cause: Annotated[str, typer.Option(help="Why; kept for whoever asks later.")] = "",
    yes: Yes = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Believe the node's present key never again, for instance because it was stolen.

    The name waits for another key, which you approve with `activate`; one that joins by an invitation made for this
    name needs no approval.
    """
    _confirm(yes, f"Revoke the key of {node}? It can never be believed again.")
    _change(context, node, "POST", "revoke-key", {"cause": cause}, server_url, token_file, as_json)


@app.command()
def approve_hosts(
    context: typer.Context,
    node: Node,
    hosts: Annotated[
        list[str] | None, typer.Argument(help="IP addresses, networks (10.0.0.0/8) or host names.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Approve no hosts any longer.")] = False,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Let the hub dial a node at these hosts, in place of those approved before.

    The address that the node's connection comes from needs no approval.
    """
    with errors_as_lines(as_json=_json(context, as_json)):
        if bool(hosts) is none:
            raise InvalidRequest("name hosts or give --none", hint="What is given replaces the hosts approved before.")
    _change(context, node, "PUT", "approved-hosts", {"hosts": hosts or []}, server_url, token_file, as_json)


@app.command()
def health(
    context: typer.Context,
    node: Node,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many changes.")] = 20,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show how a node is and how it was; nothing is sent to it."""
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        found = hub.get(f"{cluster_path(hub, node)}/health", params={"limit": limit})
        _show_health(found, _json(context, as_json))


@app.command()
def verify(
    context: typer.Context,
    node: Node,
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have the hub ping a node now, and show how it is. Ends with exit code 10 when queries cannot go there."""
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        found = hub.post(f"{cluster_path(hub, node)}/verify", {})
        _show_health(found, _json(context, as_json))
        if found["cluster"]["health"] not in ("healthy", "degraded"):
            raise typer.Exit(10)


@app.command("test")
def check_cluster(
    context: typer.Context,
    node: Node,
    only: Annotated[str, typer.Option(help="One test: connectivity, schema or query.")] = "",
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Test connectivity, schema and a query, in this order, from the hub. Ends with exit code 10 when one fails."""
    if only not in ("", *TESTS):
        raise typer.BadParameter(f"choose one of {', '.join(TESTS)}", param_hint="--only")
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        path = cluster_path(hub, node)
        found = [hub.post(f"{path}/test/{each}", {}) for each in TESTS if only in ("", each)]
        if _json(context, as_json):
            show_json(found)
        else:
            show_table(
                ["test", "result", "ms", "cause"],
                [
                    [
                        each["test"],
                        "pass" if each["passed"] else "FAIL",
                        each["latency_ms"],
                        each["cause"] or each["detail"],
                    ]
                    for each in found
                ],
            )
        if not all(each["passed"] for each in found):
            raise typer.Exit(10)


def _change(
    context: typer.Context,
    node: str,
    method: str,
    action: str,
    body: object,
    server_url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    with errors_as_lines(as_json=_json(context, as_json)):
        hub = _hub(context, server_url, token_file)
        changed = hub.request(method, f"{cluster_path(hub, node)}/{action}", json=body).json()
        _changed(changed, _json(context, as_json))


def _hub(context: typer.Context, server_url: str | None, token_file: Path | None) -> Connection:
    before: _Hub = context.obj
    return Connection.from_environment(server_url or before.server_url, token_file or before.token_file)


def _json(context: typer.Context, as_json: bool) -> bool:
    before: _Hub = context.obj
    return as_json or before.as_json


def _confirm(yes: bool, question: str) -> None:
    with errors_as_lines():
        if not agreed(yes, question):
            raise typer.Exit(1)


def _changed(node: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(node)
        return
    approved = f"; approved hosts: {', '.join(node['approved_hosts'])}" if node["approved_hosts"] else ""
    note(f"{node['name']} ({node['id']}) is {node['standing']}{approved}")


def _show_health(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    node = found["cluster"]
    note(f"{node['name']} is {_state(node)}" + (f" since {_at(node['health_since'])}" if node["health_since"] else ""))
    for trouble in _troubles(node):
        note(trouble, "yellow")
    show_table(
        ["at", "from", "to", "cause"],
        [[_at(each["at"]), each["from_state"], each["to_state"], each["cause"]] for each in found["transitions"]],
    )


def _row(node: dict[str, Any]) -> list[Any]:
    return [
        node["name"],
        node["standing"],
        node["health"] if node["standing"] == "active" else None,
        _at(node["health_since"]),
        len(node["datasets"]),
        sum(sum(dataset["row_counts"].values()) for dataset in node["datasets"]),
        _schema(node),
        node.get("delivery", ""),
        node["latency_ms"],
        None if node["clock_skew_ms"] is None else f"{node['clock_skew_ms'] / 1000:+.1f} s",
        node["institution"],
    ]


def _schema(node: dict[str, Any]) -> str:
    state = node["schema_state"]
    return f"{node['schema_version']} {state}" if state in ("behind", "ahead") else str(node["schema_version"])


def _state(node: dict[str, Any]) -> str:
    return str(node["health"] if node["standing"] == "active" else node["standing"])


def _troubles(node: dict[str, Any]) -> list[str]:
    """What somebody should look at, in the hub's words."""
    found = []
    if node["standing"] == "waiting" and node["peer_id"]:
        found.append(f"waits for approval: syndb federation clusters activate {node['name']}")
    elif _state(node) != "healthy" and node["health_cause"]:
        found.append(node["health_cause"])
    if node["refused_addresses"]:
        addresses = ", ".join(node["refused_addresses"])
        found.append(f"announces addresses that the hub does not dial: {addresses}")
    return found


def _at(moment: str | None) -> str | None:
    return None if moment is None else f"{moment[:10]} {moment[11:19]}"
