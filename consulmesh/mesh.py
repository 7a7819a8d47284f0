"""One process's place in the mesh: what it calls, what it serves, how it joins and leaves."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, Self, TypeVar

import grpc
import structlog
import uvloop

from consulmesh import logs
from consulmesh.announcement import Announcement
from consulmesh.catalog import Catalog
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.config import LOG_LEVELS, ConfigError, MeshConfig
from consulmesh.consul_api import ConsulApi
from consulmesh.lifecycle import JobFailedError, Jobs, drained_by_signals
from consulmesh.metrics import metrics_endpoint
from consulmesh.registration import Check, Registration
from consulmesh.server import MeshServer
from consulmesh.slots import Slot, SlotTakenError
from consulmesh.xds.bootstrap import bootstrap, channel_options, installed
from consulmesh.xds.collector import collected
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server
from consulmesh.xds.resources import Resources
from consulmesh.xds.servicer import AdsServicer

T = TypeVar("T")

WATCHERS_NOTICE_SECONDS: Final = 0.1
"""From the deregistration until the last watcher sent its last new call, with a wide margin."""

log = structlog.get_logger()


class Mesh:
    """A process that has joined: made by `join`, gone with its block.

    Nothing here waits for Consul: calls fail as UNAVAILABLE until it said where an upstream is, and
    the registration is made up for when it returns. `draining` is set by the first SIGTERM or
    SIGINT while serving, or when a background job fails. `address` is what others reach this
    process at, once it serves or is announced.

    All mutable state: the address, and the open channels by upstream and whether they relay the
    user's token.
    """

    def __init__(
        self,
        service: str,
        config: MeshConfig,
        *,
        slot: Slot,
        consul: ConsulApi,
        directory: Directory,
        ads: AdsServicer,
        metrics_port: int | None,
        options: tuple[tuple[str, Any], ...],
    ) -> None:
        self.service = service
        self.config = config
        self.ads = ads
        self.metrics_port = metrics_port
        self.address = ""
        self.draining = asyncio.Event()
        self._slot = slot
        self._consul = consul
        self._directory = directory
        self._jobs = Jobs(self.draining)
        self._options = (*CHANNEL_OPTIONS, *options)
        self._channels: dict[tuple[str, bool], MeshChannel] = {}

    def __repr__(self) -> str:
        return f"<Mesh {self.instance_id} draining={self.draining.is_set()}>"

    @classmethod
    @asynccontextmanager
    async def join(cls, service: str, config: MeshConfig) -> AsyncIterator[Self]:
        """Take a slot, watch Consul, serve xDS to this process, and metrics to whoever asks.

        Raises SlotTakenError when entered, JobFailedError when left after a background job failed.
        """
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(cls._joined(service, config))
            yield mesh
        mesh._jobs.check()  # noqa: SLF001 - our own

    @property
    def instance_id(self) -> str:
        """The id under which Consul lists this process."""
        return self._slot.instance_id

    @property
    def slot(self) -> int:
        """The number of this process among those of its service on this machine."""
        return self._slot.number

    def channel(self, upstream: str, *, relay_token: bool = False) -> MeshChannel:
        """Return the channel to an upstream, which lives as long as the mesh.

        With `relay_token` its calls carry the end user's token along.
        """
        key = (upstream, relay_token)
        if key not in self._channels:
            self._directory.listen(upstream, _ignore)  # its timeouts must be at hand
            self._channels[key] = MeshChannel(
                grpc.aio.insecure_channel(f"xds:///{upstream}", options=self._options),
                upstream=upstream,
                caller=self.service,
                relay_token=relay_token,
                route_timeouts=partial(self._directory.timeout, upstream),
            )
        return self._channels[key]

    def server(self, *, status_codes: Mapping[type[Exception], grpc.StatusCode]) -> MeshServer:
        """Return a server to add servicers to and to hand to `serve`.

        `status_codes` maps the service's own errors, looked up along the MRO.
        """
        instance = f"{self.instance_id}/{self.config.version}"
        return MeshServer(self.service, instance=instance, status_codes=status_codes)

    def start(self, coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a background job, in a context of its own, until it ends or the mesh is left.

        If it fails the process drains, and leaving the mesh raises JobFailedError.
        """
        return self._jobs.start(coroutine, name=name)

    async def serve(
        self, server: MeshServer, *, warm: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Bind, warm up, register, serve until draining, and leave without a failed call.

        Leaving: health says NOT_SERVING, the instance is deregistered, its watchers get the time to
        notice, open-ended streams end as UNAVAILABLE, other calls have the grace to finish.
        A second signal exits at once. Raises RuntimeError when the port is taken.
        """
        with drained_by_signals(self.draining):
            port = server.add_insecure_port(f"{_literal(self.config.host)}:{self.config.port}")
            await server.start()
            self.address = self._reached_at(port)
            try:
                if warm:
                    await self._before_draining(warm())
                if not self.draining.is_set():
                    await self._serve_until_draining(server, port)
            finally:
                await server.stop(self.config.drain_grace.total_seconds())
                log.info("stopped", instance=self.instance_id)

    @asynccontextmanager
    async def announced(self, port: int, check: Check) -> AsyncIterator[None]:
        """Register a server of any kind for the block; signals set `draining` meanwhile.

        When the block is left, the instance is deregistered and its watchers had time to notice.
        """
        self.address = self._reached_at(port)
        with drained_by_signals(self.draining):
            async with Announcement(self._consul, self._registration(port, check)):
                yield
            await asyncio.sleep(WATCHERS_NOTICE_SECONDS)

    async def aclose(self) -> None:
        """Cancel the background jobs and close the channels; may be called twice."""
        await self._jobs.aclose()
        while self._channels:
            (upstream, _), channel = self._channels.popitem()
            await channel.close()
            self._directory.leave(upstream, _ignore)

    @classmethod
    @asynccontextmanager
    async def _joined(cls, service: str, config: MeshConfig) -> AsyncIterator[Self]:
        async with AsyncExitStack() as stack:
            folder = config.state_dir / "slots"
            slot = stack.enter_context(Slot.take(folder, service, config.instance_id))
            consul = await stack.enter_async_context(
                ConsulApi(config.consul_url, config.consul_token)
            )
            catalog = await stack.enter_async_context(Catalog(consul, service))
            directory = Directory(catalog)
            ads = AdsServicer(directory)
            ads_port = await stack.enter_async_context(_serving(ads))
            xds = bootstrap(f"127.0.0.1:{ads_port}", node=slot.instance_id)
            if not config.isolated:
                stack.enter_context(installed(xds))
            mesh = cls(
                service,
                config,
                slot=slot,
                consul=consul,
                directory=directory,
                ads=ads,
                metrics_port=await _metrics(stack, config, catalog, directory, ads),
                options=channel_options(xds) if config.isolated else (),
            )
            stack.push_async_callback(mesh.aclose)
            yield mesh

    async def _serve_until_draining(self, server: MeshServer, port: int) -> None:
        await server.set_serving(serving=True)
        check = Check.grpc(server.proto_services[0], interval=self.config.check_interval)
        async with Announcement(self._consul, self._registration(port, check)):
            log.info(
                "serving",
                instance=self.instance_id,
                address=self.address,
                version=self.config.version,
                metrics_port=self.metrics_port,
            )
            await self.draining.wait()
            await server.leave()
        await asyncio.sleep(WATCHERS_NOTICE_SECONDS)

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
        return f"{_literal(self.config.advertised)}:{port}"

    def _registration(self, port: int, check: Check) -> Registration:
        meta = {} if self.metrics_port is None else {"metrics_port": str(self.metrics_port)}
        return Registration(
            service=self.service,
            id=self.instance_id,
            address=self.config.advertised,
            port=port,
            check=check,
            version=self.config.version,
            weight=self.config.weight,
            meta=meta,
        )


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process of the mesh: structured logs, uvloop, and an exit status that tells.

    0 after an orderly end, 1 after an error, 2 when it was started wrongly.
    """
    level = os.environ.get("MESH_LOG_LEVEL", "").lower()
    logs.configure(level if level in LOG_LEVELS else "info")
    try:
        uvloop.run(main())
    except (ConfigError, SlotTakenError) as error:
        log.critical("cannot_start", reason=str(error))
        sys.exit(2)
    except JobFailedError:
        sys.exit(1)  # it was logged when it happened
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        logs.close()


@asynccontextmanager
async def _serving(ads: AdsServicer) -> AsyncIterator[int]:
    """Serve xDS to this process alone; gives the port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
        await ads.idle()


async def _metrics(
    stack: AsyncExitStack,
    config: MeshConfig,
    catalog: Catalog,
    directory: Directory,
    ads: AdsServicer,
) -> int | None:
    stack.enter_context(collected(catalog, directory, ads))
    if config.metrics_port is None:
        return None
    return await stack.enter_async_context(metrics_endpoint(config.host, config.metrics_port))


def _literal(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _ignore(_name: str, _resources: Resources) -> None:
    """Listen without anything to do."""
