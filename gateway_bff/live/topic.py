"""What a hub has to know of that which it tells."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from eventstream import WatchResponse
from streams.v1.stream_pb2 import Cursor

E = TypeVar("E", bound=Message)
E_co = TypeVar("E_co", bound=Message, covariant=True)


class Watching(Protocol[E_co]):
    """A Watch RPC that was called."""

    def __aiter__(self) -> AsyncIterator[WatchResponse[E_co]]:
        """What it answers."""

    def cancel(self) -> bool:
        """Give it up."""


View = int
"""Which part of a flight a client wants to see; 0: all there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What clients of one view are shown of a flight: a server-sent event that has no id yet.

    `version` grows with what that view shows.
    """

    flight_id: str
    version: int
    event: bytes
    removed: bool = False


class Topic(Protocol[E]):
    """One kind of news, and its owner."""

    @property
    def source(self) -> str:
        """The owner's name."""

    def watch(self, cursor: Cursor | None) -> Watching[E]:
        """Follow the owner's changes from a position, without rows."""

    def flight_of(self, event: E) -> str:
        """Whose news it is; empty for a kind that is newer than this program."""

    def shown(self, event: E, view: View) -> Shown:
        """What a change looks like."""

    def gone(self, flight_id: str) -> Shown:
        """What a flight looks like that the owner does not know."""

    async def now(self, flight_ids: Sequence[str], view: View) -> Sequence[Shown]:
        """Flights as they are now, in this order; raises AioRpcError, NOT_FOUND for any of them."""
