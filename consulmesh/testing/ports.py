"""Ports for servers that must keep theirs over a restart, or that cannot bind port 0."""

import itertools
import random
import socket
from collections.abc import Iterator
from typing import Final

FROM, TO = 20_000, 32_000  # below the range that Linux gives to outgoing connections

_drawn: Final[Iterator[int]] = itertools.cycle(
    random.SystemRandom().sample(range(FROM, TO), TO - FROM)
)
"""Shuffled, so that parallel runs rarely meet; the one run never meets itself."""


def free_port() -> int:
    """Return a TCP and UDP port of loopback that is free now and unlikely to be given away.

    A process is given each port once, until it was given all of them.
    """
    return next(
        port
        for port in _drawn
        if _is_free(port, socket.SOCK_STREAM) and _is_free(port, socket.SOCK_DGRAM)
    )


def free_ports(count: int) -> list[int]:
    """Return so many of them, no two alike."""
    return [free_port() for _ in range(count)]


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
