"""Print the address of this container in the network that it has in common with Consul.

A container in several networks has several; Consul and the mesh are in one. Nothing is sent.
"""

import os
import socket
from urllib.parse import urlsplit


def main() -> None:
    """Entry point."""
    url = os.environ["CONSUL_HTTP_ADDR"]
    parts = urlsplit(url if "://" in url else f"//{url}")
    family, kind, _, _, address = socket.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM
    )[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        print(probe.getsockname()[0])  # noqa: T201 - the entrypoint reads it


if __name__ == "__main__":
    main()
