"""Settings: one TOML file per daemon, every key of it overridable by a documented environment variable.

A settings model is a frozen pydantic model; a field says with :class:`Env` which variable overrides it::

    class Flight(Settings):
        port: Annotated[int, Env("FEDERATION_NODE_FLIGHT_PORT")] = 50052

    settings = load(NodeSettings, Path("node.toml"))

Lists are written in variables as comma-separated text. Unknown keys are errors: a misspelt key that is silently
ignored is the most expensive kind of configuration error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from syndb_common.errors import ConfigError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
SCHEMA_VERSION = 1
"""Version of the layout of the files; a file of a newer one is refused."""


@dataclass(frozen=True, slots=True)
class Env:
    """Marks the environment variable that overrides a field."""

    name: str


class Settings(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A file that need not be named: empty text, as TOML has no other word for it, stands for none."""


class FileSettings(Settings):
    """Base of what a whole file holds."""

    schema_version: int = Field(SCHEMA_VERSION, description="layout of this file")


class MetricsSettings(Settings):
    """Metrics for Prometheus, on a listener of their own since they tell about everybody's work."""

    listen: str = Field("", description="host:port to serve /metrics at, for instance 127.0.0.1:9464; empty for none")


def _listen_address(text: str) -> str:
    """An address to listen on, checked as far as it can be without opening it."""
    _, family, host, *rest = [*text.split("/"), "", "", ""]
    versions = {"ip4": 4, "ip6": 6}
    try:
        fits = ip_address(host).version == versions.get(family)
    except ValueError:
        fits = False
    if not fits or _PORT.fullmatch("/".join(rest).rstrip("/")) is None or int(rest[1]) > 65535:
        raise ValueError("no listen address; one looks like /ip4/0.0.0.0/udp/4001/quic-v1")
    return text


def _relay_address(text: str) -> str:
    """The multiaddr of a relay, which must name it: who is no relay of ours must not be able to stand in."""
    if _RELAY.fullmatch(text) is None:
        raise ValueError("no relay; one looks like /dns4/relay.example.org/tcp/4001/p2p/12D3KooW...")
    return text


def _network(text: str) -> str:
    """A network in CIDR notation or one address."""
    try:
        ip_network(text)
    except ValueError:
        raise ValueError("no network or address; one looks like 192.0.2.0/24") from None
    return text


_PORT = re.compile(r"(udp/[0-9]{1,5}/quic-v1|tcp/[0-9]{1,5})")
_RELAY = re.compile(
    r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/(udp/[0-9]{1,5}/quic-v1|tcp/[0-9]{1,5})/p2p/[1-9A-HJ-NP-Za-km-z]{46,64}"
)
ListenAddress = Annotated[str, AfterValidator(_listen_address)]
"""A libp2p address to listen on, with the transports that a host has."""
RelayAddress = Annotated[str, AfterValidator(_relay_address)]
"""The multiaddr of a relay, with its PeerId."""
Network = Annotated[str, AfterValidator(_network)]
"""A network in CIDR notation, or one IP address."""

S = TypeVar("S", bound=Settings)


def load(model: type[S], path: Path, environ: Mapping[str, str] | None = None) -> S:
    """Read a TOML file, apply the environment, validate.

    Raises:
        ConfigError: the file is missing, not TOML, of a newer layout, or a key is unknown or wrong. The message
            names file and key; values are never repeated, they may be secrets.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no configuration file at {path}", hint="Write one with the `init` command, or name it with --config."
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="Correct the file; it must be valid TOML.") from error
    version = values.get("schema_version", SCHEMA_VERSION)
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema_version {version!r:.100}, this program knows 1 to {SCHEMA_VERSION}",
            hint="Use the program version the file was written for, or a newer one.",
        )
    origin: dict[str, str] = {}
    for keys, variable, is_list in _overrides(model):
        text = (os.environ if environ is None else environ).get(variable)
        if text is not None:
            origin[".".join(keys)] = f" (from {variable})"
            _put(values, keys, [part.strip() for part in text.split(",") if part.strip()] if is_list else text.strip())
    return validate(model, values, str(path), origin)


def validate(model: type[S], values: Mapping[str, Any], where: str, origin: Mapping[str, str] | None = None) -> S:
    """Settings from plain values.

    Args:
        model: the settings model.
        values: nested as in the file.
        where: what errors call them.
        origin: what errors add to the names of keys that come from elsewhere.

    Raises:
        ConfigError: a key is unknown, missing or wrong. Values are not repeated.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for fault in error.errors(include_input=False, include_url=False):
            key = ".".join(map(str, fault["loc"]))
            problems.append(f"{key}{(origin or {}).get(key, '')}: {fault['msg']}")
        raise ConfigError(f"{where} is not valid: {'; '.join(problems)}", hint="Correct these keys.") from None


def render(model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """A TOML file for ``model``: ``values`` as given, every other key as a comment with its default, all explained.

    Args:
        model: the settings model.
        values: what differs from the defaults, nested as in the file.
    """
    return "\n".join(_render_section(model, values, ())).strip() + "\n"


def _render_section(model: type[BaseModel], values: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            sections.append((name, annotation))
            continue
        if get_origin(annotation) is dict:
            sections.extend((f"{name}.{key}", get_args(annotation)[1]) for key in values.get(name, {}))
            yield f"# {name}: {field.description}"
            continue
        variable = next((f" [{mark.name}]" for mark in field.metadata if isinstance(mark, Env)), "")
        if field.description or variable:
            yield f"# {field.description or ''}{variable}"
        if name in values:
            yield f"{name} = {toml_value(values[name])}"
        elif not field.is_required():
            shown = toml_value(field.get_default(call_default_factory=True))
            yield f"{name} = {shown}" if name == "schema_version" else f"# {name} = {shown}"
        else:
            yield f'# {name} = "..."  (required)'
    for name, section in sections:
        path = (*above, *name.split(".", 1))
        inside: Any = values
        for key in name.split(".", 1):
            inside = inside.get(key, {})
        yield ""
        yield f"[{'.'.join(key if _BARE_KEY.fullmatch(key) else toml_value(key) for key in path)}]"
        if section.__doc__:
            yield f"# {section.__doc__.splitlines()[0]}"
        yield from _render_section(section, inside, path)


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path):
        value = str(value)
    if value is None:
        value = ""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    # JSON's strings are TOML's, but for surrogate pairs, which TOML does not know, and DEL, which it wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write_private(path: Path, content: str | bytes, *, replace: bool = True, keep_mode: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all, also when the power fails.

    Its folder is made when there is none. What root writes belongs to the owner of the file that it replaces, or else
    of the folder: a service without privileges must be able to read what its operator writes with them.

    Args:
        path: the file.
        content: all of it.
        replace: False leaves an existing file as it is, also one that another process makes at the same moment.
        keep_mode: let those read it who may read the file that it replaces.

    Raises:
        ConfigError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        data = content if isinstance(content, bytes) else content.encode()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _hand_over(descriptor, path, keep_mode=keep_mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"cannot write {path}: a value is no text") from error


def _hand_over(descriptor: int, path: Path, *, keep_mode: bool) -> None:
    """Give a new file the owner, and perhaps the mode, of the one it stands in for."""
    exists = path.exists()
    model = (path if exists else path.parent).stat()
    if os.geteuid() == 0:
        os.fchown(descriptor, model.st_uid, model.st_gid)
    elif exists and keep_mode and model.st_gid != os.fstat(descriptor).st_gid:
        try:
            os.fchown(descriptor, -1, model.st_gid)
        except PermissionError:
            return  # the mode is for a group that we cannot give it to
    if exists and keep_mode:
        os.fchmod(descriptor, stat.S_IMODE(model.st_mode) & 0o666)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power failure.

    Raises:
        OSError: the folder is gone, or the disk failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def environment_variables(model: type[BaseModel]) -> dict[str, str]:
    """Every variable of a settings model with the dotted key it overrides."""
    return {variable: ".".join(keys) for keys, variable, _ in _overrides(model)}


def _overrides(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _overrides(annotation, (*above, name))
        for mark in field.metadata:
            if isinstance(mark, Env):
                yield (*above, name), mark.name, get_origin(annotation) in (tuple, list)


def _put(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            return  # a section that is no table is reported by validation
    values[keys[-1]] = value
