"""``syndb federation``: for node operators. Writes the node's configuration, shows how it stands, tests it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_cli.client import Connection, config_folder
from syndb_cli.options import DashedGroup
from syndb_cli.output import errors_as_lines, note, show_json, show_table
from syndb_common.engine import lock
from syndb_common.errors import Conflict, SynDBError
from syndb_common.settings import load, render, validate, write_private

app = typer.Typer(cls=DashedGroup, no_args_is_help=True, help="Join a federation and look after a node.")

Config = Annotated[
    Path | None, typer.Option("--config", help="The node's configuration file.", envvar="SYNDB_NODE_CONFIG")
]
ServerUrl = Annotated[str | None, typer.Option("--server-url", help="Address of the hub.", envvar="SYNDB_SERVER_URL")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File that holds the API token.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def default_config() -> Path:
    """Where ``init`` writes the node's configuration unless told otherwise."""
    return config_folder() / "node.toml"


@app.command()
def init(
    cluster_name: Annotated[str, typer.Option(help="Unique name of this node.", envvar="FEDERATION_CLUSTER_NAME")],
    hub_peer_id: Annotated[str, typer.Option(help="The hub's PeerId, from its operator (`syndb-hub id`).")],
    federation_password: Annotated[
        str,
        typer.Option(help="The federation password.", envvar="SYNDB_FEDERATION_PASSWORD", prompt=True, hide_input=True),
    ],
    institution: Annotated[str, typer.Option(help="Shown to users.")] = "",
    description: Annotated[str, typer.Option(help="Shown to users.")] = "",
    contact_email: Annotated[str, typer.Option(help="For the hub's operator.")] = "",
    hub_multiaddr: Annotated[
        list[str] | None, typer.Option(help="libp2p address of the hub; needed beyond the LAN. Repeatable.")
    ] = None,
    listen_addr: Annotated[list[str] | None, typer.Option(help="libp2p listen address. Repeatable.")] = None,
    flight_port: Annotated[int, typer.Option(help="Port of the Flight server.")] = 50052,
    flight_advertise: Annotated[str, typer.Option(help="host:port of it as the hub sees it.")] = "",
    share: Annotated[str, typer.Option(help="What leaves the node: none, count, aggregate or rows.")] = "aggregate",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the node's data.", envvar="SYNDB_DATA_DIR")] = None,
    config: Config = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a node's configuration and create its key."""
    from actors.remote.identity import Identity
    from syndb_common.node_settings import NodeSettings

    with errors_as_lines():
        path = config or default_config()
        if path.exists() and not force:
            raise Conflict(f"{path} exists", hint="Use --force to replace it, or --config for another file.")
        folder = (data_dir or path.parent / "node").absolute()
        federation: dict[str, Any] = {"password": federation_password.strip(), "hub_peer_id": hub_peer_id}
        if hub_multiaddr:
            federation["hub_multiaddrs"] = hub_multiaddr
        if listen_addr:
            federation["listen"] = listen_addr
        values = {
            "data_dir": str(folder),
            "cluster": {
                "name": cluster_name,
                "institution": institution,
                "description": description,
                "contact_email": contact_email,
            },
            "federation": federation,
            "flight": {"port": flight_port, **({"advertise": flight_advertise} if flight_advertise else {})},
            "policy": {"share": share},
        }
        validate(NodeSettings, values, "the configuration")
        identity = Identity.load_or_create(folder / "identity.key")
        write_private(path, render(NodeSettings, values))
        note(f"wrote {path}; this node is {identity.peer_id}")
        note(f"start it with: syndb-node run --config {path}")


@app.command()
def status(config: Config = None, as_json: AsJson = False) -> None:
    """Show this node's configuration, whether its daemon runs and how it stands with its hub."""
    with errors_as_lines(as_json=as_json):
        settings = _settings(config)
        state = _state(settings.data_dir)
        shown = {
            "cluster": settings.cluster.name,
            "institution": settings.cluster.institution,
            "hub_peer_id": settings.federation.hub_peer_id,
            "hub_multiaddrs": list(settings.federation.hub_multiaddrs),
            "listen": list(settings.federation.listen),
            "mdns": settings.federation.enable_mdns,
            "flight": settings.flight.advertise or f"localhost:{settings.flight.port}",
            "share": settings.policy.share.value,
            "data_dir": str(settings.data_dir),
            **_standing(state, running=_is_running(settings.data_dir)),
        }
        if as_json:
            show_json(shown)
        else:
            show_table(["key", "value"], [[key, str(value)] for key, value in shown.items() if value not in ("", [])])


@app.command("test")
def check_connection(config: Config = None, as_json: AsJson = False) -> None:
    """Test what this node needs: its configuration, the hub's addresses, the engine's folder."""
    import trio

    from syndb_cli.connectivity import checks

    with errors_as_lines(as_json=as_json):
        results = trio.run(checks, _settings(config))
        if as_json:
            show_json([asdict(result) for result in results])
        else:
            show_table(
                ["test", "result", "ms", "cause"],
                [[r.name, "pass" if r.passed else "FAIL", round(r.milliseconds, 1), r.cause] for r in results],
            )
        if not all(result.passed for result in results):
            raise typer.Exit(10)


@app.command()
def clusters(server_url: ServerUrl = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List the nodes of the federation with health and data sets."""
    with errors_as_lines(as_json=as_json):
        found = Connection.from_environment(server_url, token_file).get("/v1/federation/clusters")
        if as_json:
            show_json(found)
            return
        show_table(
            ["cluster", "health", "data sets", "rows", "schema", "ms", "institution"],
            [
                [
                    node["name"],
                    node["health"] if node["is_active"] else "inactive",
                    len(node["datasets"]),
                    sum(sum(dataset["row_counts"].values()) for dataset in node["datasets"]),
                    node["schema_version"],
                    node["latency_ms"],
                    node["institution"],
                ]
                for node in found
            ],
        )
        for node in found:
            if node["health"] not in ("healthy",) and node["health_cause"]:
                note(f"{node['name']}: {node['health_cause']}", "yellow")


@app.command("sync-schema")
def sync_schema(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be applied.")] = False,
    documented_value: Annotated[str, typer.Argument(hidden=True)] = "true",
    server_url: ServerUrl = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Have the hub push pending schema migrations to all its nodes. `--dry-run true` is understood too."""
    with errors_as_lines(as_json=as_json):
        hub = Connection.from_environment(server_url, token_file)
        report = hub.post("/v1/federation/schema/sync", {"dry_run": dry_run and documented_value.lower() != "false"})
        if as_json:
            show_json(report)
            return
        show_table(
            ["cluster", "schema", "would apply" if dry_run else "applied", "cause"],
            [
                [r["cluster"], r["schema_version"], str(r["applied"] or "nothing"), r["cause"]]
                for r in report["results"]
            ],
        )


@app.command()
def logout(config: Config = None, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Remove this node's configuration. Its data and key stay."""
    with errors_as_lines():
        path = config or default_config()
        settings = _settings(path)
        if not yes and not typer.confirm(f"Remove {path} ({settings.cluster.name})?"):
            raise typer.Exit(1)
        path.unlink()
        note(f"removed {path}; data and key stay in {settings.data_dir}")
        note("Stop the daemon too, and tell the hub's operator: the hub keeps the node's record.")


def _settings(config: Path | None) -> Any:
    from syndb_common.node_settings import NodeSettings

    return load(NodeSettings, config or default_config())


def _standing(state: dict[str, Any], *, running: bool) -> dict[str, str]:
    """How the daemon stands with its hub, from what it noted last; a note outlives the daemon that wrote it."""
    if not state:
        return {"state": "starting" if running else "never started"}
    noted, cause, hint = (str(state.get(key, "")) for key in ("state", "cause", "hint"))
    if not running:
        cause = f"the daemon has ended; the last it said was {noted}" + (f": {cause}" if cause else "")
        noted, hint = "not running", hint or "Start it: syndb-node run"
    at = float(state.get("at", 0))
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    return {"state": noted, "cause": cause, "hint": hint, "since": since, "age": _age(time.time() - at)}


def _age(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes = max(0, int(seconds)) // 60
    if minutes < 60:
        return f"{minutes} min {max(0, int(seconds)) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def _is_running(data_dir: Path) -> bool:
    """Whether a daemon works on this folder: its engine holds a lock there for as long as it lives."""
    from syndb_cli.etl.target import ENGINE_FOLDER

    try:
        return lock.is_held(data_dir / ENGINE_FOLDER)
    except OSError as error:
        raise SynDBError(f"cannot see whether the node runs: {error}") from error


def _state(data_dir: Path) -> dict[str, Any]:
    try:
        state = json.loads((data_dir / "federation-state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SynDBError(f"cannot read the node's state: {error}") from error
    return state if isinstance(state, dict) else {}
