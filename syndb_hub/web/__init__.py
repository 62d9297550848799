"""The pages: static files that talk to the same API as everybody else. No framework, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

_REVALIDATE = {"cache-control": "no-cache"}


async def _index(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers=_REVALIDATE)


async def _docs(request: Request) -> Response:
    return FileResponse(STATIC / "docs.html", headers=_REVALIDATE)


class _Files(StaticFiles):
    """Files browsers may keep but have to ask about."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_REVALIDATE)
        return response


def routes() -> list[BaseRoute]:
    """``/``, ``/docs`` and the files they use."""
    return [Route("/", _index), Route("/docs", _docs), Mount("/static", _Files(directory=STATIC))]
