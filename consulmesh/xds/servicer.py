"""The ADS servicer: tells xDS clients what the directory knows (gRFC A27, state of the world)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc
import structlog

from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import AggregatedDiscoveryServiceServicer, ResourceType
from consulmesh.xds.resources import Resources, nowhere
from consulmesh.xds.stream import Nack, Stream

PATIENCE: Final = timedelta(seconds=1)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What one client believes, for people who look into it."""

    node: str
    upstreams: tuple[str, ...]
    accepted: Mapping[str, str]
    nacks: tuple[Nack, ...]
    settled: bool


class _Connection:
    """A stream, the upstreams it holds in the directory, and what wakes its writer.

    All mutable state: the stream, the timers of upstreams that are awaited, the wake-up event, and
    whether it is closed.
    """

    def __init__(self, directory: Directory, patience: timedelta) -> None:
        self.stream = Stream()
        self.wake = asyncio.Event()
        self.closed = asyncio.Event()
        self._directory = directory
        self._patience = patience.total_seconds()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def receive(self, request: Any) -> Nack | None:
        """Take a request, and listen to the upstreams it names and to no others."""
        nack = self.stream.receive(request)
        self._listen(frozenset(self.stream.upstreams))
        self.wake.set()
        return nack

    def close(self) -> None:
        """Listen to nothing any more."""
        self._listen(frozenset())
        self.closed.set()

    def _listen(self, names: frozenset[str]) -> None:
        for name in self._timers.keys() - names:
            self._timers.pop(name).cancel()
            self._directory.leave(name, self._changed)
        loop = asyncio.get_running_loop()
        for name in names - self._timers.keys():
            self._timers[name] = loop.call_later(self._patience, self._give_up, name)
            self._directory.listen(name, self._changed)

    def _changed(self, name: str, resources: Resources) -> None:
        self.stream.update(name, resources)
        self.wake.set()

    def _give_up(self, name: str) -> None:
        """Let calls to an upstream that Consul told nothing of fail at once, until it does."""
        if self.stream.lacks(name):
            log.warning("upstream_unknown", upstream=name, waited=self._patience)
            self._changed(name, nowhere(name))


class AdsServicer(AggregatedDiscoveryServiceServicer):  # type: ignore[misc]  # generated without types
    """Serves any number of streams; gRPC core opens one for each target (gRFC A71).

    All mutable state: the open connections and the counts of responses and refusals by type.
    An upstream that is not known within `patience` is answered as one without endpoints, unless
    the client still has something better from before.
    """

    def __init__(self, directory: Directory, *, patience: timedelta = PATIENCE) -> None:
        self.pushes: Counter[ResourceType] = Counter()
        self.nacks: Counter[ResourceType] = Counter()
        self._directory = directory
        self._patience = patience
        self._connections: set[_Connection] = set()

    def states(self) -> tuple[StreamState, ...]:
        """Return what each connected client believes."""
        return tuple(
            StreamState(
                node=stream.node,
                upstreams=stream.upstreams,
                accepted=stream.versions,
                nacks=stream.nacks,
                settled=stream.settled,
            )
            for stream in (connection.stream for connection in self._connections)
        )

    async def idle(self) -> None:
        """Wait until no stream is open; a server that stopped does not wait for its handlers."""
        while self._connections:
            await next(iter(self._connections)).closed.wait()

    async def StreamAggregatedResources(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Serve one client until it leaves."""
        connection = _Connection(self._directory, self._patience)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(connection, context))
                async for request in requests:
                    self._receive(connection, request)
                writer.cancel()
        finally:
            self._connections.discard(connection)
            connection.close()

    async def DeltaAggregatedResources(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Refuse: gRPC core speaks the state-of-the-world variant only."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only state of the world is served")

    def _receive(self, connection: _Connection, request: Any) -> None:
        nack = connection.receive(request)
        if nack:
            self.nacks[nack.type] += 1
            log.error(
                "xds_nack",
                type=nack.type.name,
                version=nack.version,
                detail=nack.detail,
                upstreams=connection.stream.upstreams,
                node=connection.stream.node,
            )

    async def _write(
        self, connection: _Connection, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Send what is due until the client leaves, which ends the reading side, too."""
        with suppress(grpc.aio.InternalError, grpc.aio.UsageError):
            while True:
                await connection.wake.wait()
                connection.wake.clear()
                for response in tuple(connection.stream.responses()):
                    await context.write(response)
                    self.pushes[ResourceType(response.type_url)] += 1
