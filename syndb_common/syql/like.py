"""SQL's LIKE as ClickHouse has it, in one step per character of the text, whatever the pattern.

The pattern is an automaton with one state per character to be matched. The set of states reached is the bits of
one integer (Baeza-Yates and Gonnet's shift-and), so nothing is ever tried twice: no pattern backtracks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

_UNITS = re.compile(r"\\[%_\\]|.", re.DOTALL)


def like(pattern: str, *, ignore_case: bool = False) -> Callable[[str], bool]:
    """The test whether a whole text matches a pattern.

    ``%`` is any text, ``_`` one character; a backslash makes ``%``, ``_`` and itself literal, and stands for itself
    before anything else.
    """
    fold = str.casefold if ignore_case else str
    stays = any_character = length = 0
    places: defaultdict[str, int] = defaultdict(int)
    for found in _UNITS.findall(pattern):
        if found == "%":
            stays |= 1 << length
            continue
        if found == "_":
            any_character |= 1 << length
        else:
            places[fold(found[-1])] |= 1 << length
        length += 1

    def matches(text: str) -> bool:
        if length > len(text):
            return False
        reached = 1
        for character in text:
            fits = places.get(fold(character), 0) | any_character
            reached = ((reached & fits) << 1) | (reached & stays)
        return bool(reached >> length & 1)

    return matches


def ends_in_escape(pattern: str) -> bool:
    """Whether the last character is a backslash that escapes nothing, which ClickHouse refuses."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1
