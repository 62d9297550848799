"""Change of the federation password without a moment at which nodes cannot join.

1. :func:`rotate` writes a new password into the configuration and keeps the former one as ``previous_password``; the
   running hub accepts both once it has read the file again.
2. Each node's operator is given the new one; :func:`survey` says who still joined with another.
3. :func:`retire` removes the former one.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.admission import Keyring
from actors.directory import Standing
from actors.remote.proof import derive_key, generate_secret, key_id
from syndb_common.errors import ConfigError, Conflict, NotFound
from syndb_common.settings import environment_variables, load, render, toml_value, write_private
from syndb_hub.settings import FederationSettings, HubSettings
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from syndb_hub.store.invitations import Invitations

_KEY = "federation.password"
_NAMES = ("password", "previous_password")
_HEADER = re.compile(r"\s*\[+\s*(?P<name>[^\]]*?)\s*\]")
_PASSWORD = re.compile(
    r"""(?P<indent>[ \t]*)(?P<name>password|previous_password)[ \t]*=[ \t]*("([^"\\\n]|\\.)*"|'[^'\n]*')"""
    r"(?P<comment>[ \t]*(#.*)?\n?)$"
)
"""One of the two on a line of its own; whoever writes it in another way gets the file rendered anew."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Names of the active nodes by the secret they joined with last.

    Attributes:
        other: the previous password, or one that is not known any more.
    """

    current: tuple[str, ...]
    invited: tuple[str, ...]
    other: tuple[str, ...]


async def keyring(federation: FederationSettings, hub_peer_id: str) -> Keyring:
    """The keys behind the passwords of a configuration.

    Raises:
        ConfigError: a password cannot be used.
    """
    previous = federation.previous_password.get_secret_value()
    return Keyring(
        current=await derive_key(federation.password.get_secret_value(), hub_peer_id),
        previous=await derive_key(previous, hub_peer_id) if previous else None,
    )


def rotate(config: Path, *, force: bool = False) -> None:
    """Put a new password into the configuration; the present one becomes the previous one.

    Raises:
        Conflict: there is a previous one, which would be lost; ``force`` loses it.
        ConfigError: the file cannot be read or written, or the password does not come from it.
    """
    values = _read(config)
    federation = values["federation"]
    if federation.get("previous_password") and not force:
        raise Conflict(
            "the previous password is still accepted, and a hub accepts two",
            hint="Retire it first: syndb-hub password retire.",
        )
    _write(config, {**values, "federation": {**federation, **_replaced(federation)}})


def retire(config: Path) -> None:
    """Remove the previous password from the configuration.

    Raises:
        NotFound: there is none.
        ConfigError: the file cannot be read or written, or the password does not come from it.
    """
    values = _read(config)
    if not values["federation"].get("previous_password"):
        raise NotFound("there is no previous password to retire")
    kept = {key: value for key, value in values["federation"].items() if key != "previous_password"}
    _write(config, {**values, "federation": kept})


async def survey(store: Store, settings: HubSettings, hub_peer_id: str) -> Survey:
    """Who joined with what."""
    keys = await keyring(settings.federation, hub_peer_id)
    invitations = {invitation.key_id for invitation in await Invitations(store).all()}
    names: dict[str, list[str]] = {"current": [], "invited": [], "other": []}
    for record in await Clusters(store).load():
        if record.standing is Standing.ACTIVE:
            current = record.key_id == key_id(keys.current)
            kind = "current" if current else "invited" if record.key_id in invitations else "other"
            names[kind].append(record.name)
    return Survey(**{kind: tuple(found) for kind, found in names.items()})


def _replaced(federation: Mapping[str, Any]) -> dict[str, str]:
    return {"password": generate_secret(), "previous_password": str(federation["password"])}


def _read(config: Path) -> dict[str, Any]:
    """The file's own values, without what the environment says."""
    variables = {key: variable for variable, key in environment_variables(HubSettings).items()}
    if variables[_KEY] in os.environ:
        raise ConfigError(
            f"the password comes from {variables[_KEY]} and not from {config}",
            hint="Unset the variable here and where the hub runs, and write the password into the file.",
        )
    load(HubSettings, config)
    return tomllib.loads(config.read_text(encoding="utf-8"))


def _write(config: Path, values: Mapping[str, Any]) -> None:
    edited = _edited(config.read_text(encoding="utf-8"), values["federation"])
    write_private(config, edited if _says(edited, values) else render(HubSettings, values), keep_mode=True)


def _edited(text: str, federation: Mapping[str, Any]) -> str:
    """The file with other passwords in its section; all else, comments too, is as the operator wrote it."""
    lines, inside = [], False
    for line in text.splitlines(keepends=True):
        if header := _HEADER.match(line):
            inside = header["name"] == "federation"
        found = _PASSWORD.match(line) if inside else None
        if found is None:
            lines.append(line)
        elif found["name"] == "password":
            for name in _NAMES:
                if name in federation:
                    comment = found["comment"].rstrip("\n") if name == "password" else ""
                    lines.append(f"{found['indent']}{name} = {toml_value(federation[name])}{comment}\n")
    return "".join(lines)


def _says(text: str, values: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == values
    except tomllib.TOMLDecodeError:
        return False
