"""The hub over HTTP: typed operations, the OpenAPI document made from them, and the layers every request passes."""

from __future__ import annotations

from syndb_hub.http.app import create_app
from syndb_hub.http.server import serve
from syndb_hub.http.services import Services

__all__ = ["Services", "create_app", "serve"]
