"""``syndb federation``: to join a federation, to look after a node, and for the hub's operator to look after all."""

from __future__ import annotations

import typer

from syndb_cli.federation import clusters
from syndb_cli.federation.init import init
from syndb_cli.federation.node import check_connection, logout, status
from syndb_cli.federation.schema import benchmarks, sync_schema
from syndb_cli.options import DashedGroup

app = typer.Typer(
    cls=DashedGroup,
    no_args_is_help=True,
    help="Join a federation and look after a node; with an admin token, after all nodes of a hub.",
    epilog="A node: init, then syndb-node run, then status. When something fails: test. The hub: clusters.",
)
app.command()(init)
app.command()(status)
app.command("test")(check_connection)
app.add_typer(clusters.app, name="clusters")
app.command("sync-schema")(sync_schema)
app.command()(benchmarks)
app.command()(logout)
