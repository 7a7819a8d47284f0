"""A peer that breaks HTTP/2's rules, or keeps to them and means harm (RFC 9113)."""
# ruff: noqa: ARG001 - every abuse is told the same

import random
import select
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Final

from tests.consulmesh.raw_reader import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    headers,
    literal,
)

GOAWAY: Final = 7
CONTINUATION: Final = 9
PRIORITY: Final = 2
PUSH_PROMISE: Final = 5
_CANCEL: Final = struct.pack(">I", 8)
_HELLO: Final = PREFACE + frame(SETTINGS, 0, 0)
_LARGEST_STREAM: Final = 2**31 - 1
_READ: Final = 1 << 20

Octets = Iterator[bytes]
Abuse = Callable[[str, int], Octets]
"""What is sent, for the path of a unary method and a number of repetitions."""


@dataclass
class Outcome:
    """What came back: frames by kind, why the peer left, if it did."""

    sent: int = 0
    frames: Counter[int] = field(default_factory=Counter)
    closed: bool = False
    _unread: bytes = b""

    def read(self, octets: bytes) -> None:
        """Take what was received."""
        self._unread += octets
        while len(self._unread) >= HEAD:
            end = HEAD + int.from_bytes(self._unread[:3])
            if len(self._unread) < end:
                return
            self.frames[self._unread[3]] += 1
            self._unread = self._unread[end:]

    @property
    def refused(self) -> bool:
        """Whether the connection or a stream of it was ended."""
        ended = (GOAWAY, RESET, HEADERS)
        return self.closed or any(self.frames[kind] for kind in ended)


def sent(port: int, octets: Octets, quiet: float, patience: float = 0) -> Outcome:
    """Send all that is taken, then read until the peer leaves or has said nothing for so long.

    Until it has refused, for as long as the patience.
    """
    outcome = Outcome()
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setblocking(False)  # noqa: FBT003 - it takes no name
        waiting = memoryview(b"".join(octets))
        last = time.monotonic()
        while not outcome.closed:
            silent = time.monotonic() - last
            if silent > (quiet if outcome.refused else max(quiet, patience)):
                break
            readable, writable, _ = select.select([peer], [peer] if waiting else [], [], 0.05)
            if not readable and not writable:
                continue
            last = time.monotonic()
            try:
                if writable:
                    count = peer.send(waiting[:_READ])
                    outcome.sent += count
                    waiting = waiting[count:]
                if readable:
                    received = peer.recv(_READ)
                    outcome.closed = not received
                    outcome.read(received)
            except (ConnectionResetError, BrokenPipeError):
                outcome.closed = True
    return outcome


def rapid_reset(path: str, times: int) -> Octets:
    """Calls that are taken back at once (CVE-2023-44487)."""
    yield _HELLO
    block = headers(path)
    for number in range(times):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, block) + frame(RESET, 0, stream, _CANCEL)


def streams_left_open(path: str, times: int) -> Octets:
    """Calls that never send their request."""
    yield _HELLO
    block = headers(path)
    for number in range(times):
        yield frame(HEADERS, END_HEADERS, 2 * number + 1, block)


def pings(path: str, times: int) -> Octets:
    """Pings that nobody needs (CVE-2019-9512)."""
    yield _HELLO
    yield from repeat(frame(PING, 0, 0, b"12345678"), times)


def mute(path: str, times: int) -> Octets:
    """A first word, and no answer to anything after it."""
    yield _HELLO


def settings(path: str, times: int) -> Octets:
    """Settings over and over (CVE-2019-9515)."""
    yield _HELLO
    for number in range(times):
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535 + number))


def large_frame(path: str, times: int) -> Octets:
    """A frame that is larger than any may be."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path))
    yield frame(DATA, END_STREAM, 1, bytes(2**24 - 1))


def large_headers(path: str, times: int) -> Octets:
    """More headers than anybody takes, in one block."""
    block = headers(path) + b"".join(literal(f"x-{n}", "y" * 1_000) for n in range(times))
    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    yield _HELLO + frame(HEADERS, 0, 1, parts[0])
    for part in parts[1:-1]:
        yield frame(CONTINUATION, 0, 1, part)
    yield frame(CONTINUATION, END_HEADERS, 1, parts[-1])


def header_bomb(path: str, times: int) -> Octets:
    """One header, remembered, then said by an octet as often as fits (CVE-2016-6581)."""
    remembered = b"\x40" + literal("x", "y" * 3_900)[1:]
    yield _HELLO
    for number in range(max(1, times // 1_000)):
        block = headers(path) + remembered + b"\xbe" * 15_000
        yield frame(HEADERS, END_HEADERS, 2 * number + 1, block[:16_384])


def continuation_flood(path: str, times: int) -> Octets:
    """A header block without an end, of nothing (CVE-2024-27316)."""
    yield _HELLO + frame(HEADERS, 0, 1, headers(path))
    yield from repeat(frame(CONTINUATION, 0, 1), times)


def headers_without_end(path: str, times: int) -> Octets:
    """A header block that is begun."""
    yield _HELLO + frame(HEADERS, 0, 1, headers(path))


def slow_headers(path: str, times: int) -> Octets:
    """A frame of headers, octet by octet, and not to its end."""
    yield _HELLO
    whole = frame(HEADERS, END_HEADERS, 1, headers(path))
    for octet in whole[:-1]:
        yield bytes([octet])


def data_after_the_end(path: str, times: int) -> Octets:
    """Data on a stream that was closed."""
    yield _HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, headers(path))
    yield from repeat(frame(DATA, 0, 1, bytes(16_000)), times // 100)


def length_too_long(path: str, times: int) -> Octets:
    """A message that says that it has 4 GiB, and ends."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path))
    yield frame(DATA, END_STREAM, 1, b"\0\xff\xff\xff\xff" + b"x" * 10)


def length_too_short(path: str, times: int) -> Octets:
    """A message with more octets than it says."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path))
    yield frame(DATA, END_STREAM, 1, b"\0\0\0\0\1" + b"x" * 10)


def compressed_with_nothing(path: str, times: int) -> Octets:
    """A message that says it is compressed, in a call that does not say how."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path))
    yield frame(DATA, END_STREAM, 1, b"\1\0\0\0\4abcd")


def compressed_by_nobody(path: str, times: int) -> Octets:
    """A message compressed in a way that there is not."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path, grpc_encoding="zoo"))
    yield frame(DATA, END_STREAM, 1, b"\1\0\0\0\4abcd")


def compressed_bomb(path: str, times: int) -> Octets:
    """Messages of less than 64 KiB that become 56 MiB each, in many calls at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(56)) + packer.flush()
    message = b"\1" + len(packed).to_bytes(4) + packed
    yield _HELLO
    for number in range(max(1, times // 200)):
        stream = 2 * number + 1
        yield frame(HEADERS, END_HEADERS, stream, headers(path, grpc_encoding="gzip"))
        for at in range(0, len(message), 16_000):
            end = END_STREAM if at + 16_000 >= len(message) else 0
            yield frame(DATA, end, stream, message[at : at + 16_000])


def windows(path: str, times: int) -> Octets:
    """A window that grows beyond what a window may be."""
    yield _HELLO
    yield from repeat(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)), times)


def window_of_a_stream(path: str, times: int) -> Octets:
    """The same of a stream."""
    yield _HELLO + frame(HEADERS, END_HEADERS, 1, headers(path))
    yield from repeat(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2**31 - 1)), times)


def forbidden_frames(path: str, times: int) -> Octets:
    """A stream of the server's number, which depends on itself, and a promise."""
    yield _HELLO + frame(PRIORITY, 0, 3, struct.pack(">IB", 3, 1))
    yield frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + headers(path))
    yield frame(HEADERS, END_HEADERS, 2, headers(path)) + frame(HEADERS, END_HEADERS, 0, b"")


def last_stream(path: str, times: int) -> Octets:
    """The last number a stream can have, then the first."""
    block = headers(path)
    yield _HELLO + frame(HEADERS, END_HEADERS, _LARGEST_STREAM, block)
    yield frame(HEADERS, END_HEADERS, 1, block)


def noise(path: str, times: int) -> Octets:
    """No HTTP/2 at all."""
    yield random.Random(2).randbytes(100_000)


def http1(path: str, times: int) -> Octets:
    """Another protocol."""
    yield b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


def noise_in_frames(path: str, times: int) -> Octets:
    """Frames of any kind, with anything in them."""
    source = random.Random(2)
    yield _HELLO
    for _ in range(times // 10):
        payload = source.randbytes(source.randrange(200))
        yield frame(source.randrange(12), source.randrange(256), source.randrange(9), payload)


def silence(path: str, times: int) -> Octets:
    """A connection, and nothing on it."""
    yield b""


ABUSES: Final[tuple[Abuse, ...]] = (
    rapid_reset,
    streams_left_open,
    pings,
    settings,
    large_frame,
    large_headers,
    header_bomb,
    continuation_flood,
    headers_without_end,
    slow_headers,
    data_after_the_end,
    length_too_long,
    length_too_short,
    compressed_with_nothing,
    compressed_by_nobody,
    compressed_bomb,
    windows,
    window_of_a_stream,
    forbidden_frames,
    last_stream,
    noise,
    http1,
    noise_in_frames,
    silence,
)
