"""An engine with its Flight server, run in a thread so that the tests of a module can share it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from pyarrow import flight

from syndb_common.engine.asked import Answers
from syndb_common.engine.local import LocalEngine, upload_token
from syndb_common.flight.client import connect
from syndb_common.flight.settings import FlightLimits, FlightSettings
from syndb_common.tables import schema


class Served:
    """The engine, and what a client needs to know of it."""

    def __init__(self, folder: Path, engine: LocalEngine, token: trio.lowlevel.TrioToken) -> None:
        self.engine = engine
        self.location = engine.flight_location
        self.certificate = engine.flight_certificate
        self.owner = upload_token(folder)
        self._token = token

    def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a coroutine of the engine in its own loop."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def client(self) -> flight.FlightClient:
        """A plain Flight client that trusts the server."""
        return connect(self.location, self.certificate)

    def options(self, secret: str = "", seconds: float = 30) -> flight.FlightCallOptions:
        """Options of a call that presents a secret; the owner's by default."""
        headers = [(b"authorization", f"Bearer {secret or self.owner}".encode())]
        return flight.FlightCallOptions(timeout=seconds, headers=headers)


@contextmanager
def served(
    folder: Path,
    *,
    limits: FlightLimits | None = None,
    answers: Answers | None = None,
    results: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Iterator[Served]:
    """A running engine; it has ended when the block has."""
    settings = FlightSettings(
        "127.0.0.1",
        0,
        folder / "flight",
        limits=limits or FlightLimits(),
        results=results,
        certificate=certificate,
        key=key,
    )
    engine = LocalEngine(folder, flight=settings, asked=answers)
    started = threading.Event()
    found: list[Any] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            found.extend((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            try:
                await nursery.start(engine.run)
                await schema.apply(engine, schema.migrations())
            except BaseException as error:
                found.append(error)
                raise
            finally:
                started.set()

    def in_thread() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            found.append(error)
            started.set()

    thread = threading.Thread(target=in_thread)
    thread.start()
    started.wait(60)
    try:
        if len(found) != 2:
            raise found[-1]
        yield Served(folder, engine, found[0])
    finally:
        found[0].run_sync_soon(found[1].cancel)
        thread.join(30)
        assert not thread.is_alive()
