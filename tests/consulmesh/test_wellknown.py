from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.wellknown import (
    amount,
    calendar_date,
    date_message,
    duration,
    instant,
    money,
    span,
    timestamp,
)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_instant_survives_the_round_trip(moment: datetime) -> None:
    """A datetime of any year comes back as the same instant."""
    assert instant(timestamp(moment)) == moment


def test_an_instant_keeps_its_place_whatever_its_zone() -> None:
    """The message of a local time is that of the same instant in UTC."""
    noon = datetime(2026, 7, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=-4)))

    assert timestamp(noon) == Timestamp(seconds=1782921600, nanos=5000)


def test_an_instant_before_1970_counts_nanoseconds_forward() -> None:
    """Nanoseconds are never negative, as google.protobuf.Timestamp demands."""
    moment = datetime(1969, 12, 31, 23, 59, 59, 750_000, tzinfo=UTC)

    assert timestamp(moment) == Timestamp(seconds=-1, nanos=750_000_000)


def test_a_naive_datetime_is_refused() -> None:
    """An instant without a time zone is no instant."""
    with pytest.raises(ValueError, match="no time zone"):
        timestamp(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


@pytest.mark.parametrize(
    "message",
    [
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(seconds=1 << 62),
        Timestamp(seconds=-(1 << 62)),
        Timestamp(seconds=253402300800),  # the year 10000
    ],
)
def test_a_timestamp_outside_its_range_is_refused(message: Timestamp) -> None:
    """What no datetime can hold is a ValueError, never an OverflowError."""
    with pytest.raises(ValueError, match="is no"):
        instant(message)


@given(st.dates())
def test_every_day_survives_the_round_trip(day: date) -> None:
    """A calendar day of any year comes back."""
    assert calendar_date(date_message(day)) == day


@pytest.mark.parametrize(
    "parts", [(2026, 2, 29), (2026, 13, 1), (0, 1, 1), (2026, 0, 0), (-1, 1, 1)]
)
def test_a_day_that_does_not_exist_is_refused(parts: tuple[int, int, int]) -> None:
    """Partial and impossible dates are ValueErrors."""
    year, month, day = parts

    with pytest.raises(ValueError, match=r".+"):
        calendar_date(Date(year=year, month=month, day=day))


def test_an_instant_is_no_calendar_day() -> None:
    """A datetime is a date to Python, and not to us."""
    with pytest.raises(ValueError, match="not a calendar day"):
        date_message(datetime(2026, 1, 1, tzinfo=UTC))


@given(
    st.decimals(
        min_value=Decimal("-9223372036854775807.999999999"),
        max_value=Decimal("9223372036854775807.999999999"),
        places=9,
    )
)
def test_every_amount_survives_the_round_trip(value: Decimal) -> None:
    """No digit of nine decimal places is lost over the whole range of int64 units."""
    assert amount(money(value, "USD")) == value


@pytest.mark.parametrize(
    ("value", "units", "nanos"),
    [
        ("418.20", 418, 200_000_000),
        ("-0.5", 0, -500_000_000),
        ("-1.75", -1, -750_000_000),
        ("1E+3", 1000, 0),
    ],
)
def test_an_amount_is_units_and_billionths_of_one_sign(value: str, units: int, nanos: int) -> None:
    """The parts are as google.type.Money describes them."""
    assert money(Decimal(value), "USD") == Money(currency_code="USD", units=units, nanos=nanos)


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "sNaN",
        "Infinity",
        "1E-10",
        "1.0000000001",
        "9223372036854775808",
        "1E+999999",
        "1E-999999",
    ],
)
def test_what_money_cannot_carry_is_refused(value: str) -> None:
    """No amount is rounded, and no exponent makes us compute a million digits."""
    with pytest.raises(ValueError, match=r"large|places"):
        money(Decimal(value), "USD")


@pytest.mark.parametrize("currency", ["", "usd", "US", "USDT", "ÜSD", "U$D"])
def test_a_currency_is_three_capital_letters(currency: str) -> None:
    """Codes that ISO 4217 could not have are refused."""
    with pytest.raises(ValueError, match="currency"):
        money(Decimal(1), currency)


@pytest.mark.parametrize("parts", [(1, -1), (-1, 1), (0, 1_000_000_000), (0, -1_000_000_000)])
def test_money_whose_parts_disagree_is_refused(parts: tuple[int, int]) -> None:
    """Mixed signs and billionths beyond one are a ValueError."""
    units, nanos = parts

    with pytest.raises(ValueError, match="billionths"):
        amount(Money(units=units, nanos=nanos))


def test_an_amount_has_no_more_digits_than_it_needs() -> None:
    """Two decimal places do not come back as nine."""
    assert str(amount(money(Decimal("-123.45"), "USD"))) == "-123.45"


@given(st.timedeltas(min_value=timedelta(days=-3_652_500), max_value=timedelta(days=3_652_500)))
def test_every_span_survives_the_round_trip(length: timedelta) -> None:
    """Spans of either sign come back to the microsecond."""
    assert span(duration(length)) == length


@pytest.mark.parametrize(
    "message", [Duration(seconds=1, nanos=-1), Duration(nanos=1 << 30), Duration(seconds=1 << 60)]
)
def test_a_duration_outside_its_rules_is_refused(message: Duration) -> None:
    """Mixed signs and spans beyond 10,000 years are ValueErrors."""
    with pytest.raises(ValueError, match=r"billionths|longer"):
        span(message)


def test_a_span_beyond_10000_years_is_refused() -> None:
    """google.protobuf.Duration ends there."""
    with pytest.raises(ValueError, match="longer"):
        duration(timedelta.max)
