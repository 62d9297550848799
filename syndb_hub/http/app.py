"""The application: every route, the pages, and the layers around them."""

from __future__ import annotations

import json

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from syndb_common.errors import SynDBError
from syndb_hub import web
from syndb_hub.http import middleware, openapi, problems
from syndb_hub.http.routes import OPERATIONS
from syndb_hub.http.services import Services


def create_app(services: Services) -> Starlette:
    """The hub's ASGI application over these services."""
    settings = services.settings
    description = json.dumps(openapi.document(OPERATIONS, version=services.version)).encode()

    async def openapi_json(request: Request) -> Response:
        return Response(description, media_type="application/json")

    app = Starlette(
        routes=[
            *(operation.route() for operation in OPERATIONS),
            Route("/openapi.json", openapi_json),
            *web.routes(),
        ],
        middleware=[
            Middleware(middleware.RequestId),
            Middleware(middleware.AccessLog),
            Middleware(middleware.FixedHeaders),
            Middleware(
                middleware.RateLimit,
                per_second=settings.rate_limit_per_second,
                burst=settings.rate_limit_burst,
                trusted_proxies=settings.trusted_proxies,
            ),
            Middleware(middleware.Timeout, seconds=settings.request_timeout_seconds),
            Middleware(problems.UnexpectedErrors),
            Middleware(middleware.BodyLimit, max_bytes=settings.max_body_bytes),
        ],
        exception_handlers={SynDBError: problems.on_syndb_error, HTTPException: problems.on_http_exception},
    )
    app.state.services = services
    return app
