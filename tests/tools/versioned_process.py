"""A service of the mesh that says its version: `python -m tests.tools.versioned_process`.

`test.v1.EchoService/Get` answers with MESH_VERSION; with FAILING=2 every second call is INTERNAL.
"""

import os
from itertools import count
from typing import Any

import grpc

from consulmesh import Mesh, MeshConfig, run
from tests.consulmesh.xds_process import SERVICE


async def main() -> None:
    """Serve until told to stop."""
    config = MeshConfig.from_env(os.environ, version="0.0.0")
    failing = int(os.environ.get("FAILING", "0"))
    numbers = count(1)

    async def get(_request: bytes, context: Any) -> bytes:
        if failing and next(numbers) % failing == 0:
            await context.abort(grpc.StatusCode.INTERNAL, "as it was told to")
        return config.version.encode()

    async with Mesh.join("echo", config) as mesh:
        server = mesh.server(status_codes={})
        handlers: dict[str, Any] = {"Get": grpc.unary_unary_rpc_method_handler(get)}
        server.add_registered_method_handlers(SERVICE, handlers)
        await mesh.serve(server)


if __name__ == "__main__":
    run(main)
