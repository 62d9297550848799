"""The engine process: sole owner of one ClickHouse folder, started by a daemon and gone with it.

``python -m syndb_common.engine.process FD FOLDER PORT SERVER CA`` where FD is the control channel, FOLDER its own
folder, PORT what its Flight server may listen on (0: any, ``-``: none), SERVER the port of the ClickHouse server it
uses and CA the file that says which one to trust (``-``: none). The order matters: lock the folder, confine the
process, and only then import what starts threads. When the control channel ends it exits at once, whatever it does:
ClickHouse is built to be killed, and no process may stay behind holding the lock.
"""

from __future__ import annotations

import sys
from pathlib import Path

from syndb_common.engine import lock


class _Unused:
    """Pandas, to be found nowhere: pyarrow and chdb load it by themselves where they can, which takes a quarter of a
    second of a start and 40 MB, and nothing here uses it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the engine process does without pandas", name=name)


def main() -> None:
    """Run until the control channel ends."""
    channel, folder = int(sys.argv[1]), Path(sys.argv[2])
    port, server, authority = (None if word == "-" else word for word in sys.argv[3:6])
    held = lock.take(folder)
    confined = False
    if held is not None:
        from syndb_common.engine.landlock import confine

        confined = confine(
            folder,
            None if port is None else int(port),
            server_port=None if server is None else int(server),
            ca_file=None if authority is None else Path(authority),
            readable=[Path(word) for word in sys.argv[6:]],
        )

    sys.meta_path.insert(0, _Unused())
    from syndb_common.engine.child import serve

    serve(channel, folder, locked=held is not None, confined=confined)


if __name__ == "__main__":
    main()
