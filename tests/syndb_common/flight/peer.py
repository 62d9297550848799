"""A peer of a Flight server that speaks HTTP/2 itself, and so may do what no Flight client does."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.events
import h2.exceptions

UNAUTHENTICATED, UNIMPLEMENTED, OURS = "16", "12", "2"
"""Codes of gRPC; the last stands for all errors of ours that gRPC has no code for."""


class Peer:
    """One connection to ``grpc+tls://host:port``, without anything that Flight would do of its own."""

    def __init__(self, location: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        place = urlsplit(location)
        self._socket = context.wrap_socket(socket.create_connection((str(place.hostname), int(place.port or 0))))
        self._socket.settimeout(20)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self.ended: dict[int, str] = {}
        """Codes with which the server has ended streams."""
        self.closed = False
        self._flush()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def call(self, method: str, secret: str = "") -> int:
        """Begin a call, and send nothing but its headers."""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", f"/arrow.flight.protocol.FlightService/{method}"),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if secret:
            headers.append(("authorization", f"Bearer {secret}"))
        self._h2.send_headers(stream, headers)
        self._flush()
        return stream

    def pour(self, stream: int, size: int) -> int:
        """Send so much of one message as the server takes; returns the bytes that went out."""
        self._send(stream, struct.pack(">BI", 0, size))
        sent = 0
        while sent < size and not self.closed:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, size - sent)
            if room:
                self._send(stream, b"\x0a" + bytes(room - 1))
                sent += room
            else:
                self.listen(5)
        return sent

    def listen(self, seconds: float) -> None:
        """Take in what the server sends next, within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            received = self._socket.recv(65_536)
        except TimeoutError:
            return
        except OSError:
            received = b""
        if not received:
            self.closed = True
            return
        for event in self._h2.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers = {bytes(name): bytes(value).decode() for name, value in event.headers or ()}
                if b"grpc-status" in headers:
                    self.ended[event.stream_id] = headers[b"grpc-status"]
        self._flush()

    def until(self, ended: int, seconds: float = 20) -> None:
        """Listen until so many streams have been ended, or the connection."""
        end = time.monotonic() + seconds
        while len(self.ended) < ended and not self.closed:
            assert time.monotonic() < end, f"{len(self.ended)} of {ended} calls were answered"
            self.listen(0.2)

    def until_closed(self, seconds: float = 20) -> None:
        """Listen until the server has closed the connection."""
        end = time.monotonic() + seconds
        while not self.closed:
            assert time.monotonic() < end, "the connection is still open"
            self.listen(0.2)

    def _send(self, stream: int, content: bytes) -> None:
        self._h2.send_data(stream, content)
        self._flush()

    def _flush(self) -> None:
        try:
            self._socket.sendall(self._h2.data_to_send())
        except OSError:
            self.closed = True
