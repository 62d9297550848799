"""``status``, ``test`` and ``logout``: what a node's operator asks of the node on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from syndb_cli.federation.options import AsJson, Config, Yes, default_config, settings_of
from syndb_cli.output import errors_as_lines, note, progress, quiet_logs, show_json, show_table
from syndb_common.asking import agreed
from syndb_common.engine import lock
from syndb_common.errors import SynDBError


def status(config: Config = None, as_json: AsJson = False) -> None:
    """Show this node's configuration, whether its daemon runs, how it stands with its hub, and what to do next."""
    from actors import hub_pins

    with errors_as_lines(as_json=as_json):
        settings = settings_of(config)
        federation = settings.federation
        pins = hub_pins.read(settings.data_dir)
        running = is_running(settings.data_dir)
        state = read_state(settings.data_dir)
        standing = how_it_stands(state, running=running)
        ours, hubs = state.get("schema_version"), state.get("hub_schema_version")
        shown = {
            "cluster": settings.cluster.name,
            "institution": settings.cluster.institution,
            "hub_peer_id": pins.current if pins else federation.hub_peer_id,
            "next_hub_peer_id": pins.successor if pins else "",
            "secret": "generated" if federation.password.get_secret_value().startswith("syndb1_") else "a password",
            "hub_multiaddrs": list(federation.hub_multiaddrs),
            "hub_url": federation.hub_url,
            "relays": list(federation.relays),
            "listen": list(federation.listen),
            "mdns": federation.enable_mdns,
            "dht": federation.enable_dht,
            "flight": settings.flight.advertise or f"localhost:{settings.flight.port}",
            "share": settings.policy.share.value,
            "data_dir": str(settings.data_dir),
            "schema_version": ours,
            "hub_schema_version": hubs,
            "schema": _compared(ours, hubs),
            **standing,
            "next": next_step(settings, standing, config or default_config()),
        }
        if as_json:
            show_json(shown)
        else:
            show_table(
                ["key", "value"], [[key, str(value)] for key, value in shown.items() if value not in ("", [], None)]
            )


def check_connection(config: Config = None, as_json: AsJson = False) -> None:
    """Test what this node needs, each for real: configuration, ways to the hub, the hub itself, its clock, the engine.

    One way to the hub is enough. The command fails (exit code 10) when something that is needed does not work.
    """
    import trio

    from syndb_cli.federation.connectivity import checks

    with errors_as_lines(as_json=as_json):
        quiet_logs()
        settings = settings_of(config)
        with progress("looking for the hub"):
            results = trio.run(checks, settings)
        if as_json:
            show_json([asdict(result) for result in results])
        else:
            show_table(
                ["test", "result", "ms", "cause"],
                [[r.name, r.result, round(r.milliseconds, 1) if r.passed else None, r.cause] for r in results],
            )
        if not all(result.passed for result in results if result.needed):
            raise typer.Exit(10)


def logout(config: Config = None, yes: Yes = False) -> None:
    """Remove this node's configuration. Its data and key stay."""
    with errors_as_lines():
        path = config or default_config()
        settings = settings_of(path)
        if not agreed(yes, f"Remove {path} ({settings.cluster.name})?"):
            raise typer.Exit(1)
        path.unlink()
        note(f"removed {path}; data and key stay in {settings.data_dir}")
        note("Stop the daemon too, and tell the hub's operator: the hub keeps the node's record.")


def how_it_stands(state: dict[str, Any], *, running: bool) -> dict[str, str]:
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


def next_step(settings: Any, standing: dict[str, str], config: Path) -> str:
    """What the operator does now; empty when the daemon's own hint says it."""
    from actors import node_state

    state = standing["state"]
    if state == "never started":
        return f"start it: syndb-node run --config {config}"
    if state == node_state.WAITING:
        return f"the hub's operator approves it: syndb federation clusters activate {settings.cluster.name}"
    if state == node_state.JOINED:
        return "nothing; import data with syndb etl or syndb dataset upload, see the nodes: syndb federation clusters"
    if state == node_state.REFUSED and not standing.get("hint"):
        return "see cause; then restart the daemon, or wait: it tries again by itself"
    if state == node_state.LOOKING:
        return f"if this lasts: syndb federation test --config {config}"
    return ""


def is_running(data_dir: Path) -> bool:
    """Whether a daemon works on this folder: its engine holds a lock there for as long as it lives."""
    from syndb_cli.etl.target import ENGINE_FOLDER

    try:
        return lock.is_held(data_dir / ENGINE_FOLDER)
    except OSError as error:
        raise SynDBError(f"cannot see whether the node runs: {error}") from error


def read_state(data_dir: Path) -> dict[str, Any]:
    """What the daemon noted last; empty when it has noted nothing."""
    from actors import node_state

    try:
        state = json.loads((data_dir / node_state.FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SynDBError(f"cannot read the node's state: {error}") from error
    return state if isinstance(state, dict) else {}


def _compared(ours: Any, hubs: Any) -> str:
    """How the node's schema compares with the hub's, and what to do about it; empty while one is not known."""
    if not isinstance(ours, int) or not isinstance(hubs, int):
        return ""
    if ours == hubs:
        return "as the hub's"
    return "behind the hub's: syndb federation sync-schema" if ours < hubs else "ahead of the hub's: update the hub"


def _age(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes = max(0, int(seconds)) // 60
    if minutes < 60:
        return f"{minutes} min {max(0, int(seconds)) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes // 1440} days"
