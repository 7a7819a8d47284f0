"""Customers and an operator: what they do by chance, and the history of what they were told."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money

from bench.checker import Recorder, booking_told, quote_told
from consulmesh.channel import MeshChannel
from consulmesh.errors import Status
from flights.booking.v1 import booking_pb2
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from flights.pricing.v1 import pricing_pb2
from flights.pricing.v1.pricing_pb2_grpc import PricingServiceStub
from flights.schedule.v1 import schedule_pb2
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from flights.type.v1.cabin_pb2 import CABIN_BUSINESS, CABIN_ECONOMY
from tests.simulation.channel import SimulatedChannel
from tests.simulation.network import Network

_THINKING: Final = 0.6  # seconds between what one customer does
_SHORTEST, _LONGEST = 0.2, 6.0  # seconds that an attempt may take
_ATTEMPTS: Final = 4
_DEFINITE: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a customer wants to book, under one key."""

    key: str
    quote_id: str
    passengers: int
    email: str

    def request(self) -> booking_pb2.CreateBookingRequest:
        """The request that is sent, again and again if need be."""
        return booking_pb2.CreateBookingRequest(
            request_id=self.key,
            quote_id=self.quote_id,
            passengers=[
                booking_pb2.Passenger(given_name=name, family_name=family)
                for name, family in self.names
            ],
            contact=booking_pb2.Contact(email=self.email),
        )

    @property
    def names(self) -> list[list[str]]:
        """Given and family names."""
        return [[given, "Lee"] for given in ("Ann", "Bo", "Cy", "Di", "Ed")[: self.passengers]]


@dataclass(slots=True, kw_only=True)
class Flights:
    """The flights on sale: tuples of ids that follow each other on a journey."""

    journeys: list[tuple[str, ...]]
    routes: list[tuple[str, str]]

    @property
    def ids(self) -> list[str]:
        """Every flight."""
        return sorted({flight for journey in self.journeys for flight in journey})


@dataclass(slots=True, kw_only=True)
class Doings:
    """How much there is to do, shared by all; `left` is counted down."""

    left: int
    done: dict[str, int] = field(default_factory=dict)

    def take(self, what: str) -> bool:
        """Whether there is one more to do; counts it."""
        if not self.left:
            return False
        self.left -= 1
        self.done[what] = self.done.get(what, 0) + 1
        return True


class Customer:
    """A user who does one thing after another, each by chance.

    State: what they have ordered, the bookings they know, and how many requests they made.
    """

    def __init__(
        self, name: str, network: Network, recorder: Recorder, flights: Flights, seed: str
    ) -> None:
        self.name = name
        self._network = network
        self._recorder = recorder
        self._flights = flights
        self._chance = Random(f"{seed}/{name}")
        self._pricing = PricingServiceStub(_channel(network, "pricing"))
        self._booking = BookingServiceStub(_channel(network, "booking"))
        self._token = [("authorization", f"Bearer {name}")]
        self._orders: list[Order] = []
        self._bookings: list[str] = []
        self._requests = 0

    async def live(self, doings: Doings) -> None:
        """Do things until there is nothing left to do."""
        choices: Mapping[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "book": (10, self.book),
            "book again": (2, self.book_again),
            "book at once twice": (2, self.book_twice),
            "book otherwise": (1, self.book_otherwise),
            "book what is taken": (1, self.book_taken),
            "get": (3, self.get),
            "cancel": (3, self.cancel),
        }
        names, weights = list(choices), [weight for weight, _ in choices.values()]
        while doings.take(what := self._chance.choices(names, weights)[0]):
            await choices[what][1]()
            await asyncio.sleep(self._chance.expovariate(1 / _THINKING))

    async def book(self) -> None:
        """Ask for a price, and book at it until the answer is definite."""
        passengers = self._chance.choice((1, 1, 1, 2, 2, 3))
        quote = await self._quote(passengers)
        if quote is None:
            return
        if self._chance.random() < 0.1:
            await asyncio.sleep(self._chance.uniform(1, 20))
        order = self._order(quote.quote_id, passengers)
        await self._insist(order)

    async def book_again(self) -> None:
        """Repeat an order: the booking there is must be the answer."""
        if self._orders:
            await self._insist(self._chance.choice(self._orders))

    async def book_twice(self) -> None:
        """Send the same order over two connections at once."""
        quote = await self._quote(1)
        if quote is not None:
            order = self._order(quote.quote_id, 1)
            await asyncio.gather(self._insist(order, "a"), self._insist(order, "b"))

    async def book_otherwise(self) -> None:
        """Use a key again, for something else."""
        if self._orders:
            order = replace(self._chance.choice(self._orders), email="other@example.org")
            await self._book(order, self.name)

    async def book_taken(self) -> None:
        """Use a quote again, under another key: at most one booking has it."""
        if self._orders:
            before = self._chance.choice(self._orders)
            await self._insist(self._order(before.quote_id, before.passengers))

    async def get(self) -> None:
        """Look at a booking."""
        if not self._bookings:
            return
        booking_id = self._chance.choice(self._bookings)
        said = {"user": self.name, "booking_id": booking_id}
        request = booking_pb2.GetBookingRequest(booking_id=booking_id)
        await self._asked(self.name, "get", self._booking.GetBooking, request, said)

    async def cancel(self) -> None:
        """Give a booking back, until the answer is definite."""
        if not self._bookings:
            return
        booking_id = self._chance.choice(self._bookings)
        said = {"user": self.name, "booking_id": booking_id}
        request = booking_pb2.CancelBookingRequest(
            request_id=self._key("cancel"), booking_id=booking_id
        )
        for _ in range(_ATTEMPTS):
            if await self._asked(self.name, "cancel", self._booking.CancelBooking, request, said):
                return

    async def _insist(self, order: Order, hand: str = "") -> None:
        for _ in range(_ATTEMPTS):
            if await self._book(order, self.name + hand):
                return
            await asyncio.sleep(self._chance.uniform(0.05, 1.0))

    async def _book(self, order: Order, process: str) -> bool:
        said = {
            "user": self.name,
            "key": order.key,
            "quote_id": order.quote_id,
            "passengers": order.names,
            "email": order.email,
        }
        return await self._asked(
            process, "book", self._booking.CreateBooking, order.request(), said
        )

    async def _asked(
        self, process: str, op: str, method: Any, request: Any, said: Mapping[str, Any]
    ) -> bool:
        """Ask once; whether the answer was definite."""
        self._recorder.invoke(process, op, **said)
        try:
            response = await method(request, metadata=self._token, timeout=self._timeout())
        except grpc.aio.AioRpcError as error:
            return self._refused(process, op, error)
        told = booking_told(response.booking)
        self._recorder.ok(process, op, booking=told)
        self._network.trace.note(
            f"{process} {op} → {told['status']} {told['booking_id']} v{told['version']}"
        )
        if told["booking_id"] not in self._bookings:
            self._bookings.append(told["booking_id"])
        return bool(told["status"] != "pending")

    def _refused(self, process: str, op: str, error: grpc.aio.AioRpcError) -> bool:
        status = Status.of(error)
        definite = status.code in _DEFINITE
        told = {"code": status.code.name, "reason": status.reason}
        (self._recorder.fail if definite else self._recorder.info)(process, op, **told)
        self._network.trace.note(f"{process} {op} → {status.code.name} {status.reason}")
        return definite

    async def _quote(self, passengers: int) -> pricing_pb2.Quote | None:
        journey = self._chance.choice(self._flights.journeys)
        cabin = CABIN_BUSINESS if self._chance.random() < 0.1 else CABIN_ECONOMY
        request = pricing_pb2.CreateQuoteRequest(
            request_id=self._key("quote"),
            passengers=passengers,
            segments=[
                pricing_pb2.QuoteSegment(flight_id=flight, cabin=cabin) for flight in journey
            ],
        )
        self._recorder.invoke(self.name, "quote", user=self.name)
        try:
            response = await self._pricing.CreateQuote(request, timeout=self._timeout())
        except grpc.aio.AioRpcError as error:
            self._refused(self.name, "quote", error)
            return None
        self._recorder.ok(self.name, "quote", quote=quote_told(response.quote))
        return response.quote

    def _order(self, quote_id: str, passengers: int) -> Order:
        order = Order(
            key=self._key("book"),
            quote_id=quote_id,
            passengers=passengers,
            email=f"{self.name}@example.org",
        )
        self._orders.append(order)
        return order

    def _key(self, of: str) -> str:
        self._requests += 1
        return f"{self.name}-{of}-{self._requests}-of-a-customer"

    def _timeout(self) -> float:
        return self._chance.uniform(_SHORTEST, _LONGEST)


class Operator:
    """Moves and cancels flights, and sets fares."""

    def __init__(self, network: Network, flights: Flights, seed: str) -> None:
        self._network = network
        self._flights = flights
        self._chance = Random(f"{seed}/operator")
        self._schedule = ScheduleServiceStub(_channel(network, "schedule"))
        self._pricing = PricingServiceStub(_channel(network, "pricing"))
        self._requests = 0

    async def live(self, doings: Doings) -> None:
        """Do things until there is nothing left to do."""
        choices = {
            "cancel a flight": (1, self.cancel),
            "delay a flight": (2, self.delay),
            "set a fare": (2, self.set_fare),
        }
        names, weights = list(choices), [weight for weight, _ in choices.values()]
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 5.0))
            if not doings.take(what := self._chance.choices(names, weights)[0]):
                return
            await choices[what][1]()

    async def cancel(self) -> None:
        """Cancel a flight."""
        flight_id = self._chance.choice(self._flights.ids)
        request = schedule_pb2.CancelFlightRequest(
            request_id=self._key(), flight_id=flight_id, reason="crew"
        )
        await self._asked(self._schedule.CancelFlight, request, f"cancel {flight_id}")

    async def delay(self) -> None:
        """Delay a flight."""
        flight_id = self._chance.choice(self._flights.ids)
        request = schedule_pb2.UpdateFlightRequest(
            request_id=self._key(),
            flight_id=flight_id,
            delay=Duration(seconds=60 * self._chance.randint(0, 90)),
            reason="weather",
        )
        await self._asked(self._schedule.UpdateFlight, request, f"delay {flight_id}")

    async def set_fare(self) -> None:
        """Set the fare of a route."""
        origin, destination = self._chance.choice(self._flights.routes)
        request = pricing_pb2.UpdateFareRequest(
            request_id=self._key(),
            origin=origin,
            destination=destination,
            base=Money(currency_code="USD", units=self._chance.randint(50, 900)),
        )
        await self._asked(self._pricing.UpdateFare, request, f"set fare {origin}-{destination}")

    async def _asked(self, method: Any, request: Any, what: str) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await method(request, timeout=self._chance.uniform(_SHORTEST, _LONGEST))
            except grpc.aio.AioRpcError as error:
                self._network.trace.note(f"operator {what} → {error.code().name}")
                if error.code() in _DEFINITE:
                    return
            else:
                self._network.trace.note(f"operator {what} → done")
                return

    def _key(self) -> str:
        self._requests += 1
        return f"operator-{self._requests}"


def _channel(network: Network, service: str) -> MeshChannel:
    return MeshChannel(SimulatedChannel(network, service), upstream=service, caller="client")
