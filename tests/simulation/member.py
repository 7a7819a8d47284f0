"""A process's place in the simulated mesh: what services use of `Mesh`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final, cast

import grpc

from consulmesh import Member, MeshConfig
from consulmesh.channel import MeshChannel
from consulmesh.registration import Check
from consulmesh.server import MeshServer
from tests.simulation.channel import SimulatedChannel
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.server import SimulatedServer

_CONFIG: Final = MeshConfig(version="0.0.0", metrics_port=None)
_WATCHERS_NOTICE: Final = 0.1  # seconds


class SimulatedMember(Member):
    """A member whose channels and server are the network's."""

    def __init__(self, service: str, network: Network, process: Process) -> None:
        super().__init__(service, _CONFIG, instance_id=process.name, slot=1)
        self._network = network
        self._process = process

    def server(self, *, status_codes: Mapping[type[Exception], grpc.StatusCode]) -> MeshServer:
        """Return a server with the pipeline of a real one."""
        server = SimulatedServer(
            self._network.loop, self._process, service=self.service, status_codes=status_codes
        )
        return cast("MeshServer", server)  # it has what services use of one

    async def serve(
        self,
        server: MeshServer,
        *,
        warm: Callable[[], Awaitable[None]] | None = None,
        meta: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Warm up, be listed, serve until draining, and leave without a failed call."""
        try:
            if warm:
                await self._before_draining(warm())
            if not self.draining.is_set():
                await self._serve_listed(cast("Any", server))
        finally:
            await server.stop(self.config.drain_grace.total_seconds())

    async def leave(self) -> None:
        """End the jobs and close the channels; raises where a job had failed."""
        await self.aclose()
        self._jobs.check()

    async def _serve_listed(self, server: SimulatedServer) -> None:
        self._network.list(self.service, server)
        try:
            await self.draining.wait()
        finally:
            self._network.delist(self.service, server)
        await asyncio.sleep(_WATCHERS_NOTICE)

    def _connected(self, upstream: str, *, relay_token: bool, hedged: bool) -> MeshChannel:
        return MeshChannel(
            SimulatedChannel(self._network, upstream),
            upstream=upstream,
            caller=self.service,
            relay_token=relay_token,
        )

    @asynccontextmanager
    async def _listed(
        self, port: int, check: Check, meta: Mapping[str, str]
    ) -> AsyncIterator[None]:
        yield  # `serve` lists the server itself: it has no port
