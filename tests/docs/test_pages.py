"""The pages hold together: links lead somewhere, files exist, nothing names a place of one machine."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links, prose, text

PLACES = ("/libp2p/", "/p2p-circuit/", "/ipfs/", "/dev/net/tun",
    "/etc/syndb", "/etc/systemd",
    "/backups", "/var/lib/syndb", "/usr/bin/env", "/home",
    "/v1/", "/health", "/docs", "/openapi.json", "/ip4/", "/dns4/", "/p2p/",
    "/syndb/", "/result", "/metrics",
)  # fmt: skip
"""Absolute paths and routes that mean the same to every reader."""
HOSTS = {"127.0.0.1", "host", "clickhouse.my-lab.example", "example.org", "hub.example.org", "www.w3.org"}


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) < 200


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (PAGES[page].parent / target).resolve() if target else PAGES[page]
        assert path.is_file(), link
        if anchor:
            assert anchor in anchors(path.relative_to(ROOT).as_posix()), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`([\w/]+\.(?:py|sql|svg|service)|[a-z_]+(?:/[a-z_]+)*/)`", prose(page))
    tree = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("[a-z]*/**/*") if ".venv" not in path.parts]
    for name in named:
        wanted = name.rstrip("/")
        data = name in ("engine/",)  # a folder of a daemon's data
        assert data or any(path == wanted or path.endswith(f"/{wanted}") for path in tree), name


@pytest.mark.parametrize("page", [*PAGES, "docs/architecture.svg"])
def test_no_page_names_a_place_of_one_machine(page):
    source = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w.:/*\])}\"$<'%…-])/\w[\w./-]*", source):
        assert path.startswith(PLACES), path
    for url in re.findall(r"https?://[^\s\"'`)>]+", source):
        assert urlsplit(url).hostname in HOSTS, url


def test_every_page_is_reached_from_the_readme():
    reached = {link for link in links("README.md") if link.endswith(".md")}
    assert {page for page in PAGES if page.startswith("docs/")} <= reached


def test_the_picture_adapts_to_dark_pages_and_says_what_it_shows():
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in picture
    assert "<title" in picture
    assert "<desc" in picture
