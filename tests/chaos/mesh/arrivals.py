"""Calls at a constant rate of arrivals, and what became of each.

Open loop: a call starts when it is due, however slow the ones before are. The gaps vary, so that
two loads on one channel do not fall into step, each with an instance of its own.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc

from bench.steady import percentile
from tests.consulmesh.xds_process import SERVICE

RATE: Final = 50.0  # calls per second
DEADLINE: Final = 5.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One call: when it was due, sent and over on the loop's clock, and how it ended.

    `instance` is who says that it answered, `body` what it answered.
    """

    due: float
    sent: float
    ended: float
    code: grpc.StatusCode
    instance: str
    body: bytes
    details: str

    @property
    def failed(self) -> bool:
        """Whether it was answered with an error or not at all."""
        return self.code is not grpc.StatusCode.OK

    @property
    def seconds(self) -> float:
        """How long it took from when it was due."""
        return self.ended - self.due

    @property
    def waited(self) -> float:
        """How long it took from when it was sent, which a busy caller does late."""
        return self.ended - self.sent


class Outcomes(tuple[Outcome, ...]):
    """Some calls that have ended."""

    __slots__ = ()

    @property
    def failures(self) -> "Outcomes":
        """Those that failed."""
        return Outcomes(each for each in self if each.failed)

    @property
    def codes(self) -> Counter[str]:
        """How many ended with which status."""
        return Counter(each.code.name for each in self)

    @property
    def instances(self) -> set[str]:
        """Who answered."""
        return {each.instance for each in self if not each.failed}

    def due(self, begin: float, end: float = float("inf")) -> "Outcomes":
        """Return those that were due in a span of time."""
        return Outcomes(each for each in self if begin <= each.due < end)

    def percentile(self, share: float) -> float:
        """Milliseconds that so many (0 to 1) did not take longer than."""
        return 1000 * percentile([each.seconds for each in self], share)

    def waited(self, share: float) -> float:
        """Milliseconds that so many (0 to 1) callers did not wait longer than."""
        return 1000 * percentile([each.waited for each in self], share)

    def __str__(self) -> str:
        failed = f"{len(self.failures)} failed"
        if self.failures:
            failed += f" ({', '.join(f'{n} {code}' for code, n in self.failures.codes.items())})"
        return f"{len(self)} calls, {failed}, p99 {self.percentile(0.99):.1f} ms"


class Arrivals:
    """Calls a method so often while the block runs; its calls have ended when the block does.

    State: the calls under way, and what became of those that ended.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        method: str = "Get",
        *,
        rate: float = RATE,
        deadline: float = DEADLINE,
    ) -> None:
        self._call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
        self._gap = 1 / rate
        self._deadline = deadline
        self._ended: list[Outcome] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._arriving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._arriving = asyncio.create_task(self._arrive())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            await asyncio.wait([self._arriving])
        if self._under_way:
            await asyncio.wait(self._under_way)

    @property
    def outcomes(self) -> Outcomes:
        """What became of the calls that have ended."""
        return Outcomes(self._ended)

    @property
    def under_way(self) -> int:
        """Calls that have not ended."""
        return len(self._under_way)

    async def answered(
        self, by: Iterable[str] = (), *, since: float = 0.0, patience: float = 20.0
    ) -> float:
        """Wait for an answer, or one by each of some instances, to calls due since then.

        Returns when the last of these first answers came.
        """
        wanted = set(by)
        async with asyncio.timeout(patience):
            while True:
                firsts: dict[str, float] = {}
                for each in self._ended:
                    if each.due >= since and not each.failed:
                        firsts.setdefault(each.instance, each.ended)
                if firsts and wanted <= firsts.keys():
                    return max(firsts[name] for name in wanted) if wanted else min(firsts.values())
                self._news.clear()
                await self._news.wait()

    async def _arrive(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(self._make(due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            due += self._gap * random.uniform(0.5, 1.5)

    async def _make(self, due: float) -> None:
        code, body, details = grpc.StatusCode.OK, b"", ""
        trailers: Any = ()
        loop = asyncio.get_running_loop()
        sent = loop.time()
        try:
            call = self._call(b"", timeout=self._deadline)
            body = await call
            trailers = await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            trailers = error.trailing_metadata()
        instance = str(dict(trailers or ()).get("mesh-instance", "")).partition("/")[0]
        self._ended.append(
            Outcome(
                due=due,
                sent=sent,
                ended=loop.time(),
                code=code,
                instance=instance,
                body=body,
                details=details,
            )
        )
        self._news.set()
