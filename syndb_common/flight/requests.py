"""What Flight clients send as JSON, checked before it is used."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from syndb_common.errors import InvalidRequest, LimitExceeded

MAX_REQUEST_BYTES = 64 * 1024

_M = TypeVar("_M", bound=BaseModel)


class OfQuery(BaseModel):
    """Names a query, which is called job at a hub."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query_id: UUID


class OfUpload(BaseModel):
    """Names an upload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_id: UUID


class About(RootModel[OfQuery | OfUpload]):
    """What ``status`` and ``cancel`` are about."""


def parse(model: type[_M], body: bytes, *, max_bytes: int = MAX_REQUEST_BYTES) -> _M:
    """A request as its model.

    Raises:
        LimitExceeded: it is too large.
        InvalidRequest: it is not what the model says; the message names the field.
    """
    if len(body) > max_bytes:
        raise LimitExceeded(f"a request of more than {max_bytes} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise InvalidRequest(f"{where}: {first['msg']}") from None
