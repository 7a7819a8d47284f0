"""The simulated network: who is listed, how long a message takes, and which are lost.

Messages of one exchange arrive in the order they were sent in, as on one connection; those of two
exchanges in any.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.trace import Trace

KEEPALIVE: Final = 13.0  # seconds until a peer that went away without a word is noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How likely each mishap is for one attempt of a call; `delay` is the usual one, in seconds."""

    delay: float = 0.001
    lost: float = 0.0  # the request or the answer vanishes: the caller waits
    reset: float = 0.0  # the connection breaks before or after the work: UNAVAILABLE
    late: float = 0.0  # by up to eight seconds
    twice: float = 0.0  # the request arrives again, up to fifteen seconds later


FAIR: Final = Weather()


class Fate(Enum):
    """What becomes of one attempt of a call."""

    FINE = auto()
    REQUEST_LOST = auto()
    REQUEST_RESET = auto()
    REQUEST_LATE = auto()
    ANSWER_LOST = auto()
    ANSWER_RESET = auto()
    ANSWER_LATE = auto()
    TWICE = auto()


class Host(Protocol):
    """What the network knows of a server."""

    @property
    def process(self) -> Process:
        """Where it runs."""


class Connection(Protocol):
    """What goes on between a client and a server, and can break."""

    @property
    def client(self) -> Process:
        """Who began it."""

    @property
    def host(self) -> Host:
        """With whom."""

    def broken(self, *, silent: bool) -> None:
        """Tell both ends that are alive; at once, or when they notice the silence."""


class Network:
    """Carries messages between processes; all its chances come from the seed.

    State: `_listed`, the servers of each service by instance; `_connections` that are open;
    `isolated`, the names of processes that nothing reaches; and the weather.
    """

    def __init__(self, loop: VirtualLoop, chance: random.Random, trace: Trace) -> None:
        self.loop = loop
        self.trace = trace
        self.weather = FAIR
        self.isolated: set[str] = set()
        self._chance = chance
        self._listed: dict[str, dict[str, Host]] = {}
        self._connections: dict[Connection, None] = {}

    def list(self, service: str, host: Host) -> None:
        """Let clients find a server; a predecessor of its name is forgotten."""
        self._listed.setdefault(service, {})[host.process.name] = host
        self.trace.note("listed")

    def delist(self, service: str, host: Host) -> None:
        """Let new calls go elsewhere."""
        if self._listed.get(service, {}).get(host.process.name) is host:
            del self._listed[service][host.process.name]
            self.trace.note("delisted")

    def pick(self, service: str) -> Host | None:
        """Some server of the service; it may have died a moment ago."""
        hosts = list(self._listed.get(service, {}).values())
        return self._chance.choice(hosts) if hosts else None

    def fate(self) -> Fate:
        """What shall become of an attempt, in this weather."""
        weather, draw = self.weather, self._chance.random()
        for likelihood, fates in (
            (weather.lost, (Fate.REQUEST_LOST, Fate.ANSWER_LOST)),
            (weather.reset, (Fate.REQUEST_RESET, Fate.ANSWER_RESET)),
            (weather.late, (Fate.REQUEST_LATE, Fate.ANSWER_LATE)),
            (weather.twice, (Fate.TWICE,)),
        ):
            if draw < likelihood:
                return self._chance.choice(fates)
            draw -= likelihood
        return Fate.FINE

    def delay(self) -> float:
        """How long a message takes as a rule; no two arrive in the same instant."""
        return 1e-6 + self._chance.expovariate(1 / self.weather.delay)

    def between(self, least: float, most: float) -> float:
        """A delay out of the ordinary."""
        return self._chance.uniform(least, most)

    def carry(
        self, source: Process, target: Process, when: float, deliver: Callable[[], None]
    ) -> None:
        """Deliver in the target's process at that time; nobody hears where it can't be reached."""
        self.world_at(when, lambda: self._arrive(source, target, deliver))

    def world_at(self, when: float, callback: Callable[[], None]) -> None:
        """Do something at that time, whoever is dead by then."""
        before, self.loop.process = self.loop.process, self.loop.world
        try:
            self.loop.call_at(when, callback)
        finally:
            self.loop.process = before

    def connected(self, connection: Connection) -> None:
        """A connection is there until it is closed."""
        self._connections[connection] = None

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def lost(self, process: Process) -> None:
        """A process died: most peers get a reset, some hear nothing for a while."""
        self._break(process, silent=self._chance.random() < 0.2)

    def isolate(self, process: Process) -> None:
        """Let nothing from or to a process of that name arrive."""
        self.isolated.add(process.name)
        self._break(process, silent=True)

    def heal(self) -> None:
        """Let everything arrive again."""
        self.isolated.clear()
        self.weather = FAIR

    def _break(self, process: Process, *, silent: bool) -> None:
        for connection in list(self._connections):
            if process in (connection.client, connection.host.process):
                connection.broken(silent=silent)

    def _arrive(self, source: Process, target: Process, deliver: Callable[[], None]) -> None:
        if source.name in self.isolated or target.name in self.isolated:
            return
        if target.alive:
            self.loop.enter(target, deliver)
