"""What a Flight call brings along in its headers: the secret of whoever calls.

``authorization: Bearer SECRET`` comes with every call. Clients that know only names and passwords send ``Basic`` at the
handshake, with the secret as the password, and are handed back what to present from then on; that is no proof of
anything, each call is checked for itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyarrow import flight

if TYPE_CHECKING:
    from syndb_common.flight.access import Caller
    from syndb_common.flight.streams import Stream

MAX_SECRET = 4096
"""Characters of a credential; ours have less than a hundred."""

MIDDLEWARE = "call"


class Call(flight.ServerMiddleware):  # type: ignore[misc]
    """One call: the secret it came with, and what has to be done when it is over.

    Attributes:
        caller: whose it is, where that was found out before its first message.
        stream: it has one already.
    """

    def __init__(self, secret: str, answer: dict[str, str]) -> None:
        super().__init__()
        self.secret = secret
        self.digest = hashlib.sha256(secret.encode()).digest() if secret else b""
        self.caller: Caller | None = None
        self.stream: Stream | None = None
        self._answer = answer
        self._at_end: list[Callable[[], object]] = []

    def at_end(self, action: Callable[[], object]) -> None:
        """Do this when the call has ended, however it does."""
        self._at_end.append(action)

    def sending_headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return self._answer

    def call_completed(self, exception: Any) -> None:
        """The call is over: its client has everything, or has gone."""
        while self._at_end:
            self._at_end.pop()()


class Calls(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Makes a :class:`Call` of every call.

    Args:
        admit: told of every call before any message of it is read; raises to refuse it.
    """

    def __init__(self, admit: Callable[[Any, Call], None]) -> None:
        super().__init__()
        self._admit = admit

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> Call:
        """Read the headers and ask whether the call may begin."""
        call = self._read(info, headers)
        self._admit(info.method, call)
        return call

    def _read(self, info: Any, headers: dict[str, list[Any]]) -> Call:
        values = [value for name, values in headers.items() if name.lower() == "authorization" for value in values]
        kind, _, rest = str(values[0]).partition(" ") if len(values) == 1 else ("", "", "")
        if len(rest) > MAX_SECRET:
            return Call("", {})
        if kind == "Bearer":
            return Call(rest, {})
        if kind == "Basic" and (secret := _password(rest)):
            answer = {"authorization": f"Bearer {secret}"} if info.method == flight.FlightMethod.HANDSHAKE else {}
            return Call(secret, answer)
        return Call("", {})


class Handshake(flight.ServerAuthHandler):  # type: ignore[misc]
    """Accepts every handshake: what counts is the secret of each call."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Nothing is exchanged."""

    def is_valid(self, token: bytes) -> str:
        """Nothing is checked here."""
        return ""


def call_of(context: Any) -> Call:
    """The call a handler was given."""
    call: Call = context.get_middleware(MIDDLEWARE)
    return call


def _password(encoded: str) -> str:
    try:
        padding = "=" * (-len(encoded) % 4)  # which ADBC leaves out
        decoded = base64.b64decode(encoded + padding, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    password = decoded.partition(":")[2]
    return password if password.isascii() and password.isprintable() else ""
