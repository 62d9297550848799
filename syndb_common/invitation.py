"""The one line by which a hub's operator invites a node: who the hub is, where it is, and a secret.

::

    syndb-invite-1:eyJodWIiOiIxMkQzS29vVy4uLiIsImFkZHJlc3NlcyI6Wy4uLl0sInNlY3JldCI6InN5bmRiMV8uLi4ifQ

Behind the colon stands compact JSON in URL-safe base64 without padding. The line is a secret as a whole. Fields that
this program does not know are ignored, so that a newer hub may add some.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer, field_validator

from syndb_common.errors import ConfigError

PREFIX = "syndb-invite-1:"
MAX_CHARACTERS = 16_384
"""Of a line: sixteen of the longest addresses, and room."""

_SECRET = re.compile(r"syndb1_[A-Za-z0-9_-]{43}")
_ANY_VERSION = "syndb-invite-"
_ASK = "Ask the hub's operator for the line that `syndb-hub invite` prints."


class Invitation(BaseModel):
    """What an invitation says.

    Attributes:
        hub: the PeerId to pin.
        addresses: multiaddrs of the hub.
        secret: the generated secret, which becomes ``federation.password`` of the node.
        url: of the hub's REST API; empty when it is not told.
        name: the only cluster name it is good for; empty for any.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    hub: str = Field(pattern=r"^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$")
    addresses: tuple[Annotated[str, Field(max_length=300, pattern=r"^/[^\s]+$")], ...] = Field((), max_length=16)
    secret: SecretStr
    url: str = Field("", max_length=500, pattern=r"^(https?://[^\s]+)?$")
    name: str = Field("", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")

    @field_validator("secret")
    @classmethod
    def _is_generated(cls, secret: SecretStr) -> SecretStr:
        if not _SECRET.fullmatch(secret.get_secret_value()):
            raise ValueError("a generated secret is syndb1_ and 43 characters")
        return secret

    @field_serializer("secret")
    def _as_text(self, secret: SecretStr) -> str:
        return secret.get_secret_value()

    def render(self) -> str:
        """The line."""
        content = self.model_dump_json(exclude_defaults=True).encode()
        return PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read(line: str, file: Path | None) -> Invitation | None:
    """The invitation that a command was given: by a file, in standard input (``-``), or as the line itself.

    Raises:
        ConfigError: as of :func:`parse`, or there are two, or the file cannot be read.
    """
    if file is None:
        return parse(sys.stdin.read(MAX_CHARACTERS + 1) if line == "-" else line) if line else None
    if line:
        raise ConfigError("two invitations are given", hint="Give --invite or --invite-file.")
    try:
        with file.open(encoding="utf-8") as lines:
            return parse(lines.read(MAX_CHARACTERS + 1))
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"cannot read the invitation {file}: {cause}", hint="Check --invite-file.") from None


def parse(line: str) -> Invitation:
    """Read an invitation line; blanks and line breaks, which copying brings, do not matter.

    Raises:
        ConfigError: it is none, of a newer version, or damaged. Nothing of it is repeated: it holds a secret.
    """
    if len(line) > MAX_CHARACTERS:
        raise ConfigError(f"an invitation has at most {MAX_CHARACTERS} characters", hint=_ASK)
    compact = "".join(line.split())
    if not compact.startswith(PREFIX):
        if compact.startswith(_ANY_VERSION):
            raise ConfigError(
                "this invitation is of a version that this program does not know",
                hint="Update syndb on this machine, or ask for an invitation from a hub of its version.",
            )
        raise ConfigError(f"this is no invitation: it does not begin with {PREFIX}", hint=_ASK)
    text = compact.removeprefix(PREFIX)
    try:
        # The alphabet is checked; b64decode would pass over what is not of it.
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return Invitation.model_validate_json(content)
    except (binascii.Error, ValueError) as error:
        fields = ""
        if isinstance(error, ValidationError):
            faults = error.errors(include_input=False, include_url=False, include_context=False)
            fields = ", ".join(dict.fromkeys(str(fault["loc"][0]) for fault in faults if fault["loc"]))
        raise ConfigError(
            "the invitation is damaged" + (f": {fields} cannot be read" if fields else ""),
            hint=f"Copy the whole line, it has no end of its own. {_ASK}",
        ) from None
