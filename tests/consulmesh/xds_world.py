"""A small world for the xDS tests: a service that speaks bytes, and a catalog set by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc

from consulmesh.catalog import Upstream
from consulmesh.instances import Instance, Status
from consulmesh.xds.bootstrap import bootstrap, channel_options
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import (
    HttpConnectionManager,
    Listener,
    ResourceType,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from consulmesh.xds.resources import Resources
from consulmesh.xds.servicer import AdsServicer

SERVICE = "test.v1.EchoService"
TARGET = "echo.default.default.dc1"
RESOLVER = f"resolver:{TARGET}"
LOOPBACK = "127.0.0.1"

Behaviour = Callable[[grpc.aio.ServicerContext[bytes, bytes], int], Awaitable[None]]


@dataclass
class Echo:
    """One server of `test.v1.EchoService/*`: answers with its port, and counts its calls."""

    behaviour: Behaviour | None = None
    port: int = 0
    calls: list[str] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of every method there is."""

        async def answer(_request: bytes, context: Any) -> bytes:
            self.calls.append(details.method.rpartition("/")[2])
            if self.behaviour:
                await self.behaviour(context, len(self.calls))
            return str(self.port).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class _Anything(grpc.GenericRpcHandler):
    def __init__(self, echo: Echo) -> None:
        self._echo = echo

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._echo.service(handler_call_details)


@asynccontextmanager
async def echoing(behaviour: Behaviour | None = None) -> AsyncIterator[Echo]:
    """Run an Echo on a free port."""
    echo = Echo(behaviour)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Anything(echo),))
    echo.port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        yield echo
    finally:
        await server.stop(None)


def instance(port: int, *, address: str = LOOPBACK, weight: int = 1, id: str = "") -> Instance:  # noqa: A002 - the field's name
    """Return a passing instance."""
    return Instance(
        id=id or f"echo-{port}",
        address=address,
        port=port,
        weight=weight,
        version="1.0.0",
        status=Status.PASSING,
        meta={},
    )


def chain(**changes: Any) -> dict[str, Any]:
    """Return the chain Consul compiles for a service `echo` without config entries."""
    node = f"resolver:{TARGET}"
    resolver = {"ConnectTimeout": "5s", "Default": True, "Target": TARGET}
    place = {"Namespace": "default", "Partition": "default", "Datacenter": "dc1"}
    return {
        "ServiceName": "echo",
        **place,
        "Protocol": "tcp",
        "StartNode": node,
        "Nodes": {node: {"Type": "resolver", "Name": TARGET, "Resolver": resolver}},
        "Targets": {TARGET: {"ID": TARGET, "Service": "echo", **place}},
    } | changes


def upstream(instances: Iterable[Instance] = (), **changes: Any) -> Upstream:
    """Return the upstream `echo`; `changes` are of its chain."""
    return Upstream(
        name="echo",
        chain=chain(**changes),
        instances_by_target={TARGET: tuple(instances)},
        defaults={},
    )


def route(http: dict[str, Any], next_node: str = RESOLVER, **destination: Any) -> dict[str, Any]:
    """Return a route of a router: calls that match go to a node."""
    definition = {"Match": {"HTTP": http}, "Destination": destination}
    return {"Definition": definition, "NextNode": next_node}


def router(*routes: dict[str, Any], next_node: str = RESOLVER) -> dict[str, Any]:
    """Return the parts of a chain that starts with a router; other calls go to a node."""
    last = route({"PathPrefix": "/"}, next_node)
    node = {"Type": "router", "Name": "echo", "Routes": [*routes, last]}
    return {"StartNode": "router:echo", "Nodes": {**chain()["Nodes"], "router:echo": node}}


def splitter(*splits: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a chain that starts with a splitter."""
    node = {"Type": "splitter", "Name": "echo", "Splits": list(splits)}
    return {"StartNode": "splitter:echo", "Nodes": {**chain()["Nodes"], "splitter:echo": node}}


def with_subsets(parts: dict[str, Any], **ports: int) -> Upstream:
    """Return the upstream `echo` with a resolver `resolver:NAME` of each subset's one instance."""
    targets = {name: f"{name}.{TARGET}" for name in ports}
    itself = chain()["Targets"][TARGET]
    resolvers = {
        f"resolver:{name}": {"Type": "resolver", "Name": target, "Resolver": {"Target": target}}
        for name, target in targets.items()
    }
    subsets = {target: itself | {"ServiceSubset": name} for name, target in targets.items()}
    return Upstream(
        name="echo",
        chain=chain(
            **parts | {"Nodes": parts["Nodes"] | resolvers},
            Targets={TARGET: itself} | subsets,
        ),
        instances_by_target={TARGET: tuple(map(instance, ports.values()))}
        | {targets[name]: (instance(port),) for name, port in ports.items()},
        defaults={},
    )


def route_table(result: Resources) -> list[Any]:
    """Return the routes inside the listener."""
    (packed,) = result.by_type[ResourceType.LISTENER].values()
    listener: Any = Listener()
    packed.Unpack(listener)
    manager: Any = HttpConnectionManager()
    listener.api_listener.api_listener.Unpack(manager)
    (host,) = manager.route_config.virtual_hosts
    return list(host.routes)


class HandCatalog:
    """A catalog whose views are set by the test."""

    def __init__(self) -> None:
        self.views: dict[str, Upstream] = {}
        self.subscribers: dict[str, Callable[[Upstream], None]] = {}

    def subscribe(self, name: str, on_change: Callable[[Upstream], None]) -> Callable[[], None]:
        """Keep the subscriber; tell it what is known."""
        self.subscribers[name] = on_change
        if name in self.views:
            on_change(self.views[name])

        def unsubscribe() -> None:
            del self.subscribers[name]

        return unsubscribe

    def show(self, view: Upstream) -> None:
        """Change what the catalog shows of an upstream."""
        self.views[view.name] = view
        if notify := self.subscribers.get(view.name):
            notify(view)


@dataclass
class World:
    """An ADS server on a catalog, and channels that use it."""

    catalog: HandCatalog
    directory: Directory
    servicer: AdsServicer
    server: grpc.aio.Server
    bootstrap: str

    @asynccontextmanager
    async def channel(self, name: str = "echo") -> AsyncIterator[grpc.aio.Channel]:
        """Open an xds channel of this world."""
        options = channel_options(self.bootstrap)
        async with grpc.aio.insecure_channel(f"xds:///{name}", options=options) as channel:
            yield channel


@asynccontextmanager
async def world(*, patience: timedelta = timedelta(seconds=1)) -> AsyncIterator[World]:
    """Run an ADS server on a free port."""
    catalog = HandCatalog()
    directory = Directory(catalog)
    servicer = AdsServicer(directory, patience=patience)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_AggregatedDiscoveryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        config = bootstrap(f"{LOOPBACK}:{port}", node="test")
        yield World(catalog, directory, servicer, server, config)
    finally:
        await server.stop(None)


async def call(channel: grpc.aio.Channel, method: str = "Get", **kwargs: Any) -> str:
    """Call a method of the echo service and return its answer: the port of who answered."""
    callable_: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    answer: bytes = await callable_(b"", **({"timeout": 20} | kwargs))
    return answer.decode()


async def until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Wait for what only gRPC core's own threads bring about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody else has an event to set
            await asyncio.sleep(0.001)
