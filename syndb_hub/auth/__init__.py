"""Who may do what: API tokens, made on the hub's machine and shown once, and the principal each stands for."""

from __future__ import annotations

from syndb_hub.auth.principal import Principal, Right
from syndb_hub.auth.tokens import IssuedToken, TokenService

__all__ = ["IssuedToken", "Principal", "Right", "TokenService"]
