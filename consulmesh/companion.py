"""A member for a program in another language, which calls: `python -m consulmesh.companion web`.

Keeps the certificate of a service renewed in a folder, `<MESH_STATE_DIR>/identities/<instance>/`,
and serves xDS there on a Unix socket, which nobody else may open. A program calls as that service,
by mTLS where that is the profile, if its GRPC_XDS_BOOTSTRAP is the `bootstrap.json` of this folder.
The companion may be restarted beneath it.

With `--once` it ends when the certificate is there, which is then good for as long as Consul signs,
and the bootstrap names the shared ADS (`mesh-ads`), by mTLS. gRPC in Node can't do that.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
import structlog

from consulmesh.config import ConfigError, MeshConfig
from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.instances import Listed
from consulmesh.lifecycle import drained_by_signals
from consulmesh.member import literal
from consulmesh.mesh import Mesh, run
from consulmesh.operators import PATIENCE
from consulmesh.private import write_private
from consulmesh.xds.bootstrap import SHARED_ADS
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server

BOOTSTRAP: Final = "bootstrap.json"
VERSION: Final = "0.1.0"
LONGEST_SOCKET_PATH: Final = 103

_log = structlog.get_logger()


async def keep(service: str, config: MeshConfig) -> None:
    """Be the companion of programs that call as a service, until told to stop."""
    async with Mesh.join(service, config) as mesh:
        socket = mesh.folder / "xds.sock"

        async def publish() -> None:
            await mesh.certified()
            _publish(mesh, mesh.bootstrap(f"unix:{socket}"))

        with drained_by_signals(mesh.draining):
            async with _serving(mesh, socket):
                mesh.start(publish(), name="publishing")
                await mesh.draining.wait()


async def once(service: str, config: MeshConfig) -> None:
    """Leave a certificate, and a bootstrap that names the shared ADS.

    Raises ConsulError, TimeoutError, or ConfigError where there is no shared ADS.
    """
    async with (
        asyncio.timeout(PATIENCE.total_seconds()),
        ConsulApi(config.consul_url, config.consul_token, config.consul_roots) as consul,
        Mesh.join(service, config) as mesh,
    ):
        await mesh.certified()
        listed = (await consul.ask(Query.health(SHARED_ADS))).data
        usable = [each.instance for each in map(Listed.of, listed) if each.usable]
        if not usable:
            raise ConfigError(f"Consul lists no {SHARED_ADS}")
        server = f"{literal(usable[0].address)}:{usable[0].port}"
        _publish(mesh, mesh.bootstrap(server, tls=config.secure))


def _publish(mesh: Mesh, bootstrap: str) -> None:
    file = mesh.folder / BOOTSTRAP
    write_private(file, f"{bootstrap}\n".encode(), durable=False)
    _log.info("bootstrap", service=mesh.service, file=str(file))


@asynccontextmanager
async def _serving(mesh: Mesh, socket: Path) -> AsyncIterator[None]:
    """Serve xDS on a socket in a folder that nobody else may enter."""
    if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
        raise ConfigError(f"MESH_STATE_DIR: {socket} is too long for a socket")
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.parent.chmod(0o700)
    server = grpc.aio.server()
    add_AggregatedDiscoveryServiceServicer_to_server(mesh.ads, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
        await mesh.ads.idle()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m consulmesh.companion", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end when the certificate is there")
    parser.add_argument("service", help="whose name the programs have, and whose token this is")
    given = parser.parse_args()

    async def companion() -> None:
        config = MeshConfig.from_env(os.environ, version=VERSION)
        if not given.once:
            await keep(given.service, config)
            return
        try:
            await once(given.service, config)
        except (ConsulError, TimeoutError) as error:
            _log.critical("cannot_start", reason=str(error) or "Consul signs no certificate")
            sys.exit(1)

    run(companion)


if __name__ == "__main__":
    main()
