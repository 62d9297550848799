"""Queries that come by Flight: run as jobs of the daemon, their results offered in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pyarrow as pa
from pyarrow import flight
from pydantic import BaseModel, ConfigDict, Field, model_validator

from syndb_common.engine.offers import Offers
from syndb_common.errors import InvalidRequest
from syndb_common.flight import sql
from syndb_common.flight.access import ADMIN, ASK_SECONDS, QUERY, Caller
from syndb_common.flight.growing import Growing
from syndb_common.flight.requests import parse
from syndb_common.flight.stored import parts_of

RUN_SECONDS = 3600.0
"""How long a client may wait for a query. A longer one is submitted over HTTP and fetched by its ``job_id``; all of its
file is read and checked then, which waits as queries do."""

MAX_TEXT = 100_000
"""Characters of a query, as over HTTP."""


class Command(BaseModel):
    """A query to run, as POST /v1/syql/exec takes it, a table of a whole version, or a job that has completed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str | None = Field(None, min_length=1, max_length=MAX_TEXT)
    scope: Literal["local", "remote", "federation"] | None = None
    cluster_ids: tuple[UUID, ...] | None = Field(None, max_length=1000)
    require: Literal["any", "all"] = "any"
    live: bool = False
    dataset: str | None = Field(None, min_length=1, max_length=100)
    version: int | None = Field(None, ge=1, le=2**32 - 1)
    table: str | None = Field(None, min_length=1, max_length=100)
    job_id: UUID | None = None

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Command:
        if [self.query, self.dataset, self.job_id].count(None) != 2:
            raise ValueError("name either a query, a dataset or a job_id")
        if self.dataset is None and (self.version is not None or self.table is not None):
            raise ValueError("version and table go with a dataset")
        if self.query is None and self.live:
            raise ValueError("live goes with a query")
        return self


class Queries:
    """Runs queries for callers and offers what they return.

    Args:
        ask: asks the daemon.
        offers: where results wait.
    """

    def __init__(self, ask: Callable[..., dict[str, Any]], offers: Offers) -> None:
        self._ask = ask
        self._offers = offers

    def info(self, caller: Caller, descriptor: flight.FlightDescriptor, gone: Callable[[], bool]) -> flight.FlightInfo:
        """Where the result of a descriptor's command waits, in parts, once the query has run.

        Raises:
            Cancelled: ``gone``, that is the client left; the job is cancelled too.
            SynDBError: the query was refused or failed.
        """
        caller.require(QUERY)
        content = descriptor.command or b""
        command = sql.parse(content)
        if isinstance(command, sql.SqlInfo):
            return flight.FlightInfo(sql.SQL_INFO_SCHEMA, descriptor, [flight.FlightEndpoint(content, [])])
        if descriptor.path:
            asked = _named(descriptor.path)
        else:
            asked = Command(query=_bounded(command.text)) if command is not None else _command(content)
        if asked.live:
            return self._live(caller, asked, descriptor, gone)
        answer = self._run(caller, asked, gone)
        parts = parts_of(Path(answer["path"]))
        tickets = self._offers.make_all(parts, caller.digest)
        return flight.FlightInfo(
            parts[0].schema,
            descriptor,
            [flight.FlightEndpoint(ticket, []) for ticket in tickets],
            answer["rows"],
            answer["bytes"],
            True,
            json.dumps(answer["about"]).encode(),
        )

    def _live(
        self, caller: Caller, asked: Command, descriptor: flight.FlightDescriptor, gone: Callable[[], bool]
    ) -> flight.FlightInfo:
        """Where rows are handed out while they come: one endpoint, and nobody knows how many there will be."""
        rows = Growing(partial(self._ask, whose=caller.id), RUN_SECONDS, **_query(caller, asked))
        try:
            about = rows.begin(gone)
            [ticket] = self._offers.make_all([rows], caller.digest)
        except BaseException:
            rows.end()
            raise
        endpoint = flight.FlightEndpoint(ticket, [])
        return flight.FlightInfo(rows.schema, descriptor, [endpoint], -1, -1, True, json.dumps(about).encode())

    def status(self, caller: Caller, job_id: UUID) -> bytes:
        """How a job of the caller's is."""
        return self._job("status", caller, job_id)

    def cancel(self, caller: Caller, job_id: UUID) -> bytes:
        """Stop a job of the caller's."""
        return self._job("cancel", caller, job_id)

    def _run(self, caller: Caller, command: Command, gone: Callable[[], bool]) -> dict[str, Any]:
        ask = partial(self._ask, whose=caller.id, gone=gone)
        if command.job_id is not None:
            return ask("result", RUN_SECONDS, job_id=str(command.job_id), owner=_owner(caller))
        if command.dataset is not None:
            which = {"dataset": command.dataset, "version": command.version, "table": command.table}
            return ask("table", RUN_SECONDS, owner=caller.id, **which)
        return ask("run", RUN_SECONDS, **_query(caller, command), require=command.require)

    def _job(self, what: str, caller: Caller, job_id: UUID) -> bytes:
        caller.require(QUERY)
        return json.dumps(self._ask(what, ASK_SECONDS, job_id=str(job_id), owner=_owner(caller))).encode()


def sql_info(ticket: bytes) -> pa.Table | None:
    """The table that a ticket made of ``CommandGetSqlInfo`` asks for; None for every other ticket."""
    command = sql.parse(ticket)
    return command.table() if isinstance(command, sql.SqlInfo) else None


def _query(caller: Caller, command: Command) -> dict[str, Any]:
    """What the daemon is asked about a query to run."""
    clusters = None if command.cluster_ids is None else [str(each) for each in command.cluster_ids]
    return {"owner": caller.id, "query": command.query, "scope": command.scope, "cluster_ids": clusters}


def _owner(caller: Caller) -> str | None:
    """Whose jobs the caller may see; None for everybody's."""
    return None if caller.may(ADMIN) else caller.id


def _command(content: bytes) -> Command:
    """A command that is not of Flight SQL: JSON, or the text of a query."""
    if content.lstrip()[:1] == b"{":
        return parse(Command, content, max_bytes=8 * MAX_TEXT)
    return Command(query=_bounded(sql.text(content)))


def _named(path: list[bytes]) -> Command:
    """A path: a data set, or ``NAME@VERSION``, and one of its tables."""
    dataset, *table = [sql.text(part) for part in path]
    name, at, number = dataset.rpartition("@")
    which = {"dataset": name, "version": number} if at else {"dataset": dataset}
    if len(table) > 1:
        raise InvalidRequest("a path has a data set and a table", hint='for_path("NAME@2", "neurons")')
    return parse(Command, json.dumps({**which, **({"table": table[0]} if table else {})}).encode())


def _bounded(text: str) -> str:
    if not 1 <= len(text) <= MAX_TEXT:
        raise InvalidRequest(f"a query has 1 to {MAX_TEXT} characters", hint="write SyQL as the descriptor's command")
    return text
