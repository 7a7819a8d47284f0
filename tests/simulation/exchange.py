"""One attempt of a call: a request on its way to one server, and its answers on the way back."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from consulmesh.policies import Metadata
from tests.simulation.loop import Process
from tests.simulation.network import KEEPALIVE, Fate, Network

_LATEST: Final = 8.0  # seconds
_SECOND_COPY: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The status of a call, with the message of a unary one that went well."""

    code: grpc.StatusCode
    details: str = ""
    trailers: Metadata = ()
    message: bytes | None = None


UNREACHABLE: Final = Outcome(
    code=grpc.StatusCode.UNAVAILABLE, details="failed to connect to all addresses"
)
_RESET: Final = Outcome(code=grpc.StatusCode.UNAVAILABLE, details="Socket closed")
_SILENCE: Final = Outcome(code=grpc.StatusCode.UNAVAILABLE, details="keepalive watchdog timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is sent of a call. `timeout` in seconds counts from its arrival."""

    service: str
    method: str
    message: bytes
    metadata: Metadata
    timeout: float | None


class Server(Protocol):
    """Where a request goes."""

    @property
    def process(self) -> Process:
        """Where it runs."""

    def accept(self, exchange: "Exchange") -> asyncio.Task[None]:
        """Serve it, in the server's process."""


class Exchange:
    """A connection for one attempt. `take` and `end` are called in the client's process.

    State: when the last message sent back arrives, the server's task, whether the connection is
    broken (nothing arrives on it any more: no message is missing among others), and whether the
    client has an outcome.
    """

    def __init__(
        self,
        network: Network,
        request: Request,
        host: Server,
        fate: Fate,
        *,
        take: Callable[[bytes], None],
        end: Callable[[Outcome], None],
    ) -> None:
        self.request = request
        self.client = network.loop.process
        self.host = host
        self._network = network
        self._fate = fate
        self._take = take
        self._end = end
        self._arrives = 0.0
        self._task: asyncio.Task[None] | None = None
        self._broken = False
        self._over = False

    def start(self) -> None:
        """Send the request."""
        network, fate = self._network, self._fate
        network.connected(self)
        if fate is not Fate.FINE:
            network.trace.note(f"{self} {fate.name.lower()}")
        match fate:
            case Fate.REQUEST_LOST:
                return
            case Fate.REQUEST_RESET:
                self._deliver_end(_RESET)
                return
            case Fate.REQUEST_LATE:
                self._send(network.between(0.0, _LATEST))
            case Fate.TWICE:
                self._send(network.delay())
                self._send(network.between(0.0, _SECOND_COPY))
            case _:
                self._send(network.delay())

    def send_back(self, message: bytes) -> None:
        """A message of a stream, from the server."""
        self._back(lambda: self._take(message), self._network.delay())

    def finish(self, outcome: Outcome) -> None:
        """The status, from the server."""
        self._task = None
        match self._fate:
            case Fate.ANSWER_LOST:
                return
            case Fate.ANSWER_RESET:
                self._deliver_end(_RESET)
            case Fate.ANSWER_LATE:
                self._deliver_end(outcome, self._network.between(0.0, _LATEST))
            case _:
                self._deliver_end(outcome)

    def give_up(self) -> None:
        """The client is no longer interested; its server hears of that."""
        self._close()
        self._to_server(self._cancel, self._network.delay())

    def broken(self, *, silent: bool) -> None:
        """The connection is gone; each end that lives notices."""
        after = KEEPALIVE if silent else self._network.delay()
        self._broken = True
        self._network.closed(self)
        outcome = _SILENCE if silent else _RESET
        self._network.world_at(self._now() + after, lambda: self._notice(outcome))

    def __str__(self) -> str:
        return f"{self.request.method.rpartition('/')[2]} at {self.host.process.name}"

    def _send(self, delay: float) -> None:
        self._to_server(self._arrive, delay)

    def _arrive(self) -> None:
        self._task = self.host.accept(self)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _notice(self, outcome: Outcome) -> None:
        loop = self._network.loop
        if self.client.alive and not self._over:
            loop.enter(self.client, self._ended, outcome)
        if self.host.process.alive:
            loop.enter(self.host.process, self._cancel)

    def _deliver_end(self, outcome: Outcome, delay: float | None = None) -> None:
        self._back(lambda: self._ended(outcome), self._network.delay() if delay is None else delay)

    def _ended(self, outcome: Outcome) -> None:
        if not self._over:
            self._close()
            self._end(outcome)

    def _close(self) -> None:
        self._over = True
        self._network.closed(self)

    def _back(self, deliver: Callable[[], None], delay: float) -> None:
        self._arrives = max(self._arrives + 1e-6, self._now() + delay)
        self._network.carry(
            self.host.process,
            self.client,
            self._arrives,
            lambda: None if self._over or self._broken else deliver(),
        )

    def _to_server(self, deliver: Callable[[], None], delay: float) -> None:
        host = self.host.process
        when = self._now() + delay
        if not host.alive:
            self._network.world_at(when, lambda: self._notice(_RESET))
            return
        self._network.carry(self.client, host, when, lambda: None if self._broken else deliver())

    def _now(self) -> float:
        return self._network.loop.time()
