"""Whose requests are counted together where strangers are held back."""

from __future__ import annotations

import ipaddress


def rate_key(client: str) -> str:
    """One address; of IPv6 its /64, which one machine has to itself."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
