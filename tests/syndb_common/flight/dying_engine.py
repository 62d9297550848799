"""An engine process that gets a signal at a chosen statement: run by what stands in for the interpreter.

The file ``die`` in its folder says when: ``{"at": regular expression, "when": "before" | "during" | "after", "skip": n,
"how": number of the signal}``. It is removed first. During an insert is after its first bytes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.argv = sys.argv[sys.argv.index("syndb_common.engine.process") :]

from syndb_common.engine import landlock, process  # noqa: E402

ORDER = Path(sys.argv[2]) / "die"


def reached(when: str, sql: str) -> None:
    """Send the signal if this is the moment."""
    try:
        order = json.loads(ORDER.read_bytes())
    except FileNotFoundError:
        return
    if order["when"] != when or not re.search(order["at"], sql):
        return
    if order["skip"]:
        ORDER.write_text(json.dumps({**order, "skip": order["skip"] - 1}))
        return
    ORDER.unlink()
    os.kill(os.getpid(), order["how"])


def mortal() -> None:
    """Have every statement ask whether it is the last."""
    from syndb_common.engine.embedded_backend import EmbeddedConnection
    from syndb_common.engine.server_backend import ServerConnection

    for kind in (EmbeddedConnection, ServerConnection):
        _watch(kind)


def _watch(kind: Any) -> None:
    run, start, insert = kind.run, kind.start, kind.insert

    def dying_run(self: Any, sql: str) -> None:
        reached("before", sql)
        run(self, sql)
        reached("after", sql)

    def dying_start(self: Any, sql: str) -> Any:
        reached("before", sql)
        stream = start(self, sql)
        reached("after", sql)
        return stream

    def dying_insert(self: Any, target: str, columns: Sequence[str], content: Iterator[bytes]) -> int:
        sql = f"INSERT INTO {target}"

        def pieces() -> Iterator[bytes]:
            for piece in content:
                yield piece
                reached("during", sql)

        reached("before", sql)
        written = insert(self, target, columns, pieces())
        reached("after", sql)
        return written

    for name, method in (("run", dying_run), ("start", dying_start), ("insert", dying_insert)):
        setattr(kind, name, method)


confine = landlock.confine


def confine_and_hook(*arguments: Any, **named: Any) -> bool:
    """What loads ClickHouse comes after the confinement."""
    confined = confine(*arguments, **named)
    mortal()
    return confined


landlock.confine = confine_and_hook
process.main()
