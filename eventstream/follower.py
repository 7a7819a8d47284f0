"""The consumer's side of a durable stream: follows a Watch RPC into an inbox, for ever.

The inbox says where it stands, the stream continues there, what arrives is checked to continue it
and applied. Whatever goes wrong (the stream ends, is silent, does not continue; the inbox can't be
written) ends in the same place: back off, ask the inbox again where it stands, reconnect.

Let the call wait for the source (`wait_for_ready=True`): a source that starts later than its
reader is followed at once when it is there, instead of after the rest of a pause.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Final, Generic, Literal, Never, Protocol, TypeVar, runtime_checkable

import grpc
import structlog
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from eventstream import metrics
from eventstream.errors import PositionMovedError, StreamBrokenError
from streams.v1 import stream_pb2
from streams.v1.stream_pb2 import Cursor, Phase

E = TypeVar("E", bound=Message)
E_co = TypeVar("E_co", bound=Message, covariant=True)
E_contra = TypeVar("E_contra", bound=Message, contravariant=True)

_log = structlog.get_logger()

_SILENCE: Final = timedelta(seconds=3)
_FIRST_PAUSE: Final = 0.05  # seconds
_LONGEST_PAUSE: Final = 5.0
_SILENT: Final = "silent"
_AT_A_POSITION: Final = frozenset(
    {
        stream_pb2.PHASE_SNAPSHOT_COMPLETED,
        stream_pb2.PHASE_EVENTS,
        stream_pb2.PHASE_BOOKMARK,
    }
)


class WatchResponse(Protocol[E_co]):
    """What every Watch RPC answers."""

    @property
    def phase(self) -> Phase.ValueType:
        """What this response is."""

    @property
    def cursor(self) -> Cursor:
        """The reader's position once it has applied this response."""

    @property
    def events(self) -> Sequence[E_co]:
        """The events, in order."""

    @property
    def read_time(self) -> Timestamp:
        """Where set, the reader has everything committed before it."""

    def HasField(self, field_name: Literal["read_time"]) -> bool:
        """Whether a field is set."""


class Inbox(Protocol[E_contra]):
    """Where a follower puts what it receives; each method is one transaction."""

    async def position(self) -> Cursor | None:
        """Return the stored cursor; None where there is none, or a snapshot was cut off."""

    async def start_snapshot(self) -> None:
        """Mark all rows as unseen and forget the cursor."""

    async def apply(self, events: Sequence[E_contra], cursor: Cursor | None) -> None:
        """Apply events, none of them over a newer version of its row, and store the cursor.

        The cursor is None in the middle of a snapshot: the events are rows seen then.
        """

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Remove the rows that are still unseen and store the cursor."""


class Follower(Generic[E]):
    """Keeps an inbox up to date with one source.

    `caught_up` is set once the inbox has everything that was committed when it was told so, and
    cleared while a snapshot replaces what is there.

    State: `_cursor` is the position up to which the inbox has applied everything, None before the
    first whole state and during a snapshot; `_fresh` is what is known of freshness, and since when;
    `_last_end` and `_pause` are for the log and the backoff.
    """

    def __init__(
        self,
        source: str,
        watch: Callable[[Cursor | None], AsyncIterable[WatchResponse[E]]],
        inbox: Inbox[E],
        *,
        silence: timedelta = _SILENCE,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.caught_up = asyncio.Event()
        self._source = source
        self._watch = watch
        self._inbox = inbox
        self._silence = silence.total_seconds()
        self._clock = clock
        self._jitter = jitter
        self._cursor: Cursor | None = None
        self._in_snapshot = False
        self._fresh: tuple[float, float] | None = None
        self._last_end = ""
        self._pause = _FIRST_PAUSE
        metrics.LAG.labels(source).set_function(self.lag)

    @property
    def cursor(self) -> Cursor | None:
        """The position up to which everything is applied; None while there is no whole state."""
        return self._cursor

    def lag(self) -> float:
        """Return the seconds since everything that was committed at the source was here.

        Infinite before that was so for the first time. The two clocks are compared once, when a
        response arrives; from there on the monotonic clock counts.
        """
        if self._fresh is None:
            return math.inf
        age, noted = self._fresh
        return age + time.monotonic() - noted

    async def run(self) -> Never:
        """Follow for ever; ends by cancellation only."""
        while True:
            end = await self._follow()
            metrics.CONNECTIONS.labels(self._source, end).inc()
            if end != _SILENT:  # that has taken long enough
                await asyncio.sleep(self._pause * (0.5 + self._jitter() / 2))
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _follow(self) -> str:
        """Follow one stream until it ends and return how it did."""
        try:
            await self._connect()
        except grpc.aio.AioRpcError as error:
            return self._ended(error.code().name.lower(), error.details())
        except _SilentError:
            return self._ended(_SILENT, f"nothing came for {self._silence} s")
        except StreamBrokenError as error:
            _log.error("stream_broken", source=self._source, error=str(error))
            return "broken"
        except PositionMovedError as error:
            return self._ended("moved", str(error))
        except Exception:  # noqa: BLE001 - a watch loop: loud, then the same again
            _log.exception("stream_not_applied", source=self._source)
            return "failed"
        return self._ended("ended", None)

    def _ended(self, end: str, details: str | None) -> str:
        if end != self._last_end:
            _log.info("stream_ended", source=self._source, end=end, details=details)
        self._last_end = end
        return end

    async def _connect(self) -> None:
        self._cursor = await self._inbox.position()
        self._in_snapshot = False
        call = self._watch(self._cursor)
        try:
            responses = aiter(call)
            while (response := await self._next(responses)) is not None:
                await self._take(response)
        finally:
            if isinstance(call, _Call):
                call.cancel()

    async def _next(self, responses: AsyncIterator[WatchResponse[E]]) -> WatchResponse[E] | None:
        try:
            async with asyncio.timeout(self._silence):
                return await anext(responses, None)
        except TimeoutError:
            raise _SilentError from None

    async def _take(self, response: WatchResponse[E]) -> None:
        wall, monotonic = self._clock(), time.monotonic()
        await self._apply(response)
        if response.phase in _AT_A_POSITION and response.HasField("read_time"):
            age = wall - response.read_time.ToNanoseconds() / 1e9
            self._fresh = (max(0.0, age), monotonic)
            if response.phase != stream_pb2.PHASE_SNAPSHOT_COMPLETED:
                self._complete()

    def _complete(self) -> None:
        self._pause = _FIRST_PAUSE
        self._last_end = ""
        if not self.caught_up.is_set():
            _log.info("stream_caught_up", source=self._source, lag=self.lag())
            self.caught_up.set()

    async def _apply(self, response: WatchResponse[E]) -> None:
        match response.phase:
            case stream_pb2.PHASE_SNAPSHOT_STARTED:
                await self._start_snapshot()
            case stream_pb2.PHASE_SNAPSHOT:
                await self._apply_rows(response.events)
            case stream_pb2.PHASE_SNAPSHOT_COMPLETED:
                await self._complete_snapshot(response.cursor)
            case stream_pb2.PHASE_EVENTS:
                await self._apply_events(response.events, response.cursor)
            case stream_pb2.PHASE_BOOKMARK:
                self._check_continues(response.cursor, 0)
            case unknown:
                raise StreamBrokenError(f"a response of unknown phase {unknown}")
        if response.events:
            phase = Phase.Name(response.phase).removeprefix("PHASE_").lower()
            metrics.EVENTS_APPLIED.labels(self._source, phase).inc(len(response.events))

    async def _start_snapshot(self) -> None:
        _log.info("stream_snapshot_started", source=self._source)
        self.caught_up.clear()
        self._cursor = None
        await self._inbox.start_snapshot()
        self._in_snapshot = True

    async def _apply_rows(self, rows: Sequence[E]) -> None:
        if not self._in_snapshot:
            raise StreamBrokenError("rows of a snapshot that was not started")
        await self._inbox.apply(rows, None)

    async def _complete_snapshot(self, cursor: Cursor) -> None:
        if not self._in_snapshot:
            raise StreamBrokenError("the end of a snapshot that was not started")
        await self._inbox.complete_snapshot(cursor)
        self._in_snapshot = False
        self._cursor = cursor
        _log.info("stream_snapshot_completed", source=self._source, seq=cursor.seq)

    async def _apply_events(self, events: Sequence[E], cursor: Cursor) -> None:
        self._check_continues(cursor, len(events))
        await self._inbox.apply(events, cursor)
        self._cursor = cursor

    def _check_continues(self, cursor: Cursor, events: int) -> None:
        at = self._cursor
        if at is None or (cursor.epoch, cursor.seq) != (at.epoch, at.seq + events):
            was = "nothing" if at is None else f"{at.epoch}/{at.seq}"
            raise StreamBrokenError(
                f"{events} events up to {cursor.epoch}/{cursor.seq} do not continue {was}"
            )


class _SilentError(Exception):
    """Nothing came, not even a bookmark."""


@runtime_checkable
class _Call(Protocol):
    def cancel(self) -> bool: ...
