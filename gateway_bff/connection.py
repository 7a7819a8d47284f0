"""What the gateway notices of a client that goes away: the work done for it stops.

ASGI servers don't cancel a handler whose client closed the connection; they only say so to those
who ask. Asking costs a task, so short requests never do.
"""

import asyncio
from datetime import timedelta
from types import TracebackType
from typing import Self

from starlette.types import Receive

NOW = timedelta(0)


class ClientGone(Exception):  # noqa: N818 - an event of the protocol, not an error
    """The client closed the connection before it had its answer."""


class Connected:
    """Cancels the block when the client closes the connection, and raises ClientGone in its place.

    Cancelling the block cancels the gRPC call that it awaits. Watching starts `after` a while; the
    request body must have been read by then. Other cancellations pass through.
    """

    __slots__ = ("_after", "_cancelling", "_gone", "_receive", "_task", "_timer", "_watch")

    def __init__(self, receive: Receive, *, after: timedelta = NOW) -> None:
        self._receive = receive
        self._after = after.total_seconds()
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("there is no task to cancel")
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = task.get_loop().call_later(self._after, self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if not self._gone:
            return
        nobody_else = self._task.uncancel() <= self._cancelling
        if nobody_else and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise ClientGone from error

    def _start(self) -> None:
        self._watch = self._task.get_loop().create_task(self._until_disconnect())

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
