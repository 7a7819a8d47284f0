"""The cache hears what the gateway's streams bring to others."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from google.protobuf.message import Message

from eventstream import Inbox
from gateway_bff.cache.changes import Changes, Concern
from streams.v1.stream_pb2 import Cursor

E = TypeVar("E", bound=Message)


class Overheard(Generic[E]):
    """An `eventstream.Inbox` in front of another: whoever hears of a change finds no older answer.

    `concern` says what an event is about; None where that may be anything.
    """

    def __init__(
        self,
        inbox: Inbox[E],
        source: str,
        concern: Callable[[E], Concern | None],
        changes: Changes,
    ) -> None:
        self._inbox = inbox
        self._source = source
        self._concern = concern
        self._changes = changes

    async def position(self) -> Cursor | None:
        """Where to follow from."""
        return await self._inbox.position()

    async def start_snapshot(self) -> None:
        """The stream can't go on where it was."""
        await self._inbox.start_snapshot()

    async def apply(self, events: Sequence[E], cursor: Cursor | None) -> None:
        """Changes; rows of a snapshot, which have no cursor, are none."""
        if cursor is not None:
            self._changes.passed(self._source, map(self._concern, events), cursor)
        await self._inbox.apply(events, cursor)

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """Something was missed."""
        self._changes.restarted(self._source, cursor)
        await self._inbox.complete_snapshot(cursor)
