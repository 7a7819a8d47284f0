"""What one client of a hub has not seen yet: one change of each of its flights at most."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Generic

import orjson

from gateway_bff.live import positions
from gateway_bff.live.topic import E, Shown, Topic, View
from gateway_bff.sse import comment, identified
from gateway_bff.sse import event as sse_event
from gateway_bff.telemetry import SourceMetrics
from streams.v1.stream_pb2 import Cursor


class Change(Generic[E]):
    """The newest change of one flight, rendered once for each view."""

    __slots__ = ("_event", "_frames", "_topic", "flight_id", "position")

    def __init__(self, topic: Topic[E], flight_id: str, position: Cursor, event: E) -> None:
        self.flight_id = flight_id
        self.position = position
        self._topic = topic
        self._event = event
        self._frames: dict[View, tuple[Shown, bytes]] = {}

    def frame(self, view: View) -> tuple[Shown, bytes]:
        """What a view is shown, and the bytes of the event with its id."""
        frame = self._frames.get(view)
        if frame is None:
            shown = self._topic.shown(self._event, view)
            frame = (shown, identified(shown.event, positions.encode(self.position)))
            self._frames[view] = frame
        return frame


class Subscription(Generic[E]):
    """A client's place in a hub.

    States are absolute, so a change replaces an older one of the same flight that the client has
    not taken: a slow client is told less often, and is owed at most one change a flight.

    State: `_pending` in the order of the history, all of it after `_after`; `_seen` are the
    versions that the client was told; `_origin` is where its state begins, and `_begun` the origin
    of the state that it was told, so that they differ while it has to be told anew.
    """

    def __init__(
        self,
        flight_ids: Sequence[str],
        view: View,
        origin: Cursor,
        metrics: SourceMetrics,
        leave: Callable[["Subscription[E]"], None],
    ) -> None:
        self.flight_ids = flight_ids
        self.view = view
        self._origin = origin
        self._begun: Cursor | None = None
        self._after = origin.seq
        self._pending: dict[str, Change[E]] = {}
        self._seen: dict[str, int] = {}
        self._stale = False
        self._lag: float | None = None
        self._metrics = metrics
        self._leave = leave
        self._open = True
        self._news = asyncio.Event()

    @property
    def origin(self) -> Cursor:
        """Where the state begins that the client is told, or has to be."""
        return self._origin

    @property
    def lost(self) -> bool:
        """Whether the client has to be told the state before anything else."""
        return self._begun is not self._origin

    def offer(self, change: Change[E]) -> None:
        """One of its flights has changed."""
        if change.position.seq > self._after:
            if self._pending.pop(change.flight_id, None):
                self._metrics.conflated.inc()
            self._pending[change.flight_id] = change
            self._news.set()

    def resume(self, after: int, changes: Iterable[Change[E]]) -> None:
        """The client has seen everything up to `after`, and of the rest it is owed these."""
        self._begun = self._origin
        self._after = after
        for change in changes:
            self.offer(change)

    def reset(self, origin: Cursor) -> None:
        """Changes were missed: what is pending says nothing, and the state has to be told."""
        self._origin = origin
        self._after = origin.seq
        self._pending.clear()
        self._seen.clear()
        self._news.set()

    def begin(self, origin: Cursor, state: Sequence[Shown]) -> bytes:
        """Render the state that was read after `origin`.

        The id is the last event's alone: a client that was cut off before it does not know the
        whole state.
        """
        self._begun = origin
        if origin is self._origin:
            self._seen = {shown.flight_id: shown.version for shown in state}
        *first, last = [shown.event for shown in state]
        self._metrics.sent.inc(len(state))
        return b"".join(first) + identified(last, positions.encode(origin))

    async def changed(self) -> bool:
        """Wait until there is something to tell; False once the subscription has ended."""
        await self._news.wait()
        self._news.clear()
        return self._open

    def take(self) -> bytes:
        """Render what is pending, in the order of the history; from here on it was told."""
        taken, self._pending = self._pending, {}
        frames = [frame for change in taken.values() if (frame := self._told(change))]
        self._metrics.sent.inc(len(frames))
        if self._stale != (self._lag is not None):
            self._stale = not self._stale
            frames.append(_freshness(self._lag))
        return b"".join(frames)

    def lags(self, seconds: float | None) -> None:
        """The source is away, and what is known is so old; None: it is back."""
        self._lag = seconds
        self._news.set()

    def bookmark(self, position: Cursor) -> bytes:
        """Render the hub's position as the client's, where it has all up to there."""
        if self.lost or self._pending:
            return comment()
        if position.seq < self._after:
            position = Cursor(epoch=position.epoch, seq=self._after)
        return identified(b"\n", positions.encode(position))

    def close(self) -> None:
        """End the subscription; may be called twice."""
        if self._open:
            self._open = False
            self._news.set()
            self._leave(self)

    def _told(self, change: Change[E]) -> bytes:
        """What to send of a change; nothing where the client knows as much."""
        shown, frame = change.frame(self.view)
        seen = self._seen.get(shown.flight_id, -1)
        if shown.version < seen or (shown.version == seen and not shown.removed):
            return b""
        self._seen[shown.flight_id] = shown.version
        return frame


def _freshness(lag: float | None) -> bytes:
    if lag is None:
        return sse_event("live", b"{}")
    return sse_event("stale", orjson.dumps({"lag": round(lag, 3)}))
