"""One process's place in the mesh: what it calls, what it serves, how it joins and leaves."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Self

import grpc
import structlog

from consulmesh import event_loop, logs
from consulmesh.announcement import Announcement
from consulmesh.catalog import Catalog
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.config import LOG_LEVELS, ConfigError, MeshConfig
from consulmesh.consul_api import ConsulApi
from consulmesh.garbage import collected_rarely
from consulmesh.lifecycle import JobFailedError, drained_by_signals
from consulmesh.member import Member
from consulmesh.metrics import metrics_endpoint
from consulmesh.registration import Check, Registration
from consulmesh.slots import Slot, SlotTakenError
from consulmesh.topology import START_TIME, Topology, topology
from consulmesh.xds.bootstrap import bootstrap, channel_options, installed
from consulmesh.xds.collector import collected
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server
from consulmesh.xds.resources import Resources
from consulmesh.xds.servicer import AdsServicer

WATCHERS_NOTICE_SECONDS: Final = 0.1
"""From the deregistration until the last watcher sent its last new call, with a wide margin."""

RECONNECT_OPTIONS: Final = (
    # gRPC stretches its pauses up to two minutes: after a partition nobody waits for so long here,
    # where what stays away is taken out of the set by its check
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # a connection that is accepted and then not answered is given up: gRPC's own bound is 20 s
    ("grpc.min_reconnect_backoff_ms", 3_000),
)

log = structlog.get_logger()


class Mesh(Member):
    """A process that has joined: made by `join`, gone with its block.

    Nothing here waits for Consul: calls fail as UNAVAILABLE until it said where an upstream is, and
    the registration is made up for when it returns.
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
        super().__init__(
            service,
            config,
            instance_id=slot.instance_id,
            slot=slot.number,
            metrics_port=metrics_port,
        )
        self.ads = ads
        self._consul = consul
        self._directory = directory
        self._options = (*CHANNEL_OPTIONS, *RECONNECT_OPTIONS, *options)
        self._start_time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

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

    @asynccontextmanager
    async def announced(self, port: int, check: Check) -> AsyncIterator[None]:
        """Register a server of any kind for the block; signals set `draining` meanwhile.

        When the block is left, the instance is deregistered and its watchers had time to notice.
        """
        self.address = self._reached_at(port)
        with drained_by_signals(self.draining):
            async with self._listed(port, check, {}):
                yield

    async def topology(self) -> Topology:
        """Return the whole mesh as Consul shows it now; raises ConsulError."""
        return await topology(self._consul)

    async def aclose(self) -> None:
        """Cancel the background jobs and close the channels; may be called twice."""
        upstreams = [upstream for upstream, _ in self._channels]
        await super().aclose()
        for upstream in upstreams:
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

    def _connected(self, upstream: str, *, relay_token: bool) -> MeshChannel:
        self._directory.listen(upstream, _ignore)  # its timeouts must be at hand
        return MeshChannel(
            grpc.aio.insecure_channel(f"xds:///{upstream}", options=self._options),
            upstream=upstream,
            caller=self.service,
            relay_token=relay_token,
            route_timeouts=partial(self._directory.timeout, upstream),
        )

    @asynccontextmanager
    async def _listed(
        self, port: int, check: Check, meta: Mapping[str, str]
    ) -> AsyncIterator[None]:
        with collected_rarely():  # from here on it is warm
            async with Announcement(self._consul, self._registration(port, check, meta)):
                yield
            await asyncio.sleep(WATCHERS_NOTICE_SECONDS)

    def _registration(self, port: int, check: Check, meta: Mapping[str, str]) -> Registration:
        own = {} if self.metrics_port is None else {"metrics_port": str(self.metrics_port)}
        return Registration(
            service=self.service,
            id=self.instance_id,
            address=self.config.advertised,
            port=port,
            check=check,
            version=self.config.version,
            weight=self.config.weight,
            meta={**meta, **own, START_TIME: self._start_time},
        )


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a process of the mesh: structured logs, uvloop, and an exit status that tells.

    0 after an orderly end, 1 after an error, 2 when it was started wrongly.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection is a descriptor
    level = os.environ.get("MESH_LOG_LEVEL", "").lower()
    logs.configure(level if level in LOG_LEVELS else "info")
    try:
        event_loop.run(main())
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


def _ignore(_name: str, _resources: Resources) -> None:
    """Listen without anything to do."""
