"""A service of the mesh as a process of its own: `python -m tests.consulmesh.xds_process`.

`test.v1.EchoService/Get` answers with the instance id, `Ping` with nothing; `Slow` takes 300 ms and
`Sleep` a minute, `Watch` streams until it is cut, `Fail` is a background job that fails.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import grpc

from consulmesh import Member, Mesh, MeshConfig, run

SERVICE = "test.v1.EchoService"


async def main() -> None:
    """Serve until told to stop."""
    config = MeshConfig.from_env(os.environ, version="1.2.3")
    async with Mesh.join("echo", config) as mesh:
        server = mesh.server(status_codes={})
        server.add_registered_method_handlers(SERVICE, handlers(mesh))
        await mesh.serve(server)


def handlers(mesh: Member) -> dict[str, Any]:
    """Return the methods of the service."""

    async def get(_request: bytes, _context: Any) -> bytes:
        return mesh.instance_id.encode()

    async def ping(_request: bytes, _context: Any) -> bytes:
        return b""

    async def slow(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(0.7)
        return mesh.instance_id.encode()

    async def sleep(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(60)
        return mesh.instance_id.encode()

    async def watch(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield mesh.instance_id.encode()
            await asyncio.sleep(0.05)

    async def fail(_request: bytes, _context: Any) -> bytes:
        async def job() -> None:
            raise RuntimeError("told to fail")

        mesh.start(job(), name="failing")
        return b""

    return {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Ping": grpc.unary_unary_rpc_method_handler(ping),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }


if __name__ == "__main__":
    run(main)
