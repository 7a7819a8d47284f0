"""One owner's changes, kept as long as there is room and passed on to whoever watches the flight.

What is kept is the newest change of each flight, which is all that a client needs that was away: it
is owed what a slow one would have been. So a busy flight does not push the others out, and the hub
reaches back as far as the 10,000 flights that changed last.

A client that was farther away than that, or whose gateway was restarted, makes the hub catch up: it
reads the owner's history from there to where its own begins, once, for all who wait for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, Generic

import grpc
import structlog

from consulmesh.context import within
from gateway_bff.failures import RETRY_AFTER
from gateway_bff.live import positions
from gateway_bff.live.subscription import Change, Subscription
from gateway_bff.live.topic import E, Shown, Topic, View
from gateway_bff.problems import Problem
from gateway_bff.telemetry import SourceMetrics
from streams.v1.stream_pb2 import PHASE_BOOKMARK, PHASE_EVENTS, Cursor

CAPACITY: Final = 10_000
"""Flights whose newest change is kept, and events that are read at most to catch up."""
_STATES_AT_ONCE: Final = 16
"""Reads of the current state that are under way at most, when all clients have to start anew."""
_PATIENCE: Final = 2.0
"""Seconds for which a client that comes back waits until the hub has caught up."""

_log = structlog.get_logger()


class Missed(StrEnum):
    """Why a client can't go on where it was."""

    MALFORMED = "malformed"  # its id is none of ours
    HISTORY = "history"  # the owner has begun another one
    AHEAD = "ahead"  # the id is of a future that is too far away
    GAP = "gap"  # too much has happened since
    SLOW = "slow"  # the owner's history could not be read in time
    SOURCE = "source"  # this gateway itself has missed something


class Hub(Generic[E]):
    """Follows one owner as an `eventstream.Inbox`, and serves any number of subscriptions.

    Each method that changes anything does so without waiting in between, so a subscription gets
    every change after the position that it began at.

    State: `_position` is that of the newest change that was passed on, None before the owner was
    ever reached; `_recent`, in the order of the history, has the newest change of every flight that
    changed after `_floor`; `_subscriptions` stand in `_watching` under each of their flights.
    """

    def __init__(
        self, topic: Topic[E], metrics: SourceMetrics, *, capacity: int = CAPACITY
    ) -> None:
        self.topic = topic
        self.metrics = metrics
        self._capacity = capacity
        self._position: Cursor | None = None
        self._in_snapshot = False
        self._floor = 0
        self._recent: OrderedDict[str, Change[E]] = OrderedDict()
        self._subscriptions: set[Subscription[E]] = set()
        self._watching: dict[str, set[Subscription[E]]] = {}
        self._lag: float | None = None
        self._catching_up = asyncio.Lock()
        self._states = asyncio.Semaphore(_STATES_AT_ONCE)

    def __repr__(self) -> str:
        subscriptions, recent = len(self._subscriptions), len(self._recent)
        return f"<Hub {self.topic.source} {subscriptions=} {recent=}>"

    async def position(self) -> Cursor | None:
        """Where to follow from."""
        return None if self._in_snapshot else self._position

    async def start_snapshot(self) -> None:
        """The hub can't go on where it was; what it missed is not known yet."""
        self._in_snapshot = True

    async def apply(self, events: Sequence[E], cursor: Cursor | None) -> None:
        """Pass changes on. Rows of a snapshot, which only an older owner sends, are none."""
        if cursor is None:
            return
        for change in self._changes(events, cursor):
            self._pass_on(change)
        self._position = cursor

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Something was missed: everybody starts anew."""
        self._in_snapshot = False
        self._position = cursor
        self._floor = cursor.seq
        self._recent.clear()
        for subscription in self._subscriptions:
            subscription.reset(cursor)

    def subscribe(self, flight_ids: Sequence[str], view: View) -> Subscription[E]:
        """Begin where the hub stands; UPSTREAM_UNAVAILABLE before the owner was ever reached."""
        if self._position is None:
            raise Problem("UPSTREAM_UNAVAILABLE", headers={"Retry-After": str(RETRY_AFTER)})
        subscription = Subscription(flight_ids, view, self._position, self.metrics, self._forget)
        self._subscriptions.add(subscription)
        for flight_id in flight_ids:
            self._watching.setdefault(flight_id, set()).add(subscription)
        self.metrics.subscribers.set(len(self._subscriptions))
        if self._lag is not None:
            subscription.lags(self._lag)
        return subscription

    async def resume(
        self, flight_ids: Sequence[str], view: View, last_event_id: str
    ) -> Subscription[E] | Missed:
        """Go on after an id, of this gateway or of another, or say why that is not possible."""
        try:
            after = positions.decode(last_event_id)
        except ValueError:
            return Missed.MALFORMED
        if (missed := await self._reach(after)) is not None:
            return missed
        subscription = self.subscribe(flight_ids, view)
        found = [self._recent[key] for key in flight_ids if key in self._recent]
        subscription.resume(after.seq, sorted(found, key=lambda change: change.position.seq))
        return subscription

    async def state(
        self, of: Subscription[E], *, forgiving: bool, budget: float
    ) -> Sequence[Shown]:
        """Ask the owner for the current state, which is at least as new as `of.origin`.

        The budget, in seconds, begins when it is this question's turn. Raises AioRpcError; a
        forgiving question takes flights for gone that the owner does not have.
        """
        async with self._states:
            with within(budget):
                return await self._asked(of, forgiving=forgiving)

    def bookmark(self, of: Subscription[E]) -> bytes:
        """Render the hub's position as a subscription's, where that has everything up to there."""
        return of.bookmark(self._position or of.origin)

    def lags(self, seconds: float | None) -> None:
        """The owner is away, and what is known is so old; None: it is back."""
        self._lag = seconds
        for subscription in self._subscriptions:
            subscription.lags(seconds)

    def _pass_on(self, change: Change[E]) -> None:
        _put(self._recent, change)
        if len(self._recent) > self._capacity:
            _, oldest = self._recent.popitem(last=False)
            self._floor = oldest.position.seq
        for subscription in self._watching.get(change.flight_id, ()):
            subscription.offer(change)

    async def _asked(self, of: Subscription[E], *, forgiving: bool) -> Sequence[Shown]:
        try:
            return await self.topic.now(of.flight_ids, of.view)
        except grpc.aio.AioRpcError as error:
            if not forgiving or error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        return [await self._one(flight_id, of.view) for flight_id in of.flight_ids]

    async def _one(self, flight_id: str, view: View) -> Shown:
        try:
            (shown,) = await self.topic.now([flight_id], view)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return self.topic.gone(flight_id)
        return shown

    async def _reach(self, after: Cursor) -> Missed | None:
        """Make the hub reach back to a position; says why where it can't."""
        if self._missed(after) is not Missed.GAP:
            return self._missed(after)
        try:
            async with asyncio.timeout(_PATIENCE), self._catching_up:
                if self._missed(after) is Missed.GAP and self._has_room(after):
                    await self._catch_up(after)
        except TimeoutError:
            return Missed.SLOW
        except grpc.aio.AioRpcError as error:
            _log.info("live_not_caught_up", source=self.topic.source, code=error.code().name)
            return Missed.SLOW
        return self._missed(after)

    def _missed(self, after: Cursor) -> Missed | None:
        at = self._position
        if at is None or after.epoch != at.epoch:
            return Missed.HISTORY
        if after.seq > at.seq + self._capacity:
            return Missed.AHEAD
        return Missed.GAP if after.seq < self._floor else None

    def _has_room(self, after: Cursor) -> bool:
        return self._floor - after.seq <= self._capacity - len(self._recent)

    async def _catch_up(self, after: Cursor) -> None:
        """Read the history from `after` to where the hub's begins, and put it before that."""
        self.metrics.catch_ups.inc()
        end = self._floor
        older: OrderedDict[str, Change[E]] = OrderedDict()
        call = self.topic.watch(after)
        try:
            async for response in call:
                if response.phase not in {PHASE_EVENTS, PHASE_BOOKMARK}:
                    return  # the owner does not have it any more
                for change in self._changes(response.events, response.cursor):
                    if change.position.seq <= end:
                        _put(older, change)
                if response.cursor.seq >= end:
                    break
            else:
                return
        finally:
            call.cancel()
        self._put_before(older, after, end)

    def _put_before(self, older: OrderedDict[str, Change[E]], after: Cursor, end: int) -> None:
        """Reach back from `end` to `after`, unless the hub has moved or filled up meanwhile."""
        for key in self._recent:
            older.pop(key, None)
        moved = self._missed(after) is not Missed.GAP or self._floor != end
        if moved or len(older) + len(self._recent) > self._capacity:
            return
        for key, change in reversed(older.items()):
            self._recent[key] = change
            self._recent.move_to_end(key, last=False)
        self._floor = after.seq

    def _changes(self, events: Sequence[E], cursor: Cursor) -> Iterator[Change[E]]:
        """Of events up to a position; those of a kind that is newer than this program are none."""
        for seq, event in enumerate(events, cursor.seq - len(events) + 1):
            if flight_id := self.topic.flight_of(event):
                yield Change(self.topic, flight_id, Cursor(epoch=cursor.epoch, seq=seq), event)

    def _forget(self, subscription: Subscription[E]) -> None:
        self._subscriptions.discard(subscription)
        for flight_id in subscription.flight_ids:
            watching = self._watching[flight_id]
            watching.discard(subscription)
            if not watching:
                del self._watching[flight_id]
        self.metrics.subscribers.set(len(self._subscriptions))


def _put(changes: OrderedDict[str, Change[E]], change: Change[E]) -> None:
    """Put the newest change of a flight at the end, in place of an older one."""
    changes.pop(change.flight_id, None)
    changes[change.flight_id] = change
