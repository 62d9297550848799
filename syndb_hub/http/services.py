"""What the HTTP layer is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from syndb_common.messages import SchemaMigration
from syndb_hub.auth.tokens import TokenService
from syndb_hub.downloads import Downloads
from syndb_hub.federation.answers import Queries
from syndb_hub.federation.benchmarks import Benchmarks
from syndb_hub.federation.service import FederationControl, FederationView, HealthProbe, JoinOverHttp
from syndb_hub.jobs.runner import JobRunner
from syndb_hub.settings import HttpSettings


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the routes; composed in :mod:`syndb_hub.tree`.

    Attributes:
        migrations: gives all schema migrations the hub knows, in order.
        version: version of the software, shown in the OpenAPI document and by ping.
        flight: gives location and certificate of the hub's Flight server, both empty while there is none.
    """

    queries: Queries
    federation: FederationView
    control: FederationControl
    joining: JoinOverHttp
    benchmarks: Benchmarks
    jobs: JobRunner
    downloads: Downloads
    tokens: TokenService
    probe: HealthProbe
    migrations: Callable[[], Sequence[SchemaMigration]]
    version: str
    settings: HttpSettings = field(default_factory=HttpSettings)
    flight: Callable[[], tuple[str, str]] = lambda: ("", "")
