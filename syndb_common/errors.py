"""One hierarchy of errors for every process and every way in.

Each class carries a stable ``code`` that clients may depend on, the HTTP status and the exit code it maps
to. The message says what happened, the hint says what to do about it.

::

    SynDBError                    internal_error        500   exit 1
    ├── InvalidRequest            invalid_request       400   exit 2
    │   ├── SyQLError             syql_error            400   exit 2
    │   │   ├── SyQLSyntaxError   syql_syntax           400   exit 2
    │   │   ├── UnknownName       syql_unknown_name     400   exit 2
    │   │   └── NotSupported      syql_not_supported    400   exit 2
    │   ├── ConfigError           config_invalid        400   exit 2
    │   ├── MethodNotAllowed      method_not_allowed    405   exit 2
    │   └── DataError             data_invalid          400   exit 3
    ├── Unauthenticated           unauthenticated       401   exit 4
    │   └── JoinRefused           join_refused          401   exit 4
    ├── Forbidden                 forbidden             403   exit 4
    │   └── PolicyRefused         policy_refused        403   exit 4
    ├── NotFound                  not_found             404   exit 5
    ├── Conflict                  conflict              409   exit 6
    ├── LimitExceeded             limit_exceeded        413   exit 7
    ├── TooManyRequests           too_many_requests     429   exit 7
    ├── Cancelled                 cancelled             409   exit 8
    ├── DeadlineExceeded          deadline_exceeded     504   exit 9
    │   └── RequestTimeout        request_timeout       408   exit 9
    └── Unavailable               unavailable           503   exit 10
        ├── EngineUnavailable     engine_unavailable    503   exit 10
        ├── PeerUnavailable       peer_unavailable      503   exit 10
        └── IncompleteResult      incomplete_result     503   exit 10
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field


class ErrorBody(BaseModel):
    """An error as it travels between processes and to HTTP clients.

    Attributes:
        error: what happened, for a person.
        code: stable identifier, for a program.
        hint: what to do about it; empty when nothing better than the message can be said.
        details: small structured facts, for instance ``line``, ``column``, ``offending``.
    """

    error: str = Field(max_length=8192)
    code: str = Field(max_length=64)
    hint: str = Field(default="", max_length=4096)
    details: dict[str, Any] = Field(default_factory=dict)


class SynDBError(Exception):
    """Base of all errors SynDB raises on purpose. Raised itself only for what nobody foresaw: please report it."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def to_body(self) -> ErrorBody:
        """The error as it goes over a wire: bounded in size, without a traceback."""
        return ErrorBody(error=self.message[:8192], code=self.code, hint=self.hint[:4096], details=self.details)

    @staticmethod
    def from_body(body: ErrorBody) -> SynDBError:
        """Rebuild an error received from another process; an unknown code becomes :class:`SynDBError`."""
        error = _by_code().get(body.code, SynDBError)(body.error, hint=body.hint)
        error.details = dict(body.details)
        return error


class InvalidRequest(SynDBError):
    """The request itself is wrong. Correct it; repeating it unchanged cannot succeed."""

    code, http_status, exit_code = "invalid_request", 400, 2


class SyQLError(InvalidRequest):
    """The query cannot be answered as written; ``details`` say where and what would fit."""

    code = "syql_error"


class SyQLSyntaxError(SyQLError):
    """The text is not SyQL. ``details`` carry ``line``, ``column`` and the ``offending`` text."""

    code = "syql_syntax"


class UnknownName(SyQLError):
    """A table, column, function or data set that does not exist; the message names the nearest ones."""

    code = "syql_unknown_name"


class NotSupported(SyQLError):
    """Valid SQL that SyQL does not have, or that cannot be federated; refused before anything is sent."""

    code = "syql_not_supported"


class ConfigError(InvalidRequest):
    """A configuration file, variable or option is missing or wrong; nothing was started."""

    code = "config_invalid"


class MethodNotAllowed(InvalidRequest):
    """The path of an HTTP request exists, the method does not."""

    code, http_status = "method_not_allowed", 405


class DataError(InvalidRequest):
    """Source data are damaged, incomplete or break a rule of the tables; nothing of them was published."""

    code, exit_code = "data_invalid", 3


class Unauthenticated(SynDBError):
    """No valid credential came with the request. Create a token with ``syndb-hub token create``."""

    code, http_status, exit_code = "unauthenticated", 401, 4


class JoinRefused(Unauthenticated):
    """The password or identity proof failed while a node joined; check the password and the pinned PeerId."""

    code = "join_refused"


class Forbidden(SynDBError):
    """The credential is valid and does not allow this."""

    code, http_status, exit_code = "forbidden", 403, 4


class PolicyRefused(Forbidden):
    """The owner of the data does not share what this plan would reveal."""

    code = "policy_refused"


class NotFound(SynDBError):
    """What was named does not exist, or not any more."""

    code, http_status, exit_code = "not_found", 404, 5


class Conflict(SynDBError):
    """The state of the thing does not allow this now, for instance a name that is taken."""

    code, http_status, exit_code = "conflict", 409, 6


class LimitExceeded(SynDBError):
    """A limit on rows, bytes, memory or size was reached. Never a shorter answer instead."""

    code, http_status, exit_code = "limit_exceeded", 413, 7


class TooManyRequests(SynDBError):
    """A mailbox, queue or rate limit is full: wait, then try again."""

    code, http_status, exit_code = "too_many_requests", 429, 7


class Cancelled(SynDBError):
    """The work was cancelled by its owner or by a stop."""

    code, http_status, exit_code = "cancelled", 409, 8


class DeadlineExceeded(SynDBError):
    """The answer did not come in time. It does not say that nothing was executed."""

    code, http_status, exit_code = "deadline_exceeded", 504, 9


class RequestTimeout(DeadlineExceeded):
    """An HTTP request took longer than a request may; a job may take longer."""

    code, http_status = "request_timeout", 408


class Unavailable(SynDBError):
    """A part that is needed is not there right now; trying again later may succeed."""

    code, http_status, exit_code = "unavailable", 503, 10


class EngineUnavailable(Unavailable):
    """The engine process stopped while working or is being restarted; repeat the query."""

    code = "engine_unavailable"


class PeerUnavailable(Unavailable):
    """The other daemon cannot be reached or closed the connection."""

    code = "peer_unavailable"


class IncompleteResult(Unavailable):
    """A stream ended without its end record: what came is not the whole result and must not be used."""

    code = "incomplete_result"


def _by_code() -> dict[str, type[SynDBError]]:
    found: dict[str, type[SynDBError]] = {}
    pending: list[type[SynDBError]] = [SynDBError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found
