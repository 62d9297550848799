"""How options may be spelled: ``--data-dir`` is documented, ``--data_dir`` is understood."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def dashed(token: str) -> str:
    """An option or command as the help spells it."""
    return token.replace("_", "-")


class DashedGroup(TyperGroup):
    """A group of commands that accepts underscores for dashes in the names of options, here and in all below it."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """As in typer, with names normalised; values of options are left as they are."""
        extra.setdefault("token_normalize_func", dashed)
        return super().make_context(*args, **extra)
