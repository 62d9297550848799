"""Invitations made: a secret in the store, and the line that carries it to a node's operator."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr, ValidationError

from actors.admission import Invitation
from actors.directory import HUB
from actors.remote.identity import Identity
from actors.remote.multiaddrs import is_circuit, on_real_interfaces, parse_listen, split_peer, transport_order
from actors.remote.proof import derive_key, generate_secret, key_id
from syndb_common.errors import InvalidRequest
from syndb_common.invitation import Invitation as Line
from syndb_hub.settings import HubSettings
from syndb_hub.store.database import Store
from syndb_hub.store.invitations import Invitations

MAX_ADDRESSES = 16
"""Addresses in one invitation."""
MAX_LIFETIME = timedelta(days=365)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invitation. ``line`` is the only copy of its secret outside the store."""

    line: str = field(repr=False)
    invitation: Invitation
    addresses: tuple[str, ...]


async def invite(
    store: Store,
    settings: HubSettings,
    identity: Identity,
    *,
    name: str = "",
    lifetime: timedelta,
    addresses: Sequence[str] = (),
    url: str = "",
) -> Invited:
    """Make an invitation.

    Args:
        store: where it is kept.
        settings: the hub's; its listen addresses and relays are told unless ``addresses`` are given.
        identity: the hub's.
        name: the only cluster name it is good for; empty for any.
        lifetime: how long it admits somebody new.
        addresses: multiaddrs at which the node reaches the hub.
        url: of the hub's REST API, for nodes that libp2p does not get through to.

    Raises:
        InvalidRequest: one of these cannot be used, or there is no address to tell.
        Conflict: too many invitations wait to be used.
    """
    if name and (_NAME.fullmatch(name) is None or name == HUB):
        raise InvalidRequest(f"{name[:100]!r} cannot name a node", hint="Use a-z, 0-9 and -, at most 63 characters.")
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise InvalidRequest(f"an invitation lives between a moment and {MAX_LIFETIME.days} days")
    told = _given(addresses, identity.peer_id) if addresses else own_addresses(settings)
    secret = generate_secret()
    try:
        line = Line(hub=identity.peer_id, addresses=told, secret=SecretStr(secret), url=url, name=name).render()
    except ValidationError as error:
        at = ", ".join(dict.fromkeys(str(fault["loc"][0]) for fault in error.errors(include_input=False)))
        raise InvalidRequest(f"this cannot stand in an invitation: {at}") from None
    key, now = await derive_key(secret, identity.peer_id), datetime.now(UTC)
    invitation = Invitation(key_id=key_id(key), key=key, created_at=now, expires_at=now + lifetime, cluster_name=name)
    await Invitations(store).create(invitation)
    return Invited(line, invitation, told)


def own_addresses(settings: HubSettings) -> tuple[str, ...]:
    """Where the hub listens as others may dial it, QUIC first; then the ways through its relays.

    Raises:
        InvalidRequest: none of it can be known before the hub runs.
    """
    federation = settings.federation
    direct = [
        address for listen in federation.listen for address in on_real_interfaces(listen) if not _any_port(listen)
    ]
    ways = sorted([*direct, *(f"{relay}/p2p-circuit" for relay in federation.relays)], key=transport_order)
    if not ways:
        raise InvalidRequest(
            "the hub listens on a port that is chosen when it starts", hint="Name its addresses with --address."
        )
    return tuple(ways[:MAX_ADDRESSES])


def only_near(addresses: Iterable[str]) -> bool:
    """Whether all addresses lead nowhere from outside this machine or its private networks."""
    return all(not is_circuit(address) and _is_near(address.split("/")) for address in addresses)


def _is_near(parts: list[str]) -> bool:
    return parts[1] in ("ip4", "ip6") and not ipaddress.ip_address(parts[2]).is_global


def _any_port(address: str) -> bool:
    return address.split("/")[4] == "0"


def _given(addresses: Sequence[str], hub_peer_id: str) -> tuple[str, ...]:
    if len(addresses) > MAX_ADDRESSES:
        raise InvalidRequest(f"an invitation has at most {MAX_ADDRESSES} addresses")
    for address in addresses:
        parse_listen(address)
        named = split_peer(address)[1]
        if named not in ("", hub_peer_id):
            raise InvalidRequest(f"{address[:200]} names another peer than this hub, {hub_peer_id}")
    return tuple(addresses)
