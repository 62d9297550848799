"""The owner's policy, checked on the plan before anything is computed. It fails closed.

``rows`` lets every plan through and ``none`` none. ``count`` and ``aggregate`` promise that no single neuron can be
recovered from the answers; that needs minimum group sizes and checks across queries. Until the node enforces
them it answers nothing under these two, rather than something unsafe.
"""

from __future__ import annotations

from collections.abc import Iterable

from syndb_common.errors import PolicyRefused
from syndb_common.node_settings import PolicySettings, Share
from syndb_common.syql.plan import Plan
from syndb_common.tables.versions import PublishedVersion


class Policy:
    """What the owner of this node shares.

    Args:
        settings: the rules of the configuration file.
    """

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings

    def share(self, version: PublishedVersion) -> Share:
        """The sharing level of a data set."""
        own = self._settings.datasets.get(version.metadata.dataset)
        return self._settings.share if own is None else own.share

    def check(self, plan: Plan, published: Iterable[PublishedVersion]) -> None:
        """Return when the owner lets this plan be answered.

        Args:
            plan: what the hub asks for.
            published: what this node holds; what is not among it is never shared.

        Raises:
            PolicyRefused: at least one data set of the plan does not allow it.
        """
        known = {(version.dataset_id, version.version): version for version in published}
        for dataset in plan.datasets:
            version = known.get((dataset.dataset_id, dataset.version))
            if version is None:
                name = f"version {dataset.version} of data set {dataset.dataset_id}"
                raise PolicyRefused(f"{name} is not shared by this node")
            level = self.share(version)
            name = version.metadata.dataset
            if level is Share.NONE:
                raise PolicyRefused(f"{name} is not shared", hint=f"Exclude it: WHERE dataset != '{name}'.")
            if level is not Share.ROWS:
                raise PolicyRefused(
                    f"{name} is shared as `{level}`, which this version of the node does not compute yet",
                    hint=f"Exclude it (WHERE dataset != '{name}'), or ask the owner to share rows.",
                )
