"""Publishing one extract in a way that Ctrl-C ends at once, also where the server does not answer.

The calls of Arrow Flight cannot be interrupted. They run in a thread of their own: it is asked to stop, which aborts
the upload at the server, and is left behind when it does not. What was not published leaves nothing behind there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from syndb_cli.background import in_background
from syndb_cli.etl.source import Extract, Progress
from syndb_common.errors import Cancelled, SynDBError
from syndb_common.flight.uploader import UploadTarget, upload
from syndb_common.flight.uploads import PublishResult

GRACE_SECONDS = 2.0
"""How long an upload that was asked to stop may take to abort at the server."""


def publish(target: UploadTarget, extract: Extract, tables: Sequence[str], progress: Progress) -> PublishResult:
    """Upload ``tables`` of one data set and publish them as its newest version.

    Raises:
        Cancelled: by Ctrl-C; the message says what became of the data set.
        SynDBError: as :func:`syndb_common.flight.uploader.upload`.
    """
    kept = {name: extract.tables[name] for name in tables}
    name = extract.metadata.dataset
    stopping, all_sent = threading.Event(), threading.Event()

    def on_rows(table: str, done: int, total: int) -> None:
        if stopping.is_set():
            raise Cancelled("stopped")
        if table == tables[-1] and done == total:
            all_sent.set()
        progress(f"uploading {name}: {table}", done, total)

    outcome = in_background(lambda: upload(target, extract.metadata, extract.dataset_id, kept, on_rows), "upload")
    try:
        return outcome.result()
    except KeyboardInterrupt:
        stopping.set()
    try:
        outcome.result(GRACE_SECONDS)
        fate = f"{name} was published already"
    except (TimeoutError, SynDBError):
        fate = (
            f"{name} was sent whole and may be published" if all_sent.is_set() else f"nothing of {name} was published"
        )
    raise Cancelled(f"the import was stopped; {fate}", hint="Repeat the command: equal content is published once.")
