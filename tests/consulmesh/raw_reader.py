"""A client of gRPC that speaks HTTP/2 by hand: it can stop reading, which gRPC's own never does."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

DATA: Final = 0
HEADERS: Final = 1
RESET: Final = 3
_SETTINGS: Final = 4
_PING: Final = 6
_WINDOW_UPDATE: Final = 8
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_STREAM: Final = 1
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD: Final = 9  # octets of a frame's head (RFC 9113, 4.1)


class Frame(NamedTuple):
    """A frame of HTTP/2."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class RawReader:
    """One call of a streaming method; answers pings and settings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def call(self, path: str, request: bytes = b"") -> None:
        """Ask; the windows are those of the protocol, 65,535 octets."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "raw",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(map(_literal, headers, headers.values()))
        self._writer.write(_PREFACE)
        self._send(_SETTINGS, 0, 0)
        self._send(HEADERS, _END_HEADERS, _STREAM, block)
        self._send(DATA, _END_STREAM, _STREAM, b"\0" + len(request).to_bytes(4) + request)

    def open_window(self, octets: int) -> None:
        """Take so many more."""
        for stream in (0, _STREAM):
            self._send(_WINDOW_UPDATE, 0, stream, struct.pack(">I", octets))

    async def frame(self) -> Frame:
        """The next frame of the call."""
        while True:
            head = await self._reader.readexactly(_HEAD)
            size = int.from_bytes(head[:3])
            payload = await self._reader.readexactly(size)
            frame = Frame(head[3], head[4], int.from_bytes(head[5:]), payload)
            if frame.stream == _STREAM and frame.kind != _WINDOW_UPDATE:
                return frame
            if frame.kind in {_SETTINGS, _PING} and not frame.flags & _ACK:
                self._send(frame.kind, _ACK, 0, payload if frame.kind == _PING else b"")

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        size = len(payload).to_bytes(3)
        self._writer.write(size + bytes([kind, flags]) + stream.to_bytes(4) + payload)


def _literal(name: str, value: str) -> bytes:
    """A header field, never indexed and without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


@asynccontextmanager
async def raw_reader(port: int) -> AsyncIterator[RawReader]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawReader(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
