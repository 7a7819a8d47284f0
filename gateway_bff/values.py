"""Times, money and enums as the public API spells them.

Instants are RFC 3339: in UTC with `Z`, at airports with the local offset. Money is a decimal
string with at least two places, exact. Everything here is a pure function of its arguments.
"""

from datetime import date, timedelta
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money

from flights.booking.v1.booking_pb2 import BookingStatus
from flights.schedule.v1.schedule_pb2 import FlightStatus
from flights.search.v1.search_pb2 import SORT_ORDER_DEPARTURE, SORT_ORDER_DURATION, SORT_ORDER_PRICE
from flights.type.v1.cabin_pb2 import (
    CABIN_BUSINESS,
    CABIN_ECONOMY,
    CABIN_FIRST,
    CABIN_PREMIUM_ECONOMY,
)

_EPOCH = date(1970, 1, 1)
_NANOS = 1_000_000_000
_CENT = 10_000_000

CABINS = {
    "economy": CABIN_ECONOMY,
    "premium_economy": CABIN_PREMIUM_ECONOMY,
    "business": CABIN_BUSINESS,
    "first": CABIN_FIRST,
}
CABIN_NAMES = {number: name for name, number in CABINS.items()}
SORT_ORDERS = {
    "price": SORT_ORDER_PRICE,
    "departure": SORT_ORDER_DEPARTURE,
    "duration": SORT_ORDER_DURATION,
}
FLIGHT_STATUSES = {
    number: name.removeprefix("FLIGHT_STATUS_").lower() for name, number in FlightStatus.items()
}
BOOKING_STATUSES = {
    number: name.removeprefix("BOOKING_STATUS_").lower() for name, number in BookingStatus.items()
}


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    """The ISO 8601 form of the day so many days after 1970-01-01."""
    return (_EPOCH + timedelta(days=days)).isoformat()


def day_text(day: Date) -> str:
    """The calendar day, `YYYY-MM-DD`."""
    return f"{day.year:04d}-{day.month:02d}-{day.day:02d}"


def _clock(seconds: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS` of the seconds since the epoch, in whatever zone they were counted."""
    days, second = divmod(seconds, 86_400)
    hours, rest = divmod(second, 3_600)
    return f"{_day(days)}T{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


def local_time(instant: Timestamp, offset_minutes: int) -> str:
    """The instant to the second, on a clock so many minutes ahead of UTC."""
    hours, minutes = divmod(abs(offset_minutes), 60)
    sign = "-" if offset_minutes < 0 else "+"
    local = _clock(instant.seconds + offset_minutes * 60)
    return f"{local}{sign}{hours:02d}:{minutes:02d}"


def utc_time(instant: Timestamp) -> str:
    """The instant in UTC with `Z`; the fraction has 0, 3, 6 or 9 digits, as many as it needs."""
    clock = _clock(instant.seconds)
    if not instant.nanos:
        return f"{clock}Z"
    fraction = f"{instant.nanos:09d}"
    while fraction.endswith("000"):
        fraction = fraction[:-3]
    return f"{clock}.{fraction}Z"


def decimal(units: int, nanos: int) -> str:
    """The exact decimal of google.type.Money's two halves, with at least two places."""
    if units >= 0 and nanos >= 0 and not nanos % _CENT:
        return f"{units}.{nanos // _CENT:02d}"
    total = units * _NANOS + nanos
    whole, fraction = divmod(abs(total), _NANOS)
    digits = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if total < 0 else ''}{whole}.{digits}"


def money(amount: Money) -> dict[str, str]:
    """`{"currency": …, "amount": …}`."""
    return {"currency": amount.currency_code, "amount": decimal(amount.units, amount.nanos)}


def total(one: Money, other: Money) -> Money:
    """Both together; they are of one currency, and neither is negative."""
    carry, nanos = divmod(one.nanos + other.nanos, _NANOS)
    units = one.units + other.units + carry
    return Money(currency_code=one.currency_code, units=units, nanos=nanos)
