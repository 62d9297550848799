"""Who is asking, and with which rights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from syndb_common.errors import Forbidden


class Right(StrEnum):
    """What a token may be good for; on the wire and in the store these are its ``scopes``."""

    QUERY = "query"
    UPLOAD = "upload"
    FEDERATION = "federation"
    ADMIN = "admin"
    EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a verified token."""

    token_id: str
    name: str
    rights: frozenset[Right]

    def may(self, right: Right) -> bool:
        """Whether this right, or every right, was given."""
        return right in self.rights or Right.EVERYTHING in self.rights

    def require(self, right: Right) -> None:
        """Nothing, or an error.

        Raises:
            Forbidden: the token does not carry this right.
        """
        if not self.may(right):
            raise Forbidden(
                f"the token {self.name!r} does not carry the scope {right.value!r}",
                hint=f"Create one with `syndb-hub token create --name NAME --scope {right.value}`.",
                scope=right.value,
            )
