"""The saga runner: work on bookings that belongs to the process, not to a request.

Several runners share one database. A saga belongs to the one whose name is in its row until its
`due_time`; after that, whoever takes it first raises the epoch and goes on from the stored step. So
leases give liveness only: a runner that was frozen finds its compare-and-set refused, and
participants refuse its epoch.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Coroutine
from collections.abc import Set as AbstractSet
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Self, TypeVar

import structlog

from booking.domain import (
    Booking,
    Rejection,
    RequestKey,
    Saga,
    Step,
    Superseded,
    Unanswered,
    User,
)
from booking.participants import Participants
from booking.saga_log import SagaLog, Stray
from consulmesh.admission import ConcurrencyLimit
from consulmesh.context import CallContext, Criticality, use
from consulmesh.errors import Overloaded
from eventstream import StorageUnavailableError

_T = TypeVar("_T")

_log = structlog.get_logger()

_GIVEN_UP = "UPSTREAM_UNAVAILABLE"
_LINGER = timedelta(milliseconds=50)
_DOUBLINGS = 20
_LONGEST_WAIT = timedelta(seconds=1)  # a clock that was set back must not stop the runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long things may take.

    Schedule must hold seats for longer than patience, a lease and a few retries together.
    """

    lease: timedelta = timedelta(seconds=5)  # longer than a step's deadline and its commit
    patience: timedelta = timedelta(minutes=2)  # until an unanswered, undecided saga aborts
    first_retry: timedelta = timedelta(milliseconds=50)
    last_retry: timedelta = timedelta(seconds=5)
    grace: timedelta = timedelta(seconds=2)  # for steps under way when the runner closes
    at_once: int = 64  # sagas taken over or retried; those of this process's callers are on top
    in_time: timedelta = timedelta(seconds=2)  # what a saga may take before fewer are begun
    fewest: int = 8  # of one process at once, however late they are
    most: int = 256

    @property
    def horizon(self) -> timedelta:
        """Nothing is put off for longer than this."""
        return 2 * (self.lease + self.last_retry)

    def pause(self, attempts: int) -> timedelta:
        """The longest wait after so many unanswered attempts, of which there may be any number."""
        return min(self.first_retry * (1 << min(attempts, _DOUBLINGS)), self.last_retry)


DEFAULT_TERMS = Terms()


class SagaRunner:
    """Drives this process's sagas and takes over what others have let go of.

    `run` is a job of the process; leaving the context hands back what is unfinished.

    State: `_tasks`, the sagas under way here, and which of them were claimed.
    """

    def __init__(
        self,
        log: SagaLog,
        participants: Participants,
        *,
        name: str,
        clock: Callable[[], datetime],
        terms: Terms = DEFAULT_TERMS,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._log = log
        self._participants = participants
        # A restarted process is another owner: what its predecessor began it takes like anybody.
        self._owner = f"{name}/{secrets.token_hex(4)}"
        self._clock = clock
        self._terms = terms
        self._random = random
        self._tasks: set[asyncio.Task[object]] = set()
        self._claimed: set[asyncio.Task[object]] = set()
        self._limit = ConcurrencyLimit(
            terms.in_time, least=terms.fewest, most=terms.most, clock=_loop_time
        )
        self._look = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def admit(self) -> None:
        """Returns where one more saga may begin; raises Overloaded where too many are under way.

        Without that there is an overload that stays: each saga takes longer than its caller waits,
        who asks again while it goes on, and others take over what its owner has no time for.
        """
        if not self._limit.admits(len(self._tasks)):
            raise Overloaded

    async def begin(self, booking: Booking, key: RequestKey) -> Booking:
        """Store a new booking and drive its saga, or return what the key has made already.

        A caller that goes away stops neither.
        """
        return await asyncio.shield(self._spawn(self._begin(booking, key)))

    async def cancel(self, user: User, booking_id: str, key: RequestKey) -> Booking | None:
        """Cancel the user's booking and give its seats back; None where there is none."""
        return await asyncio.shield(self._spawn(self._cancel(user, booking_id, key)))

    async def run(self) -> None:
        """Take what is due, until closed; to be run by the process for as long as it lives."""
        jobs = [asyncio.create_task(self._listen()), asyncio.create_task(self._recall_strays())]
        try:
            while not self._closing:
                self._look.clear()
                await self._wait(await self._take_due())
        finally:
            for job in jobs:
                job.cancel()

    async def aclose(self) -> None:
        """Let steps under way end within the grace, then hand back what is unfinished."""
        self._closing = True
        self._look.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._terms.grace.total_seconds())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            returned = await self._log.hand_back(self._owner, self._clock())
        except StorageUnavailableError as error:  # they are taken when their leases end
            _log.warning("sagas_not_handed_back", error=str(error))
        else:
            _log.info("sagas_handed_back", sagas=returned)

    async def _begin(self, booking: Booking, key: RequestKey) -> Booking:
        saga = Saga(booking=booking, owner=self._owner)
        began = _loop_time()
        made = await self._log.begin(saga, key, self._lease_end())
        if made is None:
            self._start(saga).add_done_callback(partial(self._took, began))
        return made or booking

    async def _cancel(self, user: User, booking_id: str, key: RequestKey) -> Booking | None:
        found = await self._log.cancel(
            user, booking_id, key, self._owner, self._clock(), self._lease_end()
        )
        if found is None:
            return None
        booking, saga = found
        if saga is not None:
            self._start(saga)
        return booking

    async def _listen(self) -> None:
        """Look again after commits of others, not for each one of a busy database.

        What this process makes due it looks for at once.
        """
        seen = self._log.elsewhere
        while True:
            seen = await self._log.changed_elsewhere(seen)
            self._look.set()
            await asyncio.sleep(_LINGER.total_seconds())

    async def _recall_strays(self) -> None:
        """Make sagas due that seem to be put off for longer than any is.

        Their times were written before the clock was set back, or by a clock that is ahead. One
        that moves has an owner; to take it from an owner whose clock disagrees would only make that
        take it back.
        """
        seen: AbstractSet[Stray] = frozenset()
        while True:
            try:
                strays = await self._log.strays(self._clock() + self._terms.horizon)
                if still := seen & strays:
                    _log.warning("sagas_recalled", sagas=len(still))
                    await self._log.recall(still, self._clock())
                    self._look.set()
                seen = strays
            except StorageUnavailableError as error:
                _log.warning("sagas_not_read", error=str(error))
            await asyncio.sleep(self._terms.lease.total_seconds())

    async def _take_due(self) -> datetime | None:
        """Start on sagas that are due; return when to look again."""
        now = self._clock()
        room = self._terms.at_once - len(self._claimed)
        if room <= 0:
            return None  # the next one that ends makes room
        try:
            due = await self._log.next_due(now)
            if due is None or due > now:
                return due
            return now if await self._claim(now, room) else now + _LINGER
        except StorageUnavailableError as error:
            _log.warning("sagas_not_read", error=str(error))
            return now + _LONGEST_WAIT

    async def _claim(self, now: datetime, limit: int) -> int:
        sagas = await self._log.claim(self._owner, now, self._lease_end(), limit)
        for saga in sagas:
            self._claimed.add(self._start(saga))
        return len(sagas)

    async def _wait(self, due: datetime | None) -> None:
        wait = _LONGEST_WAIT if due is None else min(due - self._clock(), _LONGEST_WAIT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait.total_seconds()):
                await self._look.wait()

    def _start(self, saga: Saga) -> asyncio.Task[bool]:
        task = self._spawn(self._drive(saga))
        task.add_done_callback(self._driven)
        return task

    def _took(self, began: float, saga: asyncio.Task[bool]) -> None:
        """Learn from a saga how many are too many. One that was put off early says nothing."""
        seconds = _loop_time() - began
        late = seconds > self._terms.in_time.total_seconds()
        if not saga.cancelled() and not saga.exception() and (late or saga.result()):
            self._limit.done(seconds, len(self._tasks))

    def _spawn(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        """A task in a fresh context: no request's deadline, trace or user is in it."""
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _driven(self, task: asyncio.Task[object]) -> None:
        if task in self._claimed:
            self._claimed.discard(task)
            self._look.set()
        if task.cancelled() or not (error := task.exception()):
            return
        # Its lease runs out, and whoever takes it then goes on from the stored step.
        if isinstance(error, StorageUnavailableError):
            _log.warning("saga_not_recorded", error=str(error))
        else:
            _log.error("saga_failed", exc_info=error)

    async def _drive(self, saga: Saga) -> bool:
        """Ask step after step, until it is finished (True), postponed, or another's."""
        context = replace(CallContext.fresh(), criticality=Criticality.CRITICAL_PLUS)
        following: Saga | None = saga
        with use(context):
            while following is not None and following.step is not Step.FINISHED:
                following = await self._advance(following)
        return following is not None

    async def _advance(self, saga: Saga) -> Saga | None:
        """Ask once and record the answer before anything else; None: it is not ours any more."""
        try:
            after = await self._participants.ask(saga)
        except Superseded as error:
            _log.warning("saga_superseded", **_facts(saga), why=str(error))
            return None
        except Unanswered as error:
            if not saga.may_give_up(self._clock(), self._terms.patience):
                await self._postpone(saga, str(error))
                return None
            after = saga.gave_up(Rejection(reason=_GIVEN_UP, message="no answer in time"))
        stored = await self._log.record(saga, after, self._lease_end())
        if stored is None:
            _log.warning("saga_superseded", **_facts(saga), why="taken over")
            return None
        _log.debug("saga_step", **_facts(stored))
        return stored

    async def _postpone(self, saga: Saga, error: str) -> None:
        """Let go of it for a while: the next attempt may be another instance's."""
        due = self._clock() + self._terms.pause(saga.attempts) * (0.5 + self._random() / 2)
        await self._log.postpone(saga, error, due)
        self._look.set()
        _log.info("saga_postponed", **_facts(saga), attempts=saga.attempts + 1, error=error)

    def _lease_end(self) -> datetime:
        return self._clock() + self._terms.lease


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _facts(saga: Saga) -> dict[str, object]:
    return {
        "booking_id": saga.booking.booking_id,
        "step": saga.step.value,
        "epoch": saga.epoch,
    }
