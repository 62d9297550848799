"""The engine process: sole owner of one ClickHouse folder, started by a daemon and gone with it.

``python -m syndb_common.engine.process FD FOLDER PORT`` where FD is the control channel, FOLDER its own folder and
PORT what its Flight server may listen on (0: any, ``-``: none). The order matters: lock the folder, confine the
process, and only then import what starts threads. When the control channel ends it exits at once, whatever it does:
ClickHouse is built to be killed, and no process may stay behind holding the lock.
"""

from __future__ import annotations

import sys
from pathlib import Path

from syndb_common.engine import lock


def main() -> None:
    """Run until the control channel ends."""
    channel, folder = int(sys.argv[1]), Path(sys.argv[2])
    port = None if sys.argv[3] == "-" else int(sys.argv[3])
    held = lock.take(folder)
    confined = False
    if held is not None:
        from syndb_common.engine.landlock import confine

        confined = confine(folder, port)

    from syndb_common.engine.child import serve

    serve(channel, folder, locked=held is not None, confined=confined)


if __name__ == "__main__":
    main()
