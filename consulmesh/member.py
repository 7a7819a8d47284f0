"""What a service sees of its place in the mesh, however the processes find each other."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
import structlog

from consulmesh.admission import QueueAdmission
from consulmesh.channel import MeshChannel
from consulmesh.config import MeshConfig
from consulmesh.lifecycle import Jobs, drained_by_signals
from consulmesh.policies import Authorization
from consulmesh.registration import Check
from consulmesh.server import MeshServer

T = TypeVar("T")

log = structlog.get_logger()


class Member(ABC):
    """One process of a service: `Mesh` is one that Consul lists, tests have one without.

    `draining` is set by the first SIGTERM or SIGINT while serving, or when a background job fails.
    `address` is what others reach this process at, once it serves.

    All mutable state: the address, and the open channels by upstream, whether they relay the
    user's token, and whether they hedge.
    """

    def __init__(
        self,
        service: str,
        config: MeshConfig,
        *,
        instance_id: str,
        slot: int,
        metrics_port: int | None = None,
    ) -> None:
        self.service = service
        self.config = config
        self.instance_id = instance_id
        self.slot = slot
        self.metrics_port = metrics_port
        self.address = ""
        self.draining = asyncio.Event()
        self._jobs = Jobs(self.draining)
        self._channels: dict[tuple[str, bool, bool], MeshChannel] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.instance_id} draining={self.draining.is_set()}>"

    def channel(
        self, upstream: str, *, relay_token: bool = False, hedged: bool = False
    ) -> MeshChannel:
        """Return the channel to an upstream, which lives as long as the member.

        With `relay_token` its calls carry the end user's token along. With `hedged` reads that are
        late are asked again, where there are several instances.
        """
        key = (upstream, relay_token, hedged)
        if key not in self._channels:
            self._channels[key] = self._connected(upstream, relay_token=relay_token, hedged=hedged)
        return self._channels[key]

    def server(self, *, status_codes: Mapping[type[Exception], grpc.StatusCode]) -> MeshServer:
        """Return a server to add servicers to and to hand to `serve`.

        `status_codes` maps the service's own errors, looked up along the MRO.
        """
        instance = f"{self.instance_id}/{self.config.version}"
        queue = self.config.queue
        return MeshServer(
            self.service,
            instance=instance,
            status_codes=status_codes,
            admission=None if queue is None else QueueAdmission(queue),
            authorization=self._authorization(),
        )

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a background job, in a context of its own, until it ends or the process leaves.

        If it fails the process drains, and leaving raises JobFailedError.
        """
        return self._jobs.start(coroutine, name=name)

    async def serve(
        self,
        server: MeshServer,
        *,
        warm: Callable[[], Awaitable[None]] | None = None,
        meta: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Bind, warm up, be listed, serve until draining, and leave without a failed call.

        `meta` is listed beside the library's own, for the filters of subsets.
        Leaving: health says NOT_SERVING, the instance is listed no more, open-ended streams end as
        UNAVAILABLE, other calls have the grace to finish. A second signal exits at once. Raises
        RuntimeError when the port is taken.
        """
        with drained_by_signals(self.draining):
            if (first := self._before_serving()) is not None:
                await self._before_draining(first)
            if self.draining.is_set():
                return
            port = self._bind(server, f"{literal(self.config.host)}:{self.config.port}")
            await server.start()
            self.address = self._reached_at(port)
            try:
                if warm:
                    await self._before_draining(warm())
                if not self.draining.is_set():
                    await self._serve_until_draining(server, port, meta)
            finally:
                await server.stop(self.config.drain_grace.total_seconds())
                log.info("stopped", instance=self.instance_id)

    async def aclose(self) -> None:
        """Cancel the background jobs and close the channels; may be called twice."""
        await self._jobs.aclose()
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    def _authorization(self) -> Authorization | None:
        """Return who decides which peers may call; None lets everybody."""
        return None

    def _before_serving(self) -> Awaitable[None] | None:
        """Return what a server must wait for before it listens, if anything."""
        return None

    def _bind(self, server: MeshServer, address: str) -> int:
        """Let a server listen; return the port."""
        return server.add_insecure_port(address)

    @abstractmethod
    def _connected(self, upstream: str, *, relay_token: bool, hedged: bool) -> MeshChannel:
        """Return a new channel to an upstream."""

    @abstractmethod
    def _listed(
        self, port: int, check: Check, meta: Mapping[str, str]
    ) -> AbstractAsyncContextManager[None]:
        """Let others find this process for the block; at its end they know that it leaves."""

    async def _serve_until_draining(
        self, server: MeshServer, port: int, meta: Mapping[str, str]
    ) -> None:
        await server.set_serving(serving=True)
        check = Check.grpc(server.proto_services[0], interval=self.config.check_interval)
        async with self._listed(port, check, meta):
            log.info(
                "serving",
                instance=self.instance_id,
                address=self.address,
                version=self.config.version,
                metrics_port=self.metrics_port,
            )
            await self.draining.wait()
            await server.leave()

    async def _before_draining(self, work: Awaitable[None]) -> None:
        """Do some work, or as much of it as draining allows."""
        working = asyncio.ensure_future(work)
        draining = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait((working, draining), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            draining.cancel()
            working.cancel()
            await asyncio.gather(working, draining, return_exceptions=True)

    def _reached_at(self, port: int) -> str:
        return f"{literal(self.config.advertised)}:{port}"


def literal(host: str) -> str:
    """A host as it stands before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
