"""Server-sent events (WHATWG HTML §9.2) out of a gRPC stream."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Self

import grpc
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway_bff.connection import ClientGone, Connected
from gateway_bff.failures import of_call
from gateway_bff.problems import Problem
from gateway_bff.settings import Settings

_HEARTBEAT = b":\n\n"
_log = structlog.get_logger()


def event(name: str, data: bytes) -> bytes:
    """One event; the data is JSON, which has no line ends."""
    return b"event: %b\ndata: %b\n\n" % (name.encode("ascii"), data)


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
        """Waits a while for the streams to come to their ends, then ends them."""
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self._none.wait()
        except TimeoutError:
            for stream in self._streams:
                stream.end()


class EventStream(Response):
    """A response that sends `events` as they come, and a comment where nothing comes for long.

    A call that fails after the first event is `event: problem`, and so is the end that `end` puts
    to it. The call is cancelled when the response is over, however that came about.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        call: grpc.aio.Call,
        *,
        streams: OpenStreams,
        settings: Settings,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._call = call
        self._streams = streams
        self._settings = settings
        self._ended = False

    def end(self) -> None:
        """Stops reading; the client is told why."""
        self._ended = True
        self._call.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        self._streams.add(self)
        try:
            with Connected(receive):
                await self._send_all(scope["path"], send)
        except ClientGone:
            _log.debug("stream_left", path=scope["path"])
        except TimeoutError:
            _log.warning("stream_stalled", path=scope["path"])
        finally:
            self._call.cancel()
            self._streams.remove(self)

    async def _send_all(self, path: str, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        with _Pulse(send, self._settings) as pulse:
            async for chunk in self._until_failure(path):
                await pulse.send(chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _until_failure(self, path: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._events:
                yield chunk
        except grpc.aio.AioRpcError as error:
            yield event("problem", of_call(error).document(path))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._ended or (task and task.cancelling()):
                raise
            yield event("problem", Problem("SHUTTING_DOWN").document(path))


class _Pulse:
    """Sends chunks, and a comment after each `heartbeat` of silence.

    Costs a timer, and a task only when there was silence. Raises TimeoutError when the client has
    not read for as long as `stalled`.
    """

    def __init__(self, send: Send, settings: Settings) -> None:
        self._send = send
        self._every = settings.heartbeat.total_seconds()
        self._stalled = settings.stalled.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._beat: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._every, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    async def send(self, chunk: bytes) -> None:
        """Send a part of the body."""
        async with asyncio.timeout(self._stalled):
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._last = self._loop.time()

    def _tick(self) -> None:
        silence = self._loop.time() - self._last
        if silence >= self._every and (self._beat is None or self._beat.done()):
            self._beat = self._loop.create_task(self.send(_HEARTBEAT))
            silence = 0.0
        self._timer = self._loop.call_later(max(self._every - silence, 0.001), self._tick)
