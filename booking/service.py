"""Use cases of bookings, and the ports they need."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from booking.domain import (
    Booking,
    BookingNotFound,
    BookingRequest,
    PassengerCountMismatch,
    Quote,
    ReferenceTaken,
    RequestKey,
    UnfinishedSaga,
    User,
    new_booking_id,
    new_reference,
)

_LONGEST_WAIT = 30.0  # seconds, for callers that name no deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a page begins: after the booking of this id, in the order of a time."""

    time: datetime
    booking_id: str


class Bookings(Protocol):
    """Stored bookings, read."""

    async def find(self, user: User, booking_id: str) -> Booking | None:
        """One booking of the user."""
        ...

    async def requested(self, key: RequestKey) -> Booking | None:
        """The booking that this key made; `RequestIdReused` if it was used for other content."""
        ...

    async def page(self, user: User, after: Position | None, limit: int) -> Sequence[Booking]:
        """The user's bookings, newest first."""
        ...

    async def unfinished(self, after: Position | None, limit: int) -> Sequence[UnfinishedSaga]:
        """Sagas that have not ended, of all users, the oldest first."""
        ...


class Quotes(Protocol):
    """Pricing, as the handler needs it."""

    async def quote(self, quote_id: str) -> Quote:
        """One quote; `QuoteNotFound`."""
        ...


class Sagas(Protocol):
    """The process's own work on bookings; it goes on when the caller is gone."""

    def admit(self) -> None:
        """Return where one more may begin; raises where there is no time for it."""
        ...

    async def begin(self, booking: Booking, key: RequestKey) -> Booking:
        """Store a new booking and start its saga, or return what the key has made already."""
        ...

    async def cancel(self, user: User, booking_id: str, key: RequestKey) -> Booking | None:
        """Cancel the user's booking and start giving its seats back."""
        ...


class News(Protocol):
    """News of one booking."""

    async def next(self) -> Booking | None:
        """Wait for a new state; None where it must be read. It may be one that is known."""
        ...


class Changes(Protocol):
    """News of bookings, whichever process changed them."""

    def of(self, booking_id: str) -> AbstractContextManager[News]:
        """News of a booking from now on."""
        ...


class BookingService:
    """Bookings of users. Methods raise the errors of the domain."""

    def __init__(
        self,
        bookings: Bookings,
        quotes: Quotes,
        sagas: Sagas,
        changes: Changes,
        clock: Callable[[], datetime],
    ) -> None:
        self._bookings = bookings
        self._quotes = quotes
        self._sagas = sagas
        self._changes = changes
        self._clock = clock

    async def create(self, user: User, request: BookingRequest, wait: float | None) -> Booking:
        """Book, and answer with the outcome or, after so many seconds, with PENDING.

        What was begun once is waited for under any load.
        """
        until = asyncio.get_running_loop().time() + (_LONGEST_WAIT if wait is None else wait)
        key = RequestKey.of_booking(user, request)
        made = await self._bookings.requested(key)
        if made is None:
            self._sagas.admit()
            await self._check_quote(request)
            return await self._begin(user, request, key, until)
        return await self._joined(made, until)

    async def get(self, user: User, booking_id: str) -> Booking:
        """One booking of the user."""
        booking = await self._bookings.find(user, booking_id)
        if booking is None:
            raise BookingNotFound("no such booking")
        return booking

    async def page(
        self, user: User, after: Position | None, size: int
    ) -> tuple[Sequence[Booking], Position | None]:
        """A page of the user's bookings, newest first, and where the next one begins."""
        found = await self._bookings.page(user, after, size + 1)
        if len(found) <= size:
            return found, None
        last = found[size - 1]
        return found[:size], Position(time=last.create_time, booking_id=last.booking_id)

    async def unfinished(
        self, after: Position | None, size: int
    ) -> tuple[Sequence[UnfinishedSaga], Position | None]:
        """A page of the sagas of all users that have not ended, the oldest first."""
        found = await self._bookings.unfinished(after, size + 1)
        if len(found) <= size:
            return found, None
        last = found[size - 1]
        return found[:size], Position(time=last.start_time, booking_id=last.booking_id)

    async def cancel(self, user: User, booking_id: str, request_id: str) -> Booking:
        """Give a confirmed or affected booking back; a cancelled one stays as it is."""
        key = RequestKey.of_cancellation(user, request_id, booking_id)
        booking = await self._sagas.cancel(user, booking_id, key)
        if booking is None:
            raise BookingNotFound("no such booking")
        return booking

    async def watch(self, user: User, booking_id: str) -> AsyncGenerator[Booking, None]:
        """The booking as it is now, then after each change, until it is settled."""
        with self._changes.of(booking_id) as news:
            booking = await self.get(user, booking_id)
            yield booking
            while not booking.settled:
                booking = await self._next(booking, news)
                yield booking

    async def _check_quote(self, request: BookingRequest) -> None:
        quote = await self._quotes.quote(request.quote_id)
        if quote.passengers != len(request.passengers):
            raise PassengerCountMismatch(f"the quote is for {quote.passengers} passengers")

    async def _begin(
        self, user: User, request: BookingRequest, key: RequestKey, until: float
    ) -> Booking:
        while True:
            booking = self._accepted(user, request)
            with self._changes.of(booking.booking_id) as news:
                try:
                    made = await self._sagas.begin(booking, key)
                except ReferenceTaken:
                    continue
                if made.booking_id == booking.booking_id:
                    return await self._settled(made, news, until)
            return await self._joined(made, until)

    def _accepted(self, user: User, request: BookingRequest) -> Booking:
        now = self._clock()
        return Booking(
            booking_id=new_booking_id(),
            reference=new_reference(),
            user=user,
            quote_id=request.quote_id,
            passengers=request.passengers,
            email=request.email,
            create_time=now,
            update_time=now,
        )

    async def _joined(self, made: Booking, until: float) -> Booking:
        """The outcome of a booking that another call has made."""
        if made.settled:
            return made
        with self._changes.of(made.booking_id) as news:
            booking = await self.get(made.user, made.booking_id)
            return await self._settled(booking, news, until)

    async def _settled(self, booking: Booking, news: News, until: float) -> Booking:
        try:
            async with asyncio.timeout_at(until):
                while not booking.settled:
                    booking = await self._next(booking, news)
        except TimeoutError:
            pass  # still pending: the runner goes on
        return booking

    async def _next(self, seen: Booking, news: News) -> Booking:
        """The next state after one that was seen."""
        while True:
            told = await news.next()
            booking = told or await self.get(seen.user, seen.booking_id)
            if booking.version > seen.version:
                return booking
