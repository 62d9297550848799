"""A node in a standing in which nobody has seen it yet, without its key, or with what it announced."""

from __future__ import annotations

from dataclasses import replace

from actors.directory import Cluster, ClusterRecord, Standing
from syndb_common.messages import CatalogAnnouncement

_CAUSES = {
    Standing.PENDING: "no node has proved this name yet",
    Standing.WAITING: "waits for the approval of the hub's operator",
    Standing.ACTIVE: "not checked yet",
    Standing.INACTIVE: "deactivated",
}
_NO_KEY = (
    "its key was revoked, or it had none: invite it anew (syndb-hub invite --name), or approve the next node that "
    "proves the name"
)


def keyless(record: ClusterRecord) -> ClusterRecord:
    """The name after its key was revoked. It waits for the operator even when another key has proved itself; one that
    was deactivated stays so. Where to dial is approved anew, since the next key may be of another machine."""
    standing = Standing.INACTIVE if record.standing is Standing.INACTIVE else Standing.WAITING
    return replace(record, peer_id=None, key_id="", observed_hosts=(), approved_hosts=(), standing=standing)


def unseen(cluster: Cluster, record: ClusterRecord) -> Cluster:
    """The node in a standing in which nobody has seen it yet; what it holds stays."""
    return Cluster(
        record,
        cause=_NO_KEY if record.peer_id is None and record.standing is Standing.WAITING else _CAUSES[record.standing],
        catalogue_revision=cluster.catalogue_revision,
        versions=cluster.versions,
        sharing=cluster.sharing,
    )


def announced(cluster: Cluster, message: CatalogAnnouncement | None) -> Cluster:
    """The node with what it announced."""
    if message is None:
        return cluster
    return replace(
        cluster, catalogue_revision=message.revision, versions=message.versions, sharing=dict(message.sharing)
    )
