"""What can go wrong with a call to a fake, and when."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import grpc


class NotFound(Exception):  # noqa: N818 - named after its status code
    """NOT_FOUND with a reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason.lower())
        self.reason = reason


class Refused(Exception):  # noqa: N818 - an answer
    """FAILED_PRECONDITION with a reason."""

    def __init__(self, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(reason.lower())
        self.reason = reason
        self.metadata = metadata or {}


class Lost(Exception):  # noqa: N818 - what happens to a message
    """UNAVAILABLE: the caller can't know what was done."""


STATUS_CODES = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    Lost: grpc.StatusCode.UNAVAILABLE,
}


class Gate:
    """Stops calls until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        """Let the calls go on."""
        self._open.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        self.reached.set()
        await self._open.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a call meets: a gate, then an error before its work, or one after it."""

    gate: Gate | None = None
    before: Exception | None = None
    after: Exception | None = None

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Stand around the work of a call."""
        if self.gate is not None:
            await self.gate.passed()
        if self.before is not None:
            raise self.before
        yield
        if self.after is not None:
            raise self.after


UNREACHABLE = Fault(before=Lost("before the work"))
LOST_REPLY = Fault(after=Lost("after the work"))


def refused(reason: str, metadata: Mapping[str, str] | None = None) -> Fault:
    """Nothing is done, and the answer is no."""
    return Fault(before=Refused(reason, metadata))


class Faults:
    """The faults of one fake, by method, and a count of the calls it has had."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._next: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def plan(self, method: str, *faults: Fault) -> None:
        """The next calls of the method meet these, one each."""
        self._next[method].extend(faults)

    def always(self, method: str, fault: Fault) -> None:
        """Every call of the method meets this, until `heal`."""
        self._always[method] = fault

    def heal(self) -> None:
        """No faults from now on."""
        self._next.clear()
        self._always.clear()

    def of(self, method: str) -> AbstractAsyncContextManager[None]:
        """The fault that this call meets, around its work."""
        self.calls[method] += 1
        if self._next[method]:
            return self._next[method].popleft().around()
        return self._always.get(method, Fault()).around()
