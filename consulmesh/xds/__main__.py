"""A shared ADS server for clients outside the mesh's processes: `python -m consulmesh.xds`.

Same resources as each process serves to itself, for grpcurl and for clients in other languages. It
listens on MESH_XDS_PORT (18000), is registered as `mesh-ads`, and writes the bootstrap that those
clients need to `<MESH_STATE_DIR>/xds-bootstrap.json`. In the secure profile it is mTLS, each client
has a bootstrap of its own (`python -m consulmesh.companion`), and its certificate names its
address, by which those clients verify it.
"""

import os
from dataclasses import replace
from typing import Final

from consulmesh.config import Environment, MeshConfig
from consulmesh.mesh import Mesh, run
from consulmesh.xds.bootstrap import SHARED_ADS, bootstrap, write
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server

VERSION: Final = "0.1.0"
PORT: Final = 18000
PORTS: Final = range(65536)


async def main() -> None:
    """Serve until told to stop."""
    config = replace(
        MeshConfig.from_env(os.environ, version=VERSION),
        port=Environment(os.environ).read("MESH_XDS_PORT", _port, PORT),
        address_signed=True,
    )
    async with Mesh.join(SHARED_ADS, config) as mesh:
        server = mesh.server(status_codes={})
        add_AggregatedDiscoveryServiceServicer_to_server(mesh.ads, server)

        async def publish() -> None:
            path = config.state_dir / "xds-bootstrap.json"
            write(bootstrap(mesh.address, node="mesh-client"), path)

        await mesh.serve(server, warm=None if config.secure else publish)


def _port(text: str) -> int:
    if (port := int(text)) not in PORTS:
        raise ValueError(f"{port} is not a port")
    return port


if __name__ == "__main__":
    run(main)
