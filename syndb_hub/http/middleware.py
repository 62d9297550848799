"""The layers every request passes, outermost first, each pure ASGI.

| layer | what it does |
|---|---|
| RequestId | gives the request an id, or takes the client's, and returns it |
| AccessLog | one log line per request |
| FixedHeaders | ``api-version`` and the headers that keep browsers safe |
| RateLimit | token bucket per client address, 429 |
| Timeout | 408 when the answer has not begun in time |
| BodyLimit | 413 for too large a body |
"""

from __future__ import annotations

import ipaddress
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from uuid import UUID

import structlog
import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from syndb_common import tracing
from syndb_common.clients import rate_key
from syndb_common.errors import ConfigError, LimitExceeded, RequestTimeout, TooManyRequests
from syndb_common.metrics import HTTP_SECONDS
from syndb_hub.http.problems import problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger("syndb_hub.http.access")


def uuid7() -> UUID:
    """A UUID of version 7 (RFC 9562): sorts by time, so that log lines of one moment stand together."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value &= ~(0xF << 76) & ~(0x3 << 62)
    return UUID(int=value | 0x7 << 76 | 0x2 << 62)


class RequestId:
    """Names the request in ``scope["state"]["request_id"]``, in ``X-Request-ID`` of the answer, and as the work that
    everything done for it belongs to (:mod:`syndb_common.tracing`)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid7())
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        work = tracing.Work(request_id, tracing.traceparent(Headers(scope=scope).get("traceparent", "")))
        with tracing.doing(work), tracing.span(f"HTTP {scope['method']}"):
            await self.app(scope, receive, named)


class AccessLog:
    """Logs and counts method, path, status and time; never headers, query strings or bodies, where secrets may be."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 0
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - began
            # Set by the operation; everything else is a page or a file of one.
            operation = scope.get("state", {}).get("operation", "page")
            HTTP_SECONDS.labels(operation, str(status)).observe(seconds)
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"][:500],
                status=status,
                seconds=round(seconds, 4),
                client=scope["client"][0] if scope.get("client") else None,
            )


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Pages load nothing but our own files and run no inline script; ``data:`` images are Swagger UI's icons."""

_FIXED_HEADERS = {
    "api-version": "v1",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class FixedHeaders:
    """Adds the headers every answer has. Answers are not cached unless the route says otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _FIXED_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


MAX_CLIENTS = 10_000
"""Addresses the rate limiter remembers; beyond it the one that was silent longest is forgotten."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RateLimit:
    """Token bucket per client address, which is left in ``scope["state"]["client"]``. ``clock`` gives seconds and is
    replaceable in tests."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        per_second: float,
        burst: int,
        trusted_proxies: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        try:
            self._trusted: tuple[Network, ...] = tuple(ipaddress.ip_network(each) for each in trusted_proxies)
        except ValueError as error:
            raise ConfigError(
                f"http.trusted_proxies: {error}", hint="Write addresses or networks: 10.0.0.0/8"
            ) from error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            client = self.client(scope)
            scope.setdefault("state", {})["client"] = client
            wait = self.take(rate_key(client))
            if wait > 0:
                error = TooManyRequests("too many requests from your address", hint="Wait as Retry-After says.")
                headers = {"retry-after": str(math.ceil(wait))}
                await problem_response(error, scope, headers=headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def take(self, client: str) -> float:
        """Spend one token; 0.0, or the seconds until there is one."""
        now = self._clock()
        tokens, then = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - then) * self._per_second)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second

    def client(self, scope: Scope) -> str:
        """Who counts as the sender: the nearest address that is none of our proxies."""
        peer = scope["client"][0] if scope.get("client") else ""
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
        for hop in reversed([*forwarded[-10:], peer]):
            try:
                address = ipaddress.ip_address(hop.strip())
            except ValueError:
                break
            peer = str(address)
            if not any(address in network for network in self._trusted):
                break
        return peer


class Timeout:
    """Answers 408 when no answer has begun in time. A download may take longer; a reader that stalls is dropped
    by the socket's own timeout (see :mod:`syndb_common.http_server`)."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with trio.move_on_after(self._seconds) as deadline:

            async def started(message: Message) -> None:
                deadline.deadline = math.inf
                await send(message)

            await self.app(scope, receive, started)
        if deadline.cancelled_caught:
            error = RequestTimeout(
                f"the request took longer than {self._seconds:g} s",
                hint="Submit long queries with POST /v1/syql/exec and fetch the result when the job has completed.",
            )
            await problem_response(error, scope, headers={"connection": "close"})(scope, receive, send)


DISCARD_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away.

Closing a connection on a client that is still sending resets it, and the client never sees why it was refused.
"""


class BodyLimit:
    """Refuses bodies beyond a size, by their declared length and by what really arrives."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received, ended = 0, False

        async def read() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def counted() -> Message:
            nonlocal received
            message = await read()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._error()
            return message

        async def after_the_body(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                with trio.move_on_after(DISCARD_SECONDS):
                    while not ended:
                        await read()
            await send(message)

        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdigit() and len(declared) < 20 and int(declared) > self._max_bytes:
            await problem_response(self._error(), scope)(scope, counted, after_the_body)
        else:
            await self.app(scope, counted, after_the_body)

    def _error(self) -> LimitExceeded:
        return LimitExceeded(f"the request body is larger than {self._max_bytes:,} bytes", limit=self._max_bytes)
