"""Which addresses of which node the hub dials now, and the names it has looked up for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from uuid import UUID

import structlog

from actors.addresses import Address, Approval, Resolver, approved, is_own, names
from actors.directory import NOWHERE, Cluster

log = structlog.get_logger(__name__)

UNRESOLVED_SECONDS, RESOLVED_SECONDS = 60.0, 3600.0
"""How long a name is not looked up again: one of a node that has a name without addresses, and any other."""


class AddressBook:
    """Judges what nodes announce (:mod:`actors.addresses`) and says of each refusal once that it was made.

    Args:
        approval: what the hub may dial of any node.
        own_addresses: those of the hub's machine.
        resolve: finds the addresses of a host name.
    """

    def __init__(self, approval: Approval, own_addresses: Callable[[], Collection[Address]], resolve: Resolver) -> None:
        self._approval = approval
        self._own_addresses = own_addresses
        self._own = own_addresses()
        self._resolve = resolve
        self._resolved: dict[UUID, Mapping[str, tuple[Address, ...]]] = {}
        self._told: dict[UUID, frozenset[str]] = {}
        self._due: dict[UUID, float] = {}

    def refresh(self) -> None:
        """Read the machine's addresses again: they change, and reading them for every node costs too much."""
        self._own = self._own_addresses()

    def place(self, cluster: Cluster) -> Cluster:
        """The node with those of its endpoints that may be dialled, as far as its names are known."""
        record = cluster.record
        if record.peer_id is None:
            return replace(cluster, dial=NOWHERE, refused_addresses=())
        approval = (self._approval | Approval.of(record.approved_hosts)).observed(record.observed_hosts, self._own)
        resolved = self._resolved.get(record.id, {})
        dialled = approved(record.endpoints, approval, peer_id=record.peer_id, resolved=resolved)
        if names(record.endpoints) <= resolved.keys():
            told, now = self._told.get(record.id, frozenset()), frozenset(dialled.refused)
            unresolved = (now - told) & frozenset(dialled.unresolved)
            if unresolved:
                log.warning("host names not resolved", cluster=record.name, refused=sorted(unresolved))
            if now - told - unresolved:
                log.warning("addresses not approved", cluster=record.name, refused=sorted(now - told - unresolved))
            self._told[record.id] = now
        return replace(cluster, dial=dialled.endpoints, refused_addresses=dialled.refused)

    async def look_up(self, cluster: Cluster) -> Mapping[str, tuple[Address, ...]]:
        """The addresses of the names that a node announces."""
        return {name: await self._resolve(name) for name in sorted(names(cluster.record.endpoints))}

    def learn(self, cluster_id: UUID, resolved: Mapping[str, tuple[Address, ...]], now: float) -> None:
        """From now on judge by these addresses of a node's names; of one that has none now, by those it had."""
        before = self._resolved.get(cluster_id, {})
        self._resolved[cluster_id] = {name: found or before.get(name, ()) for name, found in resolved.items()}
        self._due[cluster_id] = now + (RESOLVED_SECONDS if all(resolved.values()) else UNRESOLVED_SECONDS)

    def is_due(self, cluster_id: UUID, now: float) -> bool:
        """Whether the node's names have to be looked up again, ``now`` being the time of the clock of :meth:`learn`."""
        return self._due.get(cluster_id, now) <= now

    def forget(self, cluster_id: UUID) -> None:
        """The node is gone."""
        self._resolved.pop(cluster_id, None)
        self._told.pop(cluster_id, None)
        self._due.pop(cluster_id, None)

    def is_own(self, host: str) -> bool:
        """Whether an IP address is one of the hub's machine."""
        return is_own(host, self._own)
