"""Files as answers: with length and checksum, and from any byte on."""

from __future__ import annotations

import base64
from pathlib import Path

import trio
from starlette.responses import FileResponse

from syndb_common.errors import NotFound


async def file_response(path: Path, *, name: str, sha256: str, media_type: str) -> FileResponse:
    """A file that never changes under its checksum. ``Range`` and ``If-Range`` are honoured; what a reader does not
    take stays on disk.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    try:
        stat = await trio.Path(path).stat()
    except FileNotFoundError:
        raise NotFound("the file is not kept any more", hint="Ask for it again.") from None
    headers = {
        "etag": f'"{sha256}"',
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
    }
    return FileResponse(path, headers=headers, media_type=media_type, filename=name, stat_result=stat)
