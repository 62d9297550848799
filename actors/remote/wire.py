"""Messages of libp2p's own protocols: a varint of the length, then a protocol buffer."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message
from libp2p.abc import INetStream
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from actors.remote.frames import StreamEnded

MAX_MESSAGE_BYTES = 64 * 1024

MessageT = TypeVar("MessageT", bound=Message)


async def write_message(stream: INetStream, message: Message) -> None:
    """Send one message; the caller sets the deadline.

    Raises:
        StreamEnded: the stream is over.
    """
    try:
        await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except Exception as error:
        raise StreamEnded from error


async def read_message(stream: INetStream, kind: type[MessageT]) -> MessageT:
    """The next message, and not a byte more; the caller sets the deadline.

    Raises:
        StreamEnded: the stream is over, or carries something that is no such message of at most
            ``MAX_MESSAGE_BYTES``.
    """
    message = kind()
    try:
        message.ParseFromString(await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE_BYTES))
    except Exception as error:
        raise StreamEnded from error
    return message
