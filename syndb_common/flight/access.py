"""Who may do what at a Flight server.

| credential | who has it | may |
|---|---|---|
| upload token | the owner, on the server's machine | upload, see and cancel what is under way |
| ticket | its reader (:mod:`syndb_common.engine.offers`) | read one range of one result |
| API token | users of a hub; the daemon knows them | what its scopes say: query, upload |
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from syndb_common.engine.asking import QUICK_SECONDS
from syndb_common.errors import Forbidden, Unauthenticated
from syndb_common.flight.calls import Call

ASK_SECONDS = QUICK_SECONDS
"""What looking up a token may take; it takes milliseconds."""

MAX_SEEN = 10_000
"""Tokens that are remembered to have been good; beyond it the one that was not used for longest is forgotten."""

QUERY, UPLOAD, ADMIN, EVERYTHING = "query", "upload", "admin", "*"
OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever presented a valid credential.

    Attributes:
        id: names the credential, without being one.
        rights: what it is good for.
        digest: SHA-256 of the secret; tickets are bound to it.
    """

    id: str
    rights: frozenset[str]
    digest: bytes

    def may(self, right: str) -> bool:
        """Whether this right, or every right, was given."""
        return bool(self.rights & {right, EVERYTHING})

    def require(self, right: str) -> None:
        """Nothing, or an error.

        Raises:
            Forbidden: the credential does not carry this right.
        """
        if not self.may(right):
            raise Forbidden(
                f"this token does not carry the scope {right!r}",
                hint=f"use one that does: --scope {right}",
                scope=right,
            )


class Access:
    """Finds out who calls. Thread-safe.

    Args:
        owner: SHA-256 of the owner's upload token.
        ask: asks the daemon; None where there are no users.
    """

    def __init__(self, owner: bytes, ask: Callable[..., dict[str, Any]] | None) -> None:
        self._owner = owner
        self._ask = ask
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def is_new(self, call: Call) -> bool:
        """Whether the daemon would be asked about a token that was not found good before."""
        with self._lock:
            return self._ask is not None and call.digest not in {b"", self._owner} and call.digest not in self._seen

    def caller(self, call: Call) -> Caller:
        """Who calls.

        Raises:
            Unauthenticated: the secret is none of ours.
        """
        if call.digest and hmac.compare_digest(call.digest, self._owner):
            return Caller(OWNER, frozenset({UPLOAD, ADMIN}), call.digest)
        if self._ask is None or not call.secret:
            raise Unauthenticated("a valid token is needed", hint="present it as a bearer token")
        try:
            found = self._ask("authenticate", ASK_SECONDS, secret=call.secret)
        except Unauthenticated:
            with self._lock:
                self._seen.pop(call.digest, None)
            raise
        with self._lock:
            self._seen[call.digest] = None
            self._seen.move_to_end(call.digest)
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
        return Caller(found["id"], frozenset(found["rights"]), call.digest)
