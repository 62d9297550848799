"""The page in a real browser: nodes, a query with its answer, errors, and nothing loaded from elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import trio

from syndb_common.errors import SyQLSyntaxError
from syndb_hub.federation.service import ClusterView

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"needs Chromium at {CHROMIUM}"),
]


class Visit:
    """One browser tab on the hub, and what went wrong in it."""

    def __init__(self, page: Any, url: str, token: str) -> None:
        self.page, self.url, self.token = page, url, token
        self.complaints: list[str] = []
        self.requested: list[str] = []
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))

    def sign_in(self) -> None:
        self.page.goto(self.url)
        self.page.get_by_label("API token").fill(self.token)
        self.page.get_by_role("button", name="Use").click()

    def ask(self, query: str) -> None:
        self.page.get_by_label("SyQL query").fill(query)
        self.page.get_by_role("button", name="Run").click()


@contextmanager
def tab(url: str, token: str, **options: Any) -> Iterator[Visit]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            page = browser.new_context(**options).new_page()
            page.set_default_timeout(20_000)
            yield Visit(page, url, token)
        finally:
            browser.close()


@pytest.fixture
def visit(hub) -> Callable[..., Any]:
    async def run(story: Callable[[Visit], None], **options: Any) -> None:
        def in_browser() -> None:
            with tab(hub.url, hub.token, **options) as visited:
                story(visited)

        await trio.to_thread.run_sync(partial(in_browser))

    return run


QUERY = (
    "SELECT dataset, SUM(synapse_count) AS synapses FROM synapses GROUP BY dataset ORDER BY dataset SCOPE federation"
)


async def test_nodes_are_shown_with_their_health_and_data_sets(visit):
    def story(visit: Visit) -> None:
        visit.sign_in()
        worm = visit.page.locator("[data-cluster=worm-lab]")
        worm.wait_for()
        assert "healthy" in worm.inner_text()
        assert "worm-a" in worm.inner_text()
        assert "synapses 4" in worm.inner_text()
        fly = visit.page.locator("[data-cluster=fly-lab]").inner_text()
        assert "unreachable" in fly
        assert "3 pings without an answer" in fly

    await visit(story)


async def test_a_change_of_health_shows_by_itself(visit, hub):
    def story(visit: Visit) -> None:
        visit.sign_in()
        worm = visit.page.locator("[data-cluster=worm-lab]")
        worm.get_by_text("healthy", exact=True).wait_for()
        hub.federation.health = "degraded"
        worm.get_by_text("degraded", exact=True).wait_for()
        assert "healthy" not in worm.inner_text()

    await visit(story)


async def test_what_is_wrong_with_a_node_is_said_in_plain_words(visit, hub):
    hub.federation.more = [
        ClusterView(
            id=uuid4(),
            name="mouse-lab",
            institution="Institute of Mice",
            health="degraded",
            health_cause="answers take more than 1 s",
            health_since=datetime.now(UTC) - timedelta(minutes=5),
            last_seen=datetime.now(UTC),
            clock_skew_ms=-42_000,
            flaps=3,
            refused_addresses=("grpc+tls://10.1.1.1:50052: not the address its connection comes from",),
            schema_version=2,
        ),
        ClusterView(id=uuid4(), name="new-lab", standing="waiting", is_active=False),
        ClusterView(id=uuid4(), name="old-lab", standing="inactive", is_active=False, health_cause="deactivated"),
        ClusterView(id=uuid4(), name="partner-lab", standing="pending", is_active=False),
    ]
    worm = "[data-cluster=worm-lab]"

    def story(visit: Visit) -> None:
        visit.sign_in()
        mouse = visit.page.locator("[data-cluster=mouse-lab]")
        mouse.wait_for()
        text = mouse.inner_text()
        assert "answers take more than 1 s" in text
        assert "Its clock is 42 seconds behind." in text
        assert "It was lost 3 times lately." in text
        assert "does not dial announced addresses: grpc+tls://10.1.1.1:50052" in text
        assert "degraded for 5 minutes" in text
        labels = {
            name: visit.page.locator(f"[data-cluster={name}] .health").inner_text()
            for name in ("new-lab", "old-lab", "partner-lab")
        }
        assert labels == {"new-lab": "waits for approval", "old-lab": "deactivated", "partner-lab": "not joined yet"}
        assert "has to approve it" in visit.page.locator("[data-cluster=new-lab]").inner_text()
        assert visit.page.locator(f"{worm} .cause").count() == 0
        assert "1 of 6 nodes healthy" in visit.page.locator("#nodes-summary").inner_text()
        assert visit.complaints == []

    await visit(story)


async def test_an_answer_is_shown_as_table_and_plot_with_the_nodes_that_gave_it(visit):
    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.locator("#rows tbody tr").first.wait_for()
        assert [cell.inner_text() for cell in visit.page.locator("#rows thead th").all()] == ["dataset", "synapses"]
        assert visit.page.locator("#rows tbody tr").first.inner_text().split() == ["worm-a", "10"]
        assert visit.page.locator("#plot rect").count() == 4
        sources = visit.page.locator("#sources").inner_text()
        assert "Answered by worm-lab" in sources
        assert "fly-lab is missing: the node cannot be reached" in sources
        assert "mouse-lab is missing: its schema is too old" in sources
        assert visit.complaints == []
        assert all(url.startswith((visit.url, "data:")) for url in visit.requested)

    await visit(story)


async def test_large_ids_are_shown_exactly_and_counts_for_people(visit, hub):
    hub.queries.tables["synapses"] = pa.table(
        {"root_id": [720575940621039145, 720575940621039146], "cave_id": [1234567, 2], "n": [1234567, 7]}
    )

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask("SELECT root_id, cave_id, n FROM synapses")
        visit.page.locator("#rows tbody tr").first.wait_for()
        row = visit.page.locator("#rows tbody tr").first.inner_text().split()
        assert row == ["720575940621039145", "1234567", "1,234,567"]

    await visit(story)


async def test_a_hub_without_such_data_says_how_to_ask_the_nodes(visit):
    def empty(route: Any) -> None:
        answer = route.fetch()
        job = answer.json()
        job["provenance"]["versions"] = []
        route.fulfill(response=answer, json=job)

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY.replace("SCOPE federation", "SCOPE local"))
        visit.page.locator("#rows tbody tr").first.wait_for()
        assert "SCOPE federation" not in visit.page.locator("#sources").inner_text()
        visit.page.route("**/v1/syql/exec", empty)
        visit.page.get_by_role("button", name="Run").click()
        visit.page.locator("#sources").get_by_text("add SCOPE federation").wait_for()

    await visit(story)


async def test_a_result_can_be_downloaded_also_when_the_hub_has_to_make_the_file_first(visit):
    early = [202]

    def making(route: Any) -> None:
        if early:
            route.fulfill(status=early.pop(), json={"status": "running"})
        else:
            route.continue_()

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.route(re.compile("format=csv"), making)
        with visit.page.expect_download() as download:
            visit.page.get_by_role("button", name="Download as csv").click()
        assert download.value.path().read_text().startswith("dataset,synapses\n")

    await visit(story)


async def test_an_error_is_shown_with_its_place_and_its_hint(visit, hub):
    hub.queries.error = SyQLSyntaxError(
        "Here is something odd.", hint="Take it out.", line=1, column=8, offending="dataset"
    )

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        problem = visit.page.get_by_role("alert")
        problem.wait_for()
        assert "Here is something odd." in problem.inner_text()
        assert "Take it out." in problem.inner_text()
        assert problem.locator("pre").inner_text().splitlines()[1] == " " * 7 + "^" * 7

    await visit(story)


async def test_a_running_query_can_be_cancelled(visit, hub):
    hub.queries.hold = trio.Event()

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.get_by_role("button", name="Cancel").click()
        problem = visit.page.get_by_role("alert")
        problem.wait_for()
        assert "cancelled" in problem.inner_text()

    await visit(story)
    assert hub.queries.running == 0


async def test_what_a_node_says_never_becomes_markup(visit, hub):
    names = hub.queries.tables["synapses"]["dataset"].to_pylist()
    hub.queries.tables["synapses"] = hub.queries.tables["synapses"].set_column(
        0, "dataset", [[f"<img src=x onerror=alert(1)>{name}" for name in names]]
    )

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.locator("#rows tbody tr").first.wait_for()
        assert "<img src=x" in visit.page.locator("#rows tbody tr").first.inner_text()
        assert visit.page.locator("#answer img").count() == 0

    await visit(story)


async def test_without_a_token_the_page_says_how_to_get_one(visit):
    def story(visit: Visit) -> None:
        visit.page.goto(visit.url)
        assert "syndb-hub token create" in visit.page.locator("#token-state").inner_text()
        assert visit.complaints == []

    await visit(story)


async def test_the_page_fits_a_phone(visit):
    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.locator("#rows tbody tr").first.wait_for()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360

    await visit(story, viewport={"width": 360, "height": 740})


async def test_every_control_has_a_name(visit):
    unnamed = """() => [...document.querySelectorAll('input, select, textarea, button, a')].filter(
        each => !each.hidden && !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim()))
        .map(each => each.outerHTML)"""

    def story(visit: Visit) -> None:
        visit.sign_in()
        visit.ask(QUERY)
        visit.page.locator("#rows tbody tr").first.wait_for()
        assert visit.page.evaluate(unnamed) == []

    await visit(story)


async def test_the_api_documentation_renders_without_the_network(visit):
    def story(visit: Visit) -> None:
        visit.page.goto(visit.url + "/docs")
        visit.page.get_by_text("/v1/syql/exec").first.wait_for()
        assert visit.complaints == []
        assert all(url.startswith((visit.url, "data:", "blob:")) for url in visit.requested)

    await visit(story)
