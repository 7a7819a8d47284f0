"""A user of the services whose every request and answer is in the history.

What a request is answered with decides what is known: an answer, a refusal that had no effect, or
nothing. A way of asking says what is done about nothing.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from bench.checker import Recorder, booking_told, quote_told
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing import StaticMesh
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY

T = TypeVar("T", bound=Message)

ATTEMPT: Final = 5.0  # seconds for one request
PATIENCE: Final = 40.0  # seconds for one that is repeated until it is answered
PAUSE: Final = 0.02
NO_EFFECT: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
EMAIL: Final = "ann@example.org"


class UnansweredError(Exception):
    """Nobody knows what became of a request."""


class RefusedError(Exception):
    """A request had no effect; the message is the service's."""


class Way(StrEnum):
    """How a user asks."""

    PLAIN = "plain"
    """Once."""
    RETRY = "retry"
    """With the same key, until there is an answer."""
    DUPLICATE = "duplicate"
    """Twice at the same time with the same key, each until there is an answer."""


class Asking(Generic[T]):
    """One request in some way, as the process `name` of the history; `said` is what it says."""

    def __init__(
        self,
        recorder: Recorder | None,
        op: str,
        call: Callable[[], Awaitable[T]],
        tell: Callable[[T], Mapping[str, Any]],
        said: Mapping[str, Any],
    ) -> None:
        self._recorder = recorder
        self._op = op
        self._call = call
        self._tell = tell
        self._said = said

    async def answer(self, name: str, way: Way) -> T:
        """The answer; UnansweredError or RefusedError."""
        match way:
            case Way.PLAIN:
                return await self._once(name)
            case Way.RETRY:
                return await self._insist(name)
            case Way.DUPLICATE:
                one, _ = await asyncio.gather(self._insist(f"{name}a"), self._insist(f"{name}b"))
                return one

    async def _insist(self, name: str) -> T:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self._once(name)
                except UnansweredError:
                    await asyncio.sleep(PAUSE)

    async def _once(self, name: str) -> T:
        self._note("invoke", name, self._said)
        try:
            answer = await self._call()
        except grpc.aio.AioRpcError as error:
            if error.code() in NO_EFFECT:
                self._note("fail", name, {})
                raise RefusedError(error.details()) from error
            self._note("info", name, {})
            raise UnansweredError(error.details()) from error
        self._note("ok", name, self._tell(answer))
        return answer

    def _note(self, phase: str, name: str, what: Mapping[str, Any]) -> None:
        if self._recorder is not None:
            getattr(self._recorder, phase)(name, self._op, **what)


class Customer:
    """One user; `name` begins the names of its keys and of its processes in the history.

    State: how often it has asked.
    """

    def __init__(
        self,
        caller: StaticMesh,
        issuer: LocalIssuer,
        recorder: Recorder,
        *,
        name: str,
        user: str,
        way: Way,
    ) -> None:
        self._name = name
        self._user = user
        self._booking = BookingServiceStub(caller.channel("booking"))
        self._pricing = PricingServiceStub(caller.channel("pricing"))
        self._token = [("authorization", f"Bearer {issuer.token(user, ['customer'])}")]
        self._recorder = recorder
        self._way = way
        self._asked = itertools.count(1)

    async def quote(self, flights: Sequence[str], passengers: int = 2) -> pricing_pb2.Quote:
        """A quote for a party on some flights."""
        request = pricing_pb2.CreateQuoteRequest(
            request_id=f"{self._name}.{next(self._asked)}-of-a-party",
            segments=[
                pricing_pb2.QuoteSegment(flight_id=flight, cabin=CABIN_ECONOMY)
                for flight in flights
            ],
            passengers=passengers,
        )
        answer = await self._ask(
            "quote",
            lambda: self._pricing.CreateQuote(request, timeout=ATTEMPT, wait_for_ready=True),
            lambda answer: {"quote": quote_told(answer.quote)},
        )
        return answer.quote

    async def book(self, quote: pricing_pb2.Quote) -> booking_pb2.Booking:
        """Book a quote: the booking as it was answered, maybe still pending."""
        key = f"{self._name}.{next(self._asked)}"
        party = [(name, "Lee") for name in "ABCDEFGHI"[: quote.passengers]]
        request = booking_pb2.CreateBookingRequest(
            request_id=key,
            quote_id=quote.quote_id,
            passengers=[
                booking_pb2.Passenger(given_name=given, family_name=family)
                for given, family in party
            ],
            contact=booking_pb2.Contact(email=EMAIL),
        )
        answer = await self._ask(
            "book",
            lambda: self._booking.CreateBooking(request, **self._options()),
            _told,
            key=key,
            quote_id=quote.quote_id,
            passengers=party,
            email=EMAIL,
        )
        return answer.booking

    async def cancel(self, booking: booking_pb2.Booking) -> booking_pb2.Booking:
        """Give a booking back."""
        request = booking_pb2.CancelBookingRequest(
            request_id=f"{self._name}.{next(self._asked)}", booking_id=booking.booking_id
        )
        answer = await self._ask(
            "cancel",
            lambda: self._booking.CancelBooking(request, **self._options()),
            _told,
            booking_id=booking.booking_id,
        )
        return answer.booking

    async def settled(self) -> list[booking_pb2.Booking]:
        """All bookings of the user, once none of them is pending; waits for that."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    bookings = await self._all()
                    for booking in bookings:
                        await self._watch(booking)
                    return await self._all()
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(PAUSE)

    async def _all(self) -> list[booking_pb2.Booking]:
        request = booking_pb2.ListBookingsRequest(page_size=100)
        answer = await self._booking.ListBookings(request, **self._options())
        return list(answer.bookings)

    async def _watch(self, booking: booking_pb2.Booking) -> None:
        """Get it, for the history, and wait until it is settled."""
        request = booking_pb2.GetBookingRequest(booking_id=booking.booking_id)
        asking = Asking(
            self._recorder,
            "get",
            lambda: self._booking.GetBooking(request, **self._options()),
            _told,
            {"user": self._user, "booking_id": booking.booking_id},
        )
        await asking.answer(self._process(), Way.RETRY)
        watch = booking_pb2.WatchBookingRequest(booking_id=booking.booking_id)
        call = self._booking.WatchBooking(watch, metadata=self._token, timeout=PATIENCE)
        try:
            async for _ in call:
                pass
        finally:
            call.cancel()

    async def _ask(
        self,
        op: str,
        call: Callable[[], Awaitable[T]],
        tell: Callable[[T], Mapping[str, Any]],
        **said: Any,
    ) -> T:
        asking = Asking(self._recorder, op, call, tell, {"user": self._user, **said})
        return await asking.answer(self._process(), self._way)

    def _process(self) -> str:
        return f"{self._name}/{next(self._asked)}"

    def _options(self) -> dict[str, Any]:
        return {"metadata": self._token, "timeout": ATTEMPT, "wait_for_ready": True}


def _told(
    answer: booking_pb2.CreateBookingResponse
    | booking_pb2.CancelBookingResponse
    | booking_pb2.GetBookingResponse,
) -> dict[str, Any]:
    return {"booking": booking_told(answer.booking)}
