"""Proxies named by the environment, for whoever speaks HTTP as a client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import httpx

from syndb_common.errors import ConfigError

_VARIABLES = ("http_proxy", "https_proxy", "all_proxy")


@contextlib.contextmanager
def named_proxies() -> Iterator[None]:
    """Around making an httpx client: say which variable it stumbles over.

    Raises:
        ConfigError: a variable names a proxy that cannot be used. Its value, which may hold a password, is not shown.
    """
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL):
        for name, value in os.environ.items():
            if name.lower() in _VARIABLES and value and not _is_usable(value):
                raise ConfigError(
                    f"{name} names no proxy that can be used here",
                    hint=f"Set {name} to an address like http://proxy.example:3128, or unset it; SOCKS is not spoken.",
                ) from None
        raise


def _is_usable(value: str) -> bool:
    try:
        httpx.HTTPTransport(proxy=value if "://" in value else f"http://{value}", verify=False).close()
    except (ImportError, ValueError, httpx.InvalidURL):
        return False
    return True
