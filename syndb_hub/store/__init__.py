"""The hub's memory: tokens, jobs, nodes and the history of their health, in one relational database.

SQLAlchemy Core keeps the queries the same on SQLite (default) and PostgreSQL; one small repository per noun
holds them. Every call is one short transaction in a thread of its own.
"""

from __future__ import annotations

from syndb_hub.store.database import Store

__all__ = ["Store"]
