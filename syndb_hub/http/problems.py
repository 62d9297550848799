"""One shape for every error a client sees, whichever layer noticed it."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syndb_common.errors import (
    ErrorBody,
    InvalidRequest,
    LimitExceeded,
    MethodNotAllowed,
    NotFound,
    SynDBError,
    TooManyRequests,
    Unauthenticated,
)

_log = structlog.get_logger(__name__)


class Problem(ErrorBody):
    """What went wrong: ``code`` is stable, ``hint`` says what to do; quote ``request_id`` in reports."""

    request_id: str = Field(default="", max_length=64)


def problem_response(
    error: SynDBError, scope: Scope, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The response for an error. ``scope`` is the request's; its id is repeated in the body."""
    request_id = scope.get("state", {}).get("request_id", "")
    body = Problem(**error.to_body().model_dump(), request_id=request_id)
    extra = dict(headers or {})
    if isinstance(error, Unauthenticated):
        extra["www-authenticate"] = 'Bearer realm="syndb"'
    if isinstance(error, TooManyRequests):
        extra.setdefault("retry-after", "1")
    return Response(body.model_dump_json(), status or error.http_status, extra, "application/json")


def invalid(error: ValidationError, where: str) -> InvalidRequest:
    """A validation error as one of ours: it names each field, and repeats no value, which may be a secret."""
    found = [
        {"field": ".".join(str(part) for part in (where, *item["loc"])), "problem": item["msg"]}
        for item in error.errors(include_input=False, include_url=False, include_context=False)[:20]
    ]
    text = "; ".join(f"{item['field']}: {item['problem']}" for item in found)
    return InvalidRequest(f"the request is not valid: {text}", hint="See /docs for the fields.", fields=found)


async def on_syndb_error(request: Request, error: Exception) -> Response:
    """Answer an error raised on purpose."""
    assert isinstance(error, SynDBError)
    return problem_response(error, request.scope)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router raises: no such path, or not this method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    known: dict[int, SynDBError] = {
        404: NotFound(f"there is nothing at {path[:200]}", hint="See /docs for all routes."),
        405: MethodNotAllowed(f"{request.method} is not possible at {path[:200]}", hint="See /docs for all routes."),
        413: LimitExceeded("the request body is too large"),
    }
    found = known.get(error.status_code) or InvalidRequest(str(error.detail))
    return problem_response(found, request.scope, status=error.status_code, headers=error.headers)


class UnexpectedErrors:
    """Innermost layer: whatever nobody foresaw is logged whole and answered without its traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            _log.exception("a request failed unexpectedly", path=scope.get("path"))
            if started:
                raise  # the connection ends without an end: the client sees that the answer is not whole
            error = SynDBError("something went wrong inside the hub", hint="Report it with the request_id.")
            await problem_response(error, scope)(scope, receive, send)
