"""Messages that look like those of the services."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money

from consulmesh import wellknown
from flights.booking.v1.booking_pb2 import (
    BookedSegment,
    Booking,
    BookingStatus,
    Contact,
    Passenger,
)
from flights.pricing.v1.pricing_pb2 import CreateQuoteResponse, Fare, Quote, QuoteLine
from flights.schedule.v1.schedule_pb2 import FLIGHT_STATUS_SCHEDULED, CabinSeats, Flight
from flights.search.v1.search_pb2 import (
    PRICE_BASIS_LIVE,
    Airport,
    DayFare,
    Itinerary,
    RoundTrip,
    SearchFareCalendarResponse,
    SearchRoundTripsResponse,
    Segment,
    SourcePosition,
)
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from gateway_bff.ids import itinerary_id
from streams.v1.stream_pb2 import Cursor

LEAVES = datetime(2026, 12, 1, 11, 30, tzinfo=UTC)
ARRIVES = datetime(2026, 12, 1, 17, 55, tzinfo=UTC)
FLIGHT = "flt_abcdefgh23456723"
OTHER_FLIGHT = "flt_zyxwvuts76543276"
ITINERARY = itinerary_id([FLIGHT], CABIN_ECONOMY)
RETURN = itinerary_id([OTHER_FLIGHT], CABIN_ECONOMY)
QUOTE = "quo_abcdefghijklmnopqrstuvwxyz"
BOOKING = "bkg_abcdefghijklmnopqrstuvwxyz"


def usd(amount: str) -> Money:
    """An amount in dollars."""
    return wellknown.money(Decimal(amount), "USD")


def instant(moment: datetime) -> Timestamp:
    """A moment as it travels."""
    return wellknown.timestamp(moment)


def segment(flight_id: str = FLIGHT) -> Segment:
    """JFK to LAX in the morning."""
    return Segment(
        flight_id=flight_id,
        carrier="B6",
        number="23",
        aircraft="A320",
        origin="JFK",
        destination="LAX",
        departure_time=instant(LEAVES),
        arrival_time=instant(ARRIVES),
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
        seats_available=112,
    )


def itinerary(*flight_ids: str) -> Itinerary:
    """An itinerary for two."""
    flights = flight_ids or (FLIGHT,)
    return Itinerary(
        itinerary_id=itinerary_id(flights, CABIN_ECONOMY),
        segments=[segment(flight_id) for flight_id in flights],
        duration=Duration(seconds=385 * 60),
        price_per_passenger=usd("209.10"),
        price_total=usd("418.20"),
        price_basis=PRICE_BASIS_LIVE,
    )


def positions() -> list[SourcePosition]:
    """How far search has read."""
    return [
        SourcePosition(
            source=source, cursor=Cursor(epoch="e1", seq=seq), lag=Duration(nanos=lag * 1_000_000)
        )
        for source, seq, lag in (("schedule", 17, 12), ("pricing", 4711, 31))
    ]


def flight(flight_id: str = FLIGHT) -> Flight:
    """The same flight as schedule knows it."""
    return Flight(
        flight_id=flight_id,
        version=3,
        carrier="B6",
        number="23",
        origin="JFK",
        destination="LAX",
        departure_time=instant(LEAVES),
        arrival_time=instant(ARRIVES),
        scheduled_departure_time=instant(LEAVES),
        scheduled_arrival_time=instant(ARRIVES),
        aircraft="A320",
        distance_km=3983,
        status=FLIGHT_STATUS_SCHEDULED,
        cabins=[CabinSeats(cabin=CABIN_ECONOMY, capacity=150, available=112)],
        etag="v3",
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
    )


def airport() -> Airport:
    """Kennedy."""
    return Airport(
        code="JFK",
        name="John F Kennedy International Airport",
        city="New York",
        country="US",
        time_zone="America/New_York",
        served=True,
    )


def quote(*flight_ids: str) -> Quote:
    """A quote for two."""
    lines = [
        QuoteLine(flight_id=flight_id, cabin=CABIN_ECONOMY, fare=usd("180.00"), taxes=usd("29.10"))
        for flight_id in flight_ids or (FLIGHT,)
    ]
    return Quote(
        quote_id=QUOTE,
        passengers=2,
        lines=lines,
        total=usd("418.20"),
        create_time=instant(datetime(2026, 11, 24, 12, tzinfo=UTC)),
        expire_time=instant(datetime(2026, 11, 24, 12, 10, tzinfo=UTC)),
    )


def booking(status: BookingStatus.ValueType, *flight_ids: str) -> Booking:
    """A booking for two."""
    segments = [
        BookedSegment(
            flight_id=flight_id, cabin=CABIN_ECONOMY, fare=usd("180.00"), taxes=usd("29.10")
        )
        for flight_id in flight_ids or (FLIGHT,)
    ]
    return Booking(
        booking_id=BOOKING,
        reference="K7Q2XM",
        status=status,
        quote_id=QUOTE,
        segments=segments,
        passengers=[
            Passenger(given_name="Ann", family_name="Lee"),
            Passenger(given_name="Bo", family_name="Lee"),
        ],
        contact=Contact(email="ann@example.org"),
        total=usd("418.20"),
        create_time=instant(datetime(2026, 11, 24, 12, 1, tzinfo=UTC)),
        update_time=instant(datetime(2026, 11, 24, 12, 1, 0, 250_000, tzinfo=UTC)),
        version=2,
    )


def quote_created() -> CreateQuoteResponse:
    """The answer to whoever asked for the quote."""
    return CreateQuoteResponse(quote=quote())


def round_trips() -> SearchRoundTripsResponse:
    """One way there and back."""
    return SearchRoundTripsResponse(
        round_trips=[
            RoundTrip(
                outbound=itinerary(),
                inbound=itinerary(OTHER_FLIGHT),
                price_per_passenger=usd("418.20"),
                price_total=usd("836.40"),
            )
        ],
        next_page_token="more",
        positions=positions(),
    )


def calendar(*days: int, unreachable: Sequence[int] = (3,)) -> SearchFareCalendarResponse:
    """Prices of these days of December; by default of the second, and the third is unreachable."""
    return SearchFareCalendarResponse(
        days=[
            DayFare(date=december(day), lowest_price=usd(f"{100 + day}")) for day in days or (2,)
        ],
        unreachable=map(december, unreachable),
        price_basis=PRICE_BASIS_LIVE,
        positions=positions(),
    )


def december(day: int) -> Date:
    """A day of the month in which everything happens."""
    return Date(year=2026, month=12, day=day)


def fare() -> Fare:
    """The base fare from JFK to LAX."""
    return Fare(origin="JFK", destination="LAX", base=usd("140"), etag="f7")
