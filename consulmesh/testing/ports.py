"""Ports for servers that must keep theirs over a restart, or that cannot bind port 0."""

import random
import socket

FROM, TO = 20_000, 32_000  # below the range that Linux gives to outgoing connections


def free_port() -> int:
    """Return a TCP and UDP port of loopback that is free now and unlikely to be given away."""
    while True:
        port = random.randrange(FROM, TO)  # noqa: S311 - so that parallel runs rarely meet
        if _is_free(port, socket.SOCK_STREAM) and _is_free(port, socket.SOCK_DGRAM):
            return port


def free_ports(count: int) -> list[int]:
    """Return so many of them, no two alike."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return [*found]


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
