"""A client of gRPC that speaks HTTP/2 by hand: it can stop reading, which gRPC's own never does."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, Never

DATA: Final = 0
HEADERS: Final = 1
RESET: Final = 3
SETTINGS: Final = 4
PING: Final = 6
WINDOW_UPDATE: Final = 8
ACK: Final = 1
END_STREAM: Final = 1
END_HEADERS: Final = 4
_STREAM: Final = 1
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = 9  # octets of a frame's head (RFC 9113, 4.1)


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
        self._writer.write(PREFACE)
        self._send(SETTINGS, 0, 0)
        self._send(HEADERS, END_HEADERS, _STREAM, headers(path))
        self._send(DATA, END_STREAM, _STREAM, b"\0" + len(request).to_bytes(4) + request)

    def open_window(self, octets: int) -> None:
        """Take so many more."""
        for stream in (0, _STREAM):
            self._send(WINDOW_UPDATE, 0, stream, struct.pack(">I", octets))

    async def only_answer(self) -> Never:
        """Answer pings, and take no more than the windows have room for, until cancelled.

        The call's end is not seen: its status waits behind what there is no room for.
        """
        while True:
            await self.frame()

    async def frame(self) -> Frame:
        """The next frame of the call."""
        while True:
            head = await self._reader.readexactly(HEAD)
            size = int.from_bytes(head[:3])
            payload = await self._reader.readexactly(size)
            frame = Frame(head[3], head[4], int.from_bytes(head[5:]), payload)
            if frame.stream == _STREAM and frame.kind != WINDOW_UPDATE:
                return frame
            if frame.kind in {SETTINGS, PING} and not frame.flags & ACK:
                self._send(frame.kind, ACK, 0, payload if frame.kind == PING else b"")

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._writer.write(frame(kind, flags, stream, payload))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The octets of a frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def headers(path: str, **more: str) -> bytes:
    """The header block of a call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "raw",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return b"".join(map(literal, fields, fields.values()))


def literal(name: str, value: str) -> bytes:
    """A header field, not indexed and without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(_length(len(text)) + text.encode() for text in (name, value))


def _length(octets: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if octets < 0x7F:
        return bytes([octets])
    octets -= 0x7F
    coded = bytearray([0x7F])
    while octets > 0x7F:
        coded.append(octets & 0x7F | 0x80)
        octets >>= 7
    return bytes([*coded, octets])


@asynccontextmanager
async def raw_reader(port: int) -> AsyncIterator[RawReader]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawReader(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()
