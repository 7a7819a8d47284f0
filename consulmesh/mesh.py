"""One process's place in the mesh: what it calls, what it serves, how it joins and leaves."""

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import grpc
import structlog

from consulmesh import event_loop, logs
from consulmesh.announcement import Announcement
from consulmesh.catalog import Catalog
from consulmesh.channel import CHANNEL_OPTIONS, MeshChannel
from consulmesh.config import LOG_LEVELS, ConfigError, MeshConfig
from consulmesh.consul_api import ConsulApi
from consulmesh.flags import Flags
from consulmesh.garbage import collected_rarely
from consulmesh.lifecycle import JobFailedError, drained_by_signals
from consulmesh.member import Member, literal
from consulmesh.metrics import metrics_endpoint
from consulmesh.policies import Authorization
from consulmesh.registration import Check, Registration
from consulmesh.security import Security
from consulmesh.server import MeshServer
from consulmesh.slots import Slot, SlotTakenError
from consulmesh.topology import START_TIME, Topology, topology
from consulmesh.xds.bootstrap import bootstrap, channel_options, installed
from consulmesh.xds.collector import collected
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import add_AggregatedDiscoveryServiceServicer_to_server
from consulmesh.xds.resources import Resources
from consulmesh.xds.servicer import AdsServicer

ADMIN_PORT: Final = "admin_port"
"""Key in an instance's Meta of the port of its admin services, where that is not its own port."""
WATCHERS_NOTICE_SECONDS: Final = 0.1
"""From the deregistration until the last watcher sent its last new call, with a wide margin."""

FIRST_CERTIFICATE_SECONDS: Final = 2.0
"""What a process waits for its first certificate before it goes on to what needs none."""

T = TypeVar("T")

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
        security: Security | None = None,
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
        self._security = security
        self._health_port: int | None = None
        self._flags: list[Flags] = []
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
        What every gRPC server of the mesh tells operators (channelz, CSDS) is on a port of its own
        meanwhile, so that it is not on one that may be open to the public; Meta names it.
        """
        self.address = self._reached_at(port)
        with drained_by_signals(self.draining):
            async with self._administered() as meta, self._listed(port, check, meta):
                yield

    async def certified(self) -> None:
        """Wait for a certificate, which calls need in the secure profile."""
        if self._security is not None:
            await self._security.ready()

    def bootstrap(self, server_uri: str, *, tls: bool = False) -> str:
        """Return the bootstrap (JSON) of a program that has our certificate, if we have one.

        `server_uri` is where it is served xDS, with `tls` by mTLS.
        """
        identity = self._security.identity if self._security else None
        return bootstrap(
            server_uri,
            node=self.instance_id,
            providers=identity.provider() if identity else {},
            tls=identity.files() if identity and tls else None,
        )

    @property
    def folder(self) -> Path:
        """Where the certificate of this process is, its key, and the roots of the mesh."""
        return _folder(self.config, self.instance_id)

    async def topology(self) -> Topology:
        """Return the whole mesh as Consul shows it now; raises ConsulError."""
        return await topology(self._consul)

    def flags(self, declared: T) -> T:
        """Keep the fields of a dataclass as operators set them (`Flags`); returns the same object.

        It has its defaults until Consul answers, and lasts as long as the mesh.
        """
        self._flags.append(Flags(self._consul, self.service, declared))
        return declared

    async def aclose(self) -> None:
        """Cancel the background jobs and close the channels; may be called twice."""
        for flags in self._flags:
            await flags.aclose()
        upstreams = [upstream for upstream, *_ in self._channels]
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
                ConsulApi(config.consul_url, config.consul_token, config.consul_roots)
            )
            catalog = await stack.enter_async_context(Catalog(consul, service))
            security = None
            if config.secure:
                own = _folder(config, slot.instance_id)
                joining = Security.joined(service, config, consul, catalog, own)
                security = await stack.enter_async_context(joining)
            directory = Directory(catalog, config.locality, security.domains if security else None)
            if security:
                security.identity.on_domains = directory.renew
            ads = AdsServicer(directory)
            ads_port = await stack.enter_async_context(_serving(ads))
            xds = bootstrap(
                f"127.0.0.1:{ads_port}",
                node=slot.instance_id,
                providers=security.identity.provider() if security else {},
            )
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
                security=security,
            )
            stack.push_async_callback(mesh.aclose)
            if security:
                mesh.start(security.identity.keep(), name="identity")
                # gRPC core complains of files that are not there yet; without Consul it has to
                with suppress(TimeoutError):
                    await asyncio.wait_for(security.ready(), FIRST_CERTIFICATE_SECONDS)
            yield mesh

    def _connected(self, upstream: str, *, relay_token: bool, hedged: bool) -> MeshChannel:
        self._directory.listen(upstream, _ignore)  # its timeouts must be at hand
        return MeshChannel(
            self._channel_to(f"xds:///{upstream}"),
            upstream=upstream,
            caller=self.service,
            relay_token=relay_token,
            route_timeouts=partial(self._directory.timeout, upstream),
            choice=partial(self._directory.endpoint_count, upstream) if hedged else None,
        )

    def _channel_to(self, target: str) -> grpc.aio.Channel:
        if self._security is None:
            return grpc.aio.insecure_channel(target, options=self._options)
        credentials = self._security.channel_credentials()
        return grpc.aio.secure_channel(target, credentials, options=self._options)

    def _authorization(self) -> Authorization | None:
        return self._security.authorization if self._security else None

    def _before_serving(self) -> Awaitable[None] | None:
        return self._security.ready() if self._security else None

    def _bind(self, server: MeshServer, address: str) -> int:
        if self._security is not None or self.config.health_port:
            health = f"{literal(self.config.host)}:{self.config.health_port}"
            self._health_port = server.add_health_port(health)
        if self._security is None:
            return super()._bind(server, address)
        return server.add_secure_port(address, self._security.identity.server_credentials())

    @asynccontextmanager
    async def _administered(self) -> AsyncIterator[Mapping[str, str]]:
        """Serve gRPC's admin services (gRFC A38); yield how Consul is told of their port."""
        if self.config.admin_port is None:
            yield {}
            return
        server = self.server(status_codes={})
        if (first := self._before_serving()) is not None:
            await first
        port = self._bind(server, f"{literal(self.config.host)}:{self.config.admin_port}")
        await server.start()
        try:
            await server.set_serving(serving=True)
            yield {ADMIN_PORT: str(port)}
        finally:
            await server.stop(None)

    @asynccontextmanager
    async def _listed(
        self, port: int, check: Check, meta: Mapping[str, str]
    ) -> AsyncIterator[None]:
        if self._health_port is not None and check.grpc_service is not None:
            check = replace(check, port=self._health_port)
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
            locality=self.config.locality,
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


def _folder(config: MeshConfig, instance_id: str) -> Path:
    return config.state_dir.absolute() / "identities" / instance_id


def _ignore(_name: str, _resources: Resources) -> None:
    """Listen without anything to do."""
