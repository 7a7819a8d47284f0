"""What goes out: the shapes of the public API's answers, for OpenAPI.

Answers are not made of these; `translate` writes them, and tests hold the two together.
"""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Cabin = Literal["economy", "premium_economy", "business", "first"]


class Money(BaseModel):
    """An amount; a decimal string, so that nobody rounds it."""

    currency: str
    amount: Annotated[str, Field(examples=["418.20"])]


class Call(BaseModel):
    """One end of a flight: where, and when on the clocks there."""

    airport: str
    time: dt.datetime
    scheduled_time: dt.datetime | None = None


class Segment(BaseModel):
    """A flight of an itinerary."""

    flight_id: str
    carrier: str
    number: str
    aircraft: str
    departure: Call
    arrival: Call
    status: Literal["scheduled", "delayed", "cancelled"]
    cabin: Cabin
    seats_available: int


class Price(BaseModel):
    """What an itinerary or both of a round trip cost; the price that counts is the quote's."""

    total: Money
    per_passenger: Money
    basis: Literal["live", "indicative"]


class Itinerary(BaseModel):
    """A way to travel."""

    itinerary_id: str
    stops: int
    duration_minutes: int
    segments: list[Segment]
    price: Price


class ItineraryPage(BaseModel):
    """Itineraries, and how to get more."""

    itineraries: list[Itinerary]
    next_page_token: str | None = None


class RoundTrip(BaseModel):
    """A way there and a way back; quoted by the ids of both."""

    outbound: Itinerary
    inbound: Itinerary
    price: Price


class RoundTripPage(BaseModel):
    """Ways there and back, and how to get more."""

    round_trips: list[RoundTrip]
    next_page_token: str | None = None


class DayFare(BaseModel):
    """The lowest price of a day."""

    date: dt.date
    per_passenger: Money


class FareCalendar(BaseModel):
    """The days of a month on which something is sold.

    `unreachable` are days of which nothing is known now: a part of search is away.
    """

    month: str
    days: list[DayFare]
    basis: Literal["live", "indicative"]
    unreachable: list[dt.date] | None = None


class Airport(BaseModel):
    """An airport; `served` when flights of the timetable go there."""

    code: str
    name: str
    city: str
    country: str
    time_zone: str
    served: bool


class Airports(BaseModel):
    """Airports, best match first."""

    airports: list[Airport]


class CabinSeats(BaseModel):
    """Seats of one cabin."""

    cabin: Cabin
    capacity: int
    seats_available: int


class Flight(BaseModel):
    """A flight on one day."""

    flight_id: str
    carrier: str
    number: str
    aircraft: str
    departure: Call
    arrival: Call
    status: Literal["scheduled", "delayed", "cancelled"]
    status_reason: str | None = None
    distance_km: int
    inferred: bool
    cabins: list[CabinSeats]
    version: int
    etag: str


class Fare(BaseModel):
    """The base fare of a route, from which the prices of its flights are computed."""

    origin: str
    destination: str
    base: Money
    etag: str


class LivePrice(BaseModel):
    """What one passenger pays in one cabin now; `per_passenger` is both together."""

    cabin: Cabin
    fare: Money
    taxes: Money
    per_passenger: Money


class LivePrices(BaseModel):
    """The prices of a flight as they are now: data of `event: price`."""

    flight_id: str
    prices: list[LivePrice]


class Removed(BaseModel):
    """A flight that has left the timetable: data of `event: removed`."""

    flight_id: str


class Reset(BaseModel):
    """Why a client has to start anew: data of `event: reset`."""

    reason: Literal["malformed", "history", "ahead", "gap", "slow", "source"]


class Stale(BaseModel):
    """How old what is known is, in seconds: data of `event: stale`."""

    lag: float


class QuoteLine(BaseModel):
    """What one passenger pays for one flight."""

    flight_id: str
    cabin: Cabin
    fare: Money
    taxes: Money


class Quote(BaseModel):
    """A price that holds. `itinerary_id` names all its flights; absent with two cabins."""

    quote_id: str
    itinerary_id: str | None = None
    cabin: Cabin | None = None
    passengers: int
    total: Money
    lines: list[QuoteLine]
    expire_time: dt.datetime


class Passenger(BaseModel):
    """Who travels."""

    given_name: str
    family_name: str


class Contact(BaseModel):
    """How to reach the one who booked."""

    email: str


class BookedSegment(BaseModel):
    """A flight of a booking; all but the first four are absent where schedule can't say."""

    flight_id: str
    cabin: Cabin
    fare: Money
    taxes: Money
    carrier: str | None = None
    number: str | None = None
    aircraft: str | None = None
    departure: Call | None = None
    arrival: Call | None = None
    status: Literal["scheduled", "delayed", "cancelled"] | None = None
    status_reason: str | None = None


class Rejection(BaseModel):
    """Why a booking was rejected."""

    code: str
    detail: str


class Booking(BaseModel):
    """A booking; `partial` when what the flights do now is not all there."""

    booking_id: str
    status: Literal["pending", "confirmed", "rejected", "cancelled", "affected"]
    reference: str
    quote_id: str
    segments: list[BookedSegment]
    passengers: list[Passenger]
    contact: Contact
    total: Money | None = None
    rejection: Rejection | None = None
    create_time: dt.datetime
    update_time: dt.datetime
    partial: bool = False


class BookingPage(BaseModel):
    """Bookings, newest first, without what their flights do now; and how to get more."""

    bookings: list[Booking]
    next_page_token: str | None = None


class Instance(BaseModel):
    """A process of a service; `since` is when it began."""

    id: str
    address: Annotated[str, Field(examples=["127.0.0.1:41233"])]
    version: str
    status: Literal["passing", "warning", "critical"]
    since: dt.datetime | None = None


class Service(BaseModel):
    """A service; `policy` has Consul's config entries about it by kind.

    `warnings` are parts of the policy that have no effect.
    """

    name: str
    instances: list[Instance]
    policy: dict[str, dict[str, Any]]
    warnings: list[str]


class Edge(BaseModel):
    """Who may call whom; `*` is anybody."""

    from_: Annotated[str, Field(alias="from")]
    to: str


class Mesh(BaseModel):
    """The services behind the gateway, and who may call whom."""

    services: list[Service]
    edges: list[Edge]


class FieldError(BaseModel):
    """What is wrong with one field, parameter or header."""

    field: str
    code: str
    detail: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, Field(examples=["https://flightmesh.dev/problems/not-found"])]
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Field(examples=["NOT_FOUND"])]
    trace_id: str
    errors: list[FieldError] | None = None
    quote: Quote | None = None
    booking_id: str | None = None
