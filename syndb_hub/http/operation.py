"""Typed operations: a coroutine whose annotations say what it takes and gives.

::

    @operations.get("/v1/jobs/{job_id}", right=Right.QUERY)
    async def get_job(call: Call, path: JobPath) -> JobView:
        '''Status of a job.'''

``path``, ``query`` and ``body`` are pydantic models; whichever the coroutine names is read from the request and
validated. It returns a pydantic model, sent as JSON, or a response of its own. Routes and the OpenAPI document
are both made from the same operations, so neither can forget one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import trio
from opentelemetry import trace
from pydantic import BaseModel, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from syndb_common.errors import LimitExceeded, Unauthenticated
from syndb_hub.auth.principal import Principal, Right
from syndb_hub.http.problems import invalid
from syndb_hub.http.services import Services

JSON_BYTES = 1024 * 1024
"""Largest JSON body of an operation; parsing more at once would hold up everybody else."""

Handler = Callable[..., Awaitable[BaseModel | Response]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an operation."""

    request: Request
    services: Services
    caller: Principal | None

    @property
    def principal(self) -> Principal:
        """Who asks; only operations without a right may be called by nobody."""
        assert self.caller is not None
        return self.caller

    @property
    def owner(self) -> str | None:
        """Whose things the caller may see: their own, or with the right ``admin`` everybody's (None)."""
        return None if self.principal.may(Right.ADMIN) else self.principal.token_id


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    Attributes:
        right: what the caller's token must carry; None for everybody.
        produces: media types of the answer when it is not JSON.
        later: what 202 means, where that may be the answer.
        body_bytes: largest body; strangers should be given little room.
    """

    method: str
    path: str
    handler: Handler
    right: Right | None
    tag: str
    produces: tuple[str, ...]
    later: str
    body_bytes: int
    parameters: dict[str, type[BaseModel]]
    returns: type[BaseModel] | None

    @property
    def name(self) -> str:
        """The operation's id, which client generators use as function name."""
        return self.handler.__name__

    def route(self) -> Route:
        """The route that reads, checks and answers requests."""
        return Route(self.path, self._answer, methods=[self.method], name=self.name)

    async def _answer(self, request: Request) -> Response:
        services: Services = request.app.state.services
        request.scope.setdefault("state", {})["operation"] = self.name
        trace.get_current_span().update_name(f"{self.method} {self.path}")
        caller = None
        if self.right is not None:
            caller = await _authenticate(request, services)
            caller.require(self.right)
        arguments: dict[str, BaseModel] = {}
        for where, model in self.parameters.items():
            try:
                arguments[where] = await _READERS[where](request, model, self.body_bytes)
            except ValidationError as error:
                raise invalid(error, where) from None
        result = await self.handler(Call(request, services, caller), **arguments)
        if isinstance(result, Response):
            return result
        return Response(await _json(result), media_type="application/json")


async def _json(result: BaseModel) -> str:
    """An answer as text; a long list piece by piece, since nothing else happens while a piece is written."""
    if not isinstance(result, RootModel) or not isinstance(result.root, list):
        return result.model_dump_json()
    pieces = []
    for each in result.root:
        pieces.append(each.model_dump_json())
        await trio.lowlevel.checkpoint()
    return f"[{','.join(pieces)}]"


class Operations:
    """A collection of operations under one tag."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.all: list[Operation] = []

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare ``GET path``; options are those of :meth:`add`."""
        return self.add("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare ``POST path``; options are those of :meth:`add`."""
        return self.add("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare ``PUT path``; options are those of :meth:`add`."""
        return self.add("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        """Declare ``DELETE path``; options are those of :meth:`add`."""
        return self.add("DELETE", path, **options)

    def add(
        self,
        method: str,
        path: str,
        *,
        right: Right | None,
        produces: tuple[str, ...] = (),
        later: str = "",
        body_bytes: int = JSON_BYTES,
    ) -> Callable[[Handler], Handler]:
        """Declare an operation; see the module for what its coroutine looks like."""

        def declare(handler: Handler) -> Handler:
            hints = get_type_hints(handler)
            returned = hints.pop("return")
            parameters = {where: hints[where] for where in _READERS if where in hints}
            returns = returned if issubclass(returned, BaseModel) else None
            self.all.append(
                Operation(method, path, handler, right, self.tag, produces, later, body_bytes, parameters, returns)
            )
            return handler

        return declare


async def _authenticate(request: Request, services: Services) -> Principal:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(
            "this needs an API token",
            hint="Send `Authorization: Bearer TOKEN`; make one: syndb-hub token create --name NAME.",
        )
    return await services.tokens.verify(token.strip())


async def _read_path(request: Request, model: type[BaseModel], limit: int) -> BaseModel:
    return model.model_validate(request.path_params)


async def _read_query(request: Request, model: type[BaseModel], limit: int) -> BaseModel:
    return model.model_validate(dict(request.query_params))


async def _read_body(request: Request, model: type[BaseModel], limit: int) -> BaseModel:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise LimitExceeded(f"a JSON body may have at most {limit:,} bytes", limit=limit)
    return model.model_validate_json(body)


_READERS = {"path": _read_path, "query": _read_query, "body": _read_body}
