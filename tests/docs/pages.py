"""The pages as tests see them: text, code blocks, tables, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its content, and whether nothing but blank lines stands before the next one."""

    language: str
    content: str
    followed: bool


def text(page: str) -> str:
    """A page's Markdown."""
    return PAGES[page].read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    source = text(page)
    found = list(_FENCE.finditer(source))
    return [
        Block(match[1], match[2], not source[match.end() : after.start() if after else None].strip())
        for match, after in zip(found, [*found[1:], None], strict=False)
    ]


def examples(page: str, language: str) -> list[tuple[str, str]]:
    """Every block of a language with the output shown right below it, or an empty text."""
    found = blocks(page)
    shown = [*found[1:], Block("", "", False)]
    return [
        (block.content, after.content if block.followed and after.language == "text" else "")
        for block, after in zip(found, shown, strict=True)
        if block.language == language
    ]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text(page))


def rows(page: str) -> Iterator[list[str]]:
    """The rows of all tables of a page, headings and rules left out."""
    table: list[list[str]] = []
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split(" | ")])
        else:
            yield from table[2:]
            table = []


def anchors(page: str) -> set[str]:
    """What links to the headings of a page may say behind the hash sign."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Targets of all links and pictures of a page."""
    return re.findall(r"\]\(([^)]+)\)", prose(page))
