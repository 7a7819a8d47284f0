"""Server-sent events (WHATWG HTML §9.2)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

import grpc
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway_bff.connection import ClientGone, Connected
from gateway_bff.edge import BODILESS
from gateway_bff.failures import of_call
from gateway_bff.problems import Problem
from gateway_bff.settings import Settings

HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""What every event stream says to those between it and its client."""

_log = structlog.get_logger()


def event(name: str, data: bytes) -> bytes:
    """One event; the data is JSON, which has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), data)


def identified(block: bytes, last_event_id: bytes) -> bytes:
    """The event with its id. Of an empty line it makes an id alone, which dispatches nothing."""
    return b"id: %b\n%b" % (last_event_id, block)


def retry(after: timedelta) -> bytes:
    """When to come back after the connection is lost."""
    return b"retry: %d\n\n" % (after / timedelta(milliseconds=1))


def comment() -> bytes:
    """Something that says nothing."""
    return b":\n\n"


class OpenStreams:
    """The event streams that are being sent; `end` lets each say that it was not to the end."""

    def __init__(self) -> None:
        self._streams: set[EventStream] = set()
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: "EventStream") -> None:
        """A stream begins."""
        self._streams.add(stream)
        self._none.clear()

    def remove(self, stream: "EventStream") -> None:
        """A stream is over."""
        self._streams.discard(stream)
        if not self._streams:
            self._none.set()

    async def end(self, patience: timedelta) -> None:
        """Ends what has no end of its own; waits a while for the others, then ends them too."""
        for stream in self._streams:
            if stream.endless:
                stream.end()
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self._none.wait()
        except TimeoutError:
            for stream in self._streams:
                stream.end()


class EventStream(Response):
    """A response that sends `events` as they come, and `beat` where nothing comes for long.

    A call that fails after the first event is `event: problem`, and so is the end that `end` puts
    to it. `cancel` ends the events, or lets who waits for the next one be cancelled; it is called
    when the response is over, however that came about. `endless` events only end by that.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        cancel: Callable[[], object],
        streams: OpenStreams,
        settings: Settings,
        headers: Mapping[str, str] = HEADERS,
        beat: Callable[[], bytes] = comment,
        endless: bool = False,
    ) -> None:
        super().__init__(headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._cancel = cancel
        self._beat = beat
        self.endless = endless
        self._streams = streams
        self._settings = settings
        self._ended = False

    def end(self) -> None:
        """Stops reading; the client is told why."""
        self._ended = True
        self._cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        self._streams.add(self)
        try:
            with Connected(receive):
                await self._send_all(scope, send)
        except ClientGone:
            _log.debug("stream_left", path=scope["path"])
        except TimeoutError:
            _log.warning("stream_stalled", path=scope["path"])
        finally:
            self._cancel()
            self._streams.remove(self)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        if BODILESS not in scope:
            with _Pulse(send, self._beat, self._settings) as pulse:
                async for chunk in self._until_failure(scope["path"]):
                    await pulse.send(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_failure(self, path: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._events:
                yield chunk
            if self.endless:
                yield event("problem", Problem("SHUTTING_DOWN").document(path))
        except grpc.aio.AioRpcError as error:
            yield event("problem", of_call(error).document(path))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._ended or (task and task.cancelling()):
                raise
            yield event("problem", Problem("SHUTTING_DOWN").document(path))


class _Pulse:
    """Sends chunks, and what `beat` says after each `heartbeat` of silence.

    Costs a timer, and a task only when there was silence. While a chunk waits for its client
    nothing is said: `beat` is asked when all chunks before it were sent. Raises TimeoutError, from
    the block too, when the client has not read for as long as `stalled`.
    """

    def __init__(self, send: Send, beat: Callable[[], bytes], settings: Settings) -> None:
        self._send = send
        self._says = beat
        self._sending = False
        self._every = settings.heartbeat.total_seconds()
        self._stalled = settings.stalled.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._beat: asyncio.Task[None] | None = None
        self._gave_up = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = self._loop.call_later(self._every, self._tick)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()
        if self._gave_up and self._task.uncancel() <= self._cancelling:
            raise TimeoutError from error

    async def send(self, chunk: bytes) -> None:
        """Send a part of the body."""
        self._sending = True
        async with asyncio.timeout(self._stalled):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._sending = False
        self._last = self._loop.time()

    def _tick(self) -> None:
        silence = self._loop.time() - self._last
        if silence >= self._every:
            if not self._sending:
                self._beat = self._loop.create_task(self._say())
            silence = 0.0
        self._timer = self._loop.call_later(max(self._every - silence, 0.001), self._tick)

    async def _say(self) -> None:
        if self._sending:
            return  # something has come just now
        try:
            await self.send(self._says())
        except TimeoutError:
            self._gave_up = True
            self._task.cancel()
