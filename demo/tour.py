"""The questions of the tour. Each is asked with the command that is printed and compared with :mod:`demo.reference`."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.local import LocalFederation
from demo.processes import command, run
from demo.reference import Expected, mean, pool, variance

CHEMICAL = (
    "SELECT dataset, COUNT(*) AS connections, SUM(synapse_count) AS synapses FROM synapses "
    "WHERE synapse_type = 'chemical' GROUP BY dataset ORDER BY dataset SCOPE federation"
)
SPREAD = (
    "SELECT dataset, AVG(synapse_count) AS mean, STDDEV(synapse_count) AS sd FROM synapses "
    "WHERE synapse_type = 'chemical' GROUP BY dataset ORDER BY dataset SCOPE federation"
)
ANALYSIS = {
    "table": "synapses",
    "metric": "synapse_count",
    "where": "synapse_type = 'chemical'",
    "scope": "federation",
}
DEADLINE_SECONDS = 30.0
"""The hub's default for delegated work: a question with a dead node must answer within it."""

KILLED = "cook-male"
HOLDINGS = {
    "cook-hermaphrodite": ("cook-2019-hermaphrodite",),
    "cook-male": ("cook-2019-male",),
    "witvliet-development": tuple(f"witvliet-2020-{stage}" for stage in range(1, 9)),
}

console = Console()


@dataclass
class Tour:
    """Asks, shows, compares, and keeps the record.

    Args:
        federation: whom to ask.
        expected: the right answers by data set.
    """

    federation: LocalFederation
    expected: dict[str, Expected]
    steps: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    @property
    def ok(self) -> bool:
        """Whether the tour came to its end and every answer was right."""
        return self.finished and all(step["ok"] for step in self.steps)

    def step(self, name: str, shown: str, ask: Callable[[], Any], check: Callable[[Any], str]) -> Any:
        """One step: print the command, ask, print the answer, compare; ``check`` returns what is wrong or ''."""
        console.print(f"\n[bold]$ {shown}[/bold]", highlight=False, soft_wrap=True)
        began = time.monotonic()
        answer = ask()
        seconds = time.monotonic() - began
        wrong = check(answer)
        self.steps.append({"name": name, "ok": not wrong, "seconds": round(seconds, 3), "answer": answer})
        verdict = f"[red]wrong: {wrong}[/red]" if wrong else "[green]equals the files[/green]"
        console.print(f"{seconds:.2f} s, {verdict}", highlight=False)
        return answer

    def environment(self) -> dict[str, str]:
        """What the ``syndb`` command needs to find hub and token."""
        return {"SYNDB_SERVER_URL": self.federation.url, "SYNDB_TOKEN_FILE": str(self.federation.token_file)}

    def syndb(self, *words: str) -> Any:
        """Run the command line and return its JSON."""
        return json.loads(run(command("syndb", *words, "--json"), environment=self.environment(), seconds=120))

    def query(self, text: str) -> Any:
        """Ask a question through the command line and show the rows."""
        answer = self.syndb("syql", text)
        show([column["name"] for column in answer["columns"]], answer["rows"])
        for node in answer["provenance"]["nodes"]:
            if node["status"] != "answered":
                said = f"missing: {node['cluster']} ({node['cause']})"
                console.print(said, style="yellow", highlight=False, markup=False)
        return answer

    def clusters(self) -> Any:
        """The nodes as the hub sees them."""
        found = self.syndb("federation", "clusters")
        show(
            ["cluster", "health", "data sets", "synapse rows"],
            [
                [
                    node["name"],
                    node["health"],
                    len(node["datasets"]),
                    sum(dataset["row_counts"].get("synapses", 0) for dataset in node["datasets"]),
                ]
                for node in found
            ],
        )
        return found

    def analyse(self) -> Any:
        """The meta-analysis by HTTP."""
        answer = self.federation.post("/v1/meta-analysis/analyze", ANALYSIS)
        group = answer["groups"][0]
        show(
            ["data set", "n", "mean", "sd", "weight %"],
            [[s["dataset"], s["n"], s["mean"], s["sd"], s["weight"]] for s in group["studies"]],
        )
        pooled = group["pooled"]
        console.print(
            f"pooled mean {pooled['estimate']:.4f}, 95 % CI {pooled['ci'][0]:.4f} to {pooled['ci'][1]:.4f}; "
            f"tau² {pooled['tau2']:.4f}, I² {pooled['i2']:.1f} %, Q {pooled['q']:.1f}",
            highlight=False,
        )
        return answer

    def run(self, first_answer: Callable[[], None]) -> None:
        """The whole tour. ``first_answer`` is called when the first federated answer is there."""
        shown = 'syndb syql "{}"'
        self.step("who is there", "syndb federation clusters", self.clusters, self.check_clusters)

        def ask() -> Any:
            return self.query(CHEMICAL)

        def asked_first() -> Any:
            answer = ask()
            first_answer()
            return answer

        self.step("chemical synapses", shown.format(CHEMICAL), asked_first, self.check_counts)
        self.step("mean and spread", shown.format(SPREAD), lambda: self.query(SPREAD), self.check_spread)
        curl = (
            f'curl -H "Authorization: Bearer $(cat {self.federation.token_file})" '
            f"{self.federation.url}/v1/meta-analysis/analyze --json {shlex.quote(json.dumps(ANALYSIS))}"
        )
        self.step("meta-analysis", curl, self.analyse, self.check_pooled)
        console.print(f"\n[bold]$ kill -9 {KILLED}[/bold]", highlight=False)
        self.federation.daemons[KILLED].kill()
        self.step("a node is gone", shown.format(CHEMICAL), ask, self.check_without_node)
        console.print(f"\n[bold]$ start {KILLED} again[/bold]", highlight=False)
        restarted = datetime.now(UTC)
        self.federation.start_node(KILLED)
        wait_until(
            lambda: self.healthy(since=restarted) == set(HOLDINGS),
            self.federation,
            f"{KILLED} to come back",
            seconds=60,
        )
        self.step("the node is back", shown.format(CHEMICAL), ask, self.check_counts)
        self.finished = True

    def healthy(self, since: datetime | None = None) -> set[str]:
        """Names of the nodes that are healthy, were seen ``since`` then, and have announced what they hold."""
        found = self.federation.get("/v1/federation/clusters")
        return {
            node["name"]
            for node in found
            if node["health"] == "healthy"
            and len(node["datasets"]) == len(HOLDINGS[node["name"]])
            and (since is None or datetime.fromisoformat(node["last_seen"]) > since)
        }

    def check_clusters(self, answer: Any) -> str:
        """Every node is healthy and holds the rows that the files have."""
        rows = {
            dataset["dataset"]: dataset["row_counts"]["synapses"] for node in answer for dataset in node["datasets"]
        }
        wanted = {name: len(expected.weights) for name, expected in self.expected.items()}
        unwell = [node["name"] for node in answer if node["health"] != "healthy"]
        if unwell:
            return f"{', '.join(unwell)} not healthy"
        return "" if rows == wanted and len(answer) == len(HOLDINGS) else f"expected {wanted}"

    def check_counts(self, answer: Any, *, without: Iterable[str] = ()) -> str:
        """Rows and sums per data set are exactly those of the files."""
        wanted = [
            [name, len(expected.chemical), sum(expected.chemical)]
            for name, expected in sorted(self.expected.items())
            if name not in set(without)
        ]
        if not without and not answer["provenance"]["complete"]:
            return "not every node answered"
        return "" if answer["rows"] == wanted else f"expected {wanted}"

    def check_spread(self, answer: Any) -> str:
        """Means and standard deviations are those of the files."""
        wanted = {
            name: (mean(expected.chemical), math.sqrt(variance(expected.chemical)))
            for name, expected in self.expected.items()
        }
        got = {row[0]: (row[1], row[2]) for row in answer["rows"]}
        if got.keys() != wanted.keys():
            return f"expected the data sets {sorted(wanted)}"
        far = [name for name in wanted if not close(got[name], wanted[name], 1e-9)]
        return f"differs for {far}" if far else ""

    def check_pooled(self, answer: Any) -> str:
        """The pooled effect is the one found by maximising the restricted likelihood of the files' numbers."""
        wanted = pool([self.expected[name].chemical for name in sorted(self.expected)])
        pooled = answer["groups"][0]["pooled"]
        got = (pooled["estimate"], *pooled["ci"], pooled["tau2"], pooled["q"])
        right = (wanted.estimate, *wanted.ci, wanted.tau2, wanted.q)
        return "" if close(got, right, 1e-5) else f"expected {wanted}"

    def check_without_node(self, answer: Any) -> str:
        """Everything but the dead node's data is there, the node is named, and the deadline was kept."""
        missing = {node["cluster"] for node in answer["provenance"]["nodes"] if node["status"] != "answered"}
        if missing != {KILLED}:
            return f"expected {KILLED} to be named as missing, got {missing or 'nobody'}"
        if answer["provenance"]["seconds"] > DEADLINE_SECONDS:
            return f"took longer than {DEADLINE_SECONDS:g} s"
        return self.check_counts(answer, without=HOLDINGS[KILLED])


def wait_until(done: Callable[[], bool], federation: LocalFederation, what: str, *, seconds: float) -> None:
    """Wait for something the daemons do, showing that it is waited for."""
    with console.status(f"waiting for {what}"):
        federation.wait_for(done, what, seconds=seconds)


def close(got: Sequence[float], wanted: Sequence[float], tolerance: float) -> bool:
    """Whether all numbers agree within a relative tolerance."""
    return all(math.isclose(a, b, rel_tol=tolerance) for a, b in zip(got, wanted, strict=True))


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table()
    content = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in content)
        table.add_column(name, justify="right" if numeric else "left")
    for row in content:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
