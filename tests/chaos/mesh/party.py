"""An instance of a service of the mesh as a process: `python -m tests.chaos.mesh.party`.

`PARTY_SERVICE` is the service's name, `PARTY_UPSTREAM` whom it calls. Every method of
`test.v1.EchoService` answers with the instance's id: `Get`, which the rows let Consul call
retryable, and `Put` at once, `Slow` after 300 ms, `Work` after 5 s. `Relay` answers what the
upstream's `Get` does, `RelayWork` what its `Work` does. `Census` tells in JSON what is there.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from consulmesh import Mesh, MeshConfig, run
from tests.consulmesh.xds_process import SERVICE

SLOW: Final = 0.3  # seconds
WORK: Final = 5.0
PAUSES: Final = {"Get": 0.0, "Put": 0.0, "Slow": SLOW}


class Party:
    """State: the work under way, and how long after its deadline each work was cut off."""

    def __init__(self, mesh: Mesh, upstream: str) -> None:
        self._mesh = mesh
        self._upstream = upstream
        self._working = 0
        self._late: list[float] = []

    def handlers(self) -> dict[str, Any]:
        """Return the methods of the service."""
        methods: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
            **{name: self._after(pause) for name, pause in PAUSES.items()},
            "Work": self._work,
            "Relay": self._relay("Get"),
            "RelayWork": self._relay("Work"),
            "Census": self._census,
        }
        return {name: grpc.unary_unary_rpc_method_handler(each) for name, each in methods.items()}

    def _after(self, pause: float) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(_request: bytes, _context: Any) -> bytes:
            if pause:
                await asyncio.sleep(pause)
            return self._mesh.instance_id.encode()

        return answer

    async def _work(self, _request: bytes, context: Any) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + context.time_remaining()
        self._working += 1
        try:
            await asyncio.sleep(WORK)
        except asyncio.CancelledError:
            self._late.append(loop.time() - deadline)
            raise
        finally:
            self._working -= 1
        return self._mesh.instance_id.encode()

    def _relay(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def relay(request: bytes, _context: Any) -> bytes:
            call: Any = self._mesh.channel(self._upstream).unary_unary(f"/{SERVICE}/{method}")
            answer: bytes = await call(request)
            return answer

        return relay

    async def _census(self, _request: bytes, _context: Any) -> bytes:
        census = {"tasks": len(asyncio.all_tasks()), "working": self._working, "late": self._late}
        return json.dumps(census).encode()


async def main() -> None:
    """Serve until told to stop."""
    config = MeshConfig.from_env(os.environ, version="1.2.3")
    async with Mesh.join(os.environ["PARTY_SERVICE"], config) as mesh:
        server = mesh.server(status_codes={})
        party = Party(mesh, os.environ.get("PARTY_UPSTREAM", ""))
        server.add_registered_method_handlers(SERVICE, party.handlers())
        await mesh.serve(server)


if __name__ == "__main__":
    run(main)
