"""What the tests of the Consul side share: a health server, and waiting for an answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import grpc
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health,
    health_pb2,
    health_pb2_grpc,
)

from consulmesh.catalog import Catalog, Upstream
from consulmesh.consul_api import Answer, ConsulApi, Query
from consulmesh.registration import Check, Registration
from consulmesh.testing import FakeConsul, RealConsul

AnyConsul = FakeConsul | RealConsul
SLACK: Final = 10.0
"""Seconds that a machine with other work may add to what Consul and we take by ourselves."""
ENDLESS: Final = timedelta(minutes=5)
"""A wait that no test sits out, so that only news end it."""
PROTO_SERVICE = "tests.v1.TestedService"


class HealthServer:
    """A gRPC server that knows one proto service's health."""

    def __init__(self, proto_service: str = PROTO_SERVICE, port: int = 0) -> None:
        self._service = proto_service
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")

    async def start(self) -> None:
        """Serve."""
        await self._server.start()
        await self.says(serving=True)

    async def says(self, *, serving: bool) -> None:
        """Change what it says."""
        answers = health_pb2.HealthCheckResponse
        status = answers.SERVING if serving else answers.NOT_SERVING
        await self._health.set(self._service, status)

    async def stop(self) -> None:
        """Close the port at once."""
        await self._server.stop(None)


@asynccontextmanager
async def health_server(
    proto_service: str = PROTO_SERVICE, port: int = 0
) -> AsyncIterator[HealthServer]:
    """A health server for the block."""
    server = HealthServer(proto_service, port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def registration(service: str, port: int, *, number: int = 1, **given: Any) -> Registration:
    """An instance on loopback with a gRPC check."""
    return Registration(
        **{
            "service": service,
            "id": f"{service}-{number}",
            "address": "127.0.0.1",
            "port": port,
            "check": Check.grpc(PROTO_SERVICE),
            "version": "1.0.0",
            **given,
        }
    )


def unprobed() -> Check:
    """A check that does not run within a test, so a status stays as it was registered.

    Consul starts every check at a random moment of its interval.
    """
    return Check.grpc(PROTO_SERVICE, interval=timedelta(days=365))


async def tell(api: ConsulApi, instance: Registration, *, proven: bool = False) -> None:
    """Register once."""

    def work() -> None:
        with api.administration(timedelta(seconds=5)) as client:
            instance.tell(client, proven=proven)

    await asyncio.to_thread(work)


async def withdraw(api: ConsulApi, instance: Registration) -> None:
    """Deregister."""

    def work() -> None:
        with api.administration(timedelta(seconds=5)) as client:
            instance.withdraw(client)

    await asyncio.to_thread(work)


async def asked_until(
    api: ConsulApi, query: Query, condition: Callable[[Any], bool], seconds: float = 30
) -> Answer:
    """Ask with blocking queries until the data satisfy a condition; each ends by news alone."""
    index = 0
    async with asyncio.timeout(seconds):
        while True:
            answer = await api.ask(query, index=index, wait=ENDLESS)
            if condition(answer.data):
                return answer
            index = answer.index


async def missed(catalog: Catalog, seconds: float = 30) -> None:
    """Wait until every watch has met that Consul is away.

    One that is replaced between two requests of a watch is noticed when the wait of the next is
    over, which takes longer than a test.
    """
    async with asyncio.timeout(seconds):
        while not all(state.error for state in catalog.states()):  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(0.01)


class Views:
    """The views of one upstream, in the order in which a catalog told them."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        self.all: list[Upstream] = []
        self._new = asyncio.Event()
        self.unsubscribe = catalog.subscribe(name, self._add)

    def ids(self, view: Upstream | None = None) -> list[str]:
        """The instances of a view, the last one unless another is given; there is one target."""
        (instances,) = (view or self.all[-1]).instances_by_target.values()
        return [instance.id for instance in instances]

    async def until(self, condition: Callable[[Upstream], bool], seconds: float = 20) -> Upstream:
        """Wait until the last view satisfies a condition."""
        async with asyncio.timeout(seconds):
            while not (self.all and condition(self.all[-1])):
                self._new.clear()
                await self._new.wait()
        return self.all[-1]

    def _add(self, view: Upstream) -> None:
        self.all.append(view)
        self._new.set()
