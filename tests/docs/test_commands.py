"""Commands that the pages name exist, with the options they are given; and no command is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from syndb_cli.main import app as syndb
from syndb_hub.main import app as syndb_hub
from syndb_node.main import app as syndb_node
from tests.docs.pages import PAGES, blocks, prose

PROGRAMS: dict[str, Any] = {
    "syndb": typer.main.get_command(syndb),
    "syndb-hub": typer.main.get_command(syndb_hub),
    "syndb-node": typer.main.get_command(syndb_node),
}


def named(page: str) -> Iterator[str]:
    """Every call of one of our programs, in code blocks and in the text."""
    for block in blocks(page):
        if block.language in ("console", "sh"):
            lines = block.content.replace("\\\n", " ").splitlines()
            yield from (re.sub(r"^\W*(?:\.venv/bin/)?", "", line).split(" #")[0] for line in lines)
    yield from re.findall(r"`([^`]+)`", prose(page))


def resolved(words: list[str]) -> tuple[str, Any]:
    """The command that words lead to, and its full name."""
    command, path = PROGRAMS[words[0]], words[0]
    for word in words[1:]:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        assert word in command.commands, f"{path} has no command {word}"
        command, path = command.commands[word], f"{path} {word}"
    return path, command


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"docs/protocol.md"}))  # whose labels look like commands
def test_commands_and_options_exist(page):
    for call in named(page):
        words = call.split()
        if not words or words[0] not in PROGRAMS or "<dataset>" in call:
            continue
        path, command = resolved(words)
        options = {name for parameter in command.params for name in parameter.opts}
        given = re.findall(r"(?<=\s)--[\w-]+", call)
        assert set(given) <= options, path


def test_every_command_is_named_in_a_page():
    text = "\n".join(prose(page) + "\n".join(block.content for block in blocks(page)) for page in PAGES)
    pending = list(PROGRAMS.items())
    while pending:
        path, command = pending.pop()
        if hasattr(command, "commands"):
            pending.extend((f"{path} {name}", below) for name, below in command.commands.items())
        else:
            last = path.split()[-1]
            assert path in text or f"`{last}`" in text or f"`token {last}" in text or path.startswith("syndb etl"), path
