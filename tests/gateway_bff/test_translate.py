from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import get_args

import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from consulmesh import wellknown
from flights.booking.v1.booking_pb2 import (
    BOOKING_STATUS_CONFIRMED,
    BOOKING_STATUS_UNSPECIFIED,
    Booking,
    BookingStatus,
)
from flights.search.v1.search_pb2 import (
    PRICE_BASIS_INDICATIVE,
    Itinerary,
    SearchItinerariesResponse,
)
from flights.type.v1.cabin_pb2 import CABIN_BUSINESS, CABIN_ECONOMY
from gateway_bff import freshness, schemas, translate
from gateway_bff.ids import itinerary_id, itinerary_key
from gateway_bff.live import positions
from gateway_bff.values import decimal, local_time, total, utc_time
from streams.v1.stream_pb2 import Cursor
from tests.gateway_bff import examples

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(
    min_value=datetime(1900, 1, 1),  # noqa: DTZ001 - hypothesis wants it naive
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001 - as above
    timezones=st.just(UTC),
)
FLIGHTS = st.lists(st.from_regex(r"flt_[a-z2-7]{16}", fullmatch=True), min_size=1, max_size=12)


def timestamp(moment: datetime) -> Timestamp:
    """The moment as it travels, exactly."""
    since = moment - EPOCH
    return Timestamp(
        seconds=since // timedelta(seconds=1),
        nanos=(since % timedelta(seconds=1)).microseconds * 1000,
    )


@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_local_times_are_those_of_datetime(moment: datetime, offset: int) -> None:
    """Integer arithmetic and the standard library write the same local time."""
    zone = timezone(timedelta(minutes=offset))

    written = local_time(timestamp(moment), offset)

    assert written == moment.astimezone(zone).isoformat(timespec="seconds")


@given(MOMENTS)
def test_utc_times_are_exact(moment: datetime) -> None:
    """A UTC time ends in Z, has no superfluous digits, and reads back as the same instant."""
    written = utc_time(timestamp(moment))

    assert written.endswith("Z")
    assert datetime.fromisoformat(written) == moment
    assert len(written) in {20, 24, 27}


def test_nanoseconds_are_kept() -> None:
    """What datetime can't hold is written all the same."""
    written = utc_time(Timestamp(seconds=0, nanos=1))

    assert written == "1970-01-01T00:00:00.000000001Z"


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=9))
def test_money_is_exact(amount: Decimal) -> None:
    """An amount reads back as itself and has at least two places."""
    nanos = int(amount.scaleb(9))
    units, rest = divmod(abs(nanos), 10**9)
    sign = -1 if nanos < 0 else 1

    written = decimal(sign * units, sign * rest)

    assert Decimal(written) == amount
    assert len(written.partition(".")[2]) >= 2
    assert "e" not in written.lower()


@pytest.mark.parametrize(
    ("units", "nanos", "written"),
    [
        (418, 200_000_000, "418.20"),
        (0, 0, "0.00"),
        (0, -50_000_000, "-0.05"),
        (-1, -500_000_000, "-1.50"),
        (7, 1, "7.000000001"),
    ],
)
def test_money_is_written_for_people(units: int, nanos: int, written: str) -> None:
    """Two places where they are enough, more only where they say something."""
    assert decimal(units, nanos) == written


AMOUNTS = st.decimals(min_value=0, max_value=10**9, places=9)


@given(AMOUNTS, AMOUNTS)
def test_totals_are_exact(one: Decimal, other: Decimal) -> None:
    """What two amounts are together is their sum to the last digit."""
    both = total(wellknown.money(one, "USD"), wellknown.money(other, "USD"))

    assert (wellknown.amount(both), both.currency_code) == (one + other, "USD")


@given(FLIGHTS, st.sampled_from([CABIN_ECONOMY, CABIN_BUSINESS]))
def test_itinerary_ids_read_back(flights: list[str], cabin: int) -> None:
    """The id of an itinerary says its flights in order and its cabin, and is safe in a URL."""
    written = itinerary_id(flights, cabin)  # type: ignore[arg-type]  # hypothesis widens the enum

    key = itinerary_key(written)

    assert key is not None
    assert (list(key.flight_ids), key.cabin) == (flights, cabin)
    assert written.replace("_", "").replace("-", "").isalnum()


@given(st.text())
def test_no_text_breaks_the_reading_of_ids(text: str) -> None:
    """Whatever comes as an itinerary's id is one that we wrote, or none."""
    key = itinerary_key(f"itn_{text}")

    assert key is None or itinerary_id(key.flight_ids, key.cabin) == f"itn_{text}"


@given(st.text(min_size=1), st.integers(0, 2**62))
def test_ids_of_live_events_read_back(epoch: str, seq: int) -> None:
    """An id says its position, and is safe in a header."""
    written = positions.encode(Cursor(epoch=epoch[:40], seq=seq)).decode()

    assert positions.decode(written) == Cursor(epoch=epoch[:40], seq=seq)
    assert written.replace("_", "").replace("-", "").isalnum()


@given(st.text())
def test_no_text_breaks_the_reading_of_live_ids(text: str) -> None:
    """What comes as an id is one that we wrote, or refused with ValueError."""
    try:
        written = positions.encode(positions.decode(text)).decode()
    except ValueError:
        written = text

    assert written == text


@given(st.text())
def test_no_text_breaks_the_reading_of_positions(text: str) -> None:
    """A position from outside is read, or refused with ValueError, never anything else."""
    try:
        read = list(freshness.decode(text))
    except ValueError:
        read = []

    assert len(read) <= freshness.MAX_SOURCES


def test_a_source_without_lag_is_listed_without() -> None:
    """A source that was never caught up with has no figure, rather than a wrong one."""
    positions = examples.positions()
    positions[0].ClearField("lag")

    headers = freshness.headers(positions)

    assert headers["Freshness"] == "schedule, pricing;lag=0.031"


def test_equal_results_are_equal_bytes() -> None:
    """Two messages with the same content are rendered to the same bytes, cached or not."""
    page = SearchItinerariesResponse(
        itineraries=[examples.itinerary(), examples.itinerary("flt_x")]
    )
    same = SearchItinerariesResponse.FromString(page.SerializeToString())

    first = translate.itineraries(page, CABIN_ECONOMY)
    translate.itineraries(page, CABIN_BUSINESS)
    second = translate.itineraries(same, CABIN_ECONOMY)

    assert first == second


def test_a_change_of_a_segment_is_seen() -> None:
    """What is remembered of a segment is never shown for another state of it."""
    itinerary = examples.itinerary()
    before = orjson.loads(translate.itinerary(itinerary, CABIN_ECONOMY))
    itinerary.segments[0].seats_available = 3
    itinerary.segments[0].delayed = True
    itinerary.price_basis = PRICE_BASIS_INDICATIVE

    after = orjson.loads(translate.itinerary(itinerary, CABIN_BUSINESS))

    assert before["segments"][0]["seats_available"] == 112
    assert after["segments"][0]["seats_available"] == 3
    assert after["segments"][0]["status"] == "delayed"
    assert after["segments"][0]["cabin"] == "business"
    assert after["price"]["basis"] == "indicative"


def test_stops_are_counted() -> None:
    """Two flights are one stop."""
    shown = orjson.loads(translate.itinerary(examples.itinerary("flt_a", "flt_b"), CABIN_ECONOMY))

    assert shown["stops"] == 1
    assert [segment["flight_id"] for segment in shown["segments"]] == ["flt_a", "flt_b"]


def test_a_quote_over_two_cabins_has_no_itinerary() -> None:
    """A journey in two cabins is not one itinerary; each line says its cabin."""
    made = examples.quote(examples.FLIGHT, examples.OTHER_FLIGHT)
    made.lines[1].cabin = CABIN_BUSINESS

    shown = translate.quote(made)

    assert "itinerary_id" not in shown
    assert "cabin" not in shown
    assert [line["cabin"] for line in shown["lines"]] == ["economy", "business"]


def test_words_of_a_newer_service_are_unknown() -> None:
    """An enum value that this gateway has no word for does not break an answer."""
    flight = examples.flight()
    flight.status = 99  # type: ignore[assignment]  # of a newer contract
    booking = examples.booking(BOOKING_STATUS_CONFIRMED)
    booking.status = 99  # type: ignore[assignment]  # as above

    assert translate.flight(flight)["status"] == "unknown"
    assert translate.booking(booking)["status"] == "unknown"
    assert translate.itinerary(Itinerary(), CABIN_ECONOMY)


def test_every_status_of_a_booking_is_in_the_schema() -> None:
    """What booking can say of a booking is what the public API promises, AFFECTED too."""
    said = {
        translate.booking(Booking(status=status))["status"]
        for status in BookingStatus.values()
        if status != BOOKING_STATUS_UNSPECIFIED
    }

    assert said == set(get_args(schemas.BookingStatus.__value__))
    assert "affected" in said
