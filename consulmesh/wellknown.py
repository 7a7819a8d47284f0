"""Conversions between Python values and google.protobuf / google.type messages.

Both directions are exact or raise ValueError; instants and spans have a resolution of one
microsecond, so what a message says below that is cut off.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from string import ascii_uppercase

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NANOS = 1_000_000_000
_NANO = Decimal(1).scaleb(-9)
_INT64 = 1 << 63
_LARGEST_EXPONENT = 18  # of an int64
_SMALLEST_EXPONENT = -9
_CURRENCY_LETTERS = 3
_DURATION_SECONDS = 315_576_000_000  # what google.protobuf.Duration allows either way


def timestamp(moment: datetime) -> Timestamp:
    """The message of an aware datetime."""
    if moment.utcoffset() is None:
        raise ValueError(f"{moment!r} has no time zone")
    seconds, micros = divmod((moment - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def instant(message: Timestamp) -> datetime:
    """The aware datetime in UTC of a message."""
    if not 0 <= message.nanos < _NANOS:
        raise ValueError(f"{message.nanos} is no number of nanoseconds within a second")
    try:
        return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        raise ValueError(f"{message.seconds} s since 1970 is no year from 1 to 9999") from None


def date_message(day: date) -> Date:
    """The message of a calendar day."""
    if isinstance(day, datetime):
        raise ValueError(f"{day!r} is an instant, not a calendar day")  # noqa: TRY004 - as documented
    return Date(year=day.year, month=day.month, day=day.day)


def calendar_date(message: Date) -> date:
    """The calendar day of a message; partial dates (year, month or day 0) are refused."""
    return date(message.year, message.month, message.day)


def money(amount_: Decimal, currency: str) -> Money:
    """The message of an amount of at most nine decimal places, in a currency of ISO 4217."""
    if len(currency) != _CURRENCY_LETTERS or currency.strip(ascii_uppercase):
        raise ValueError(f"{currency!r} is no currency code")
    units, nanos = divmod(_billionths(amount_), _NANOS)
    sign = -1 if amount_.is_signed() else 1
    return Money(currency_code=currency, units=sign * units, nanos=sign * nanos)


def _billionths(amount_: Decimal) -> int:
    """The size of an amount; its order of magnitude is looked at before any arithmetic."""
    if not amount_.is_finite() or amount_.adjusted() > _LARGEST_EXPONENT:
        raise ValueError(f"{amount_} is too large")
    if not amount_:
        return 0
    if amount_.adjusted() < _SMALLEST_EXPONENT:
        raise ValueError(f"{amount_} has more than nine decimal places")
    numerator, denominator = amount_.copy_abs().as_integer_ratio()
    billionths, rest = divmod(numerator * _NANOS, denominator)
    if rest:
        raise ValueError(f"{amount_} has more than nine decimal places")
    if billionths >= _INT64 * _NANOS:
        raise ValueError(f"{amount_} is too large")
    return billionths


def amount(message: Money) -> Decimal:
    """The amount of a message; the currency is `message.currency_code`."""
    _check_parts(message.units, message.nanos)
    return message.units + (message.nanos * _NANO).normalize()


def duration(span_: timedelta) -> Duration:
    """The message of a span of time."""
    micros = span_ // _MICROSECOND
    seconds, rest = divmod(abs(micros), 1_000_000)
    if seconds > _DURATION_SECONDS:
        raise ValueError(f"{span_} is longer than 10,000 years")
    sign = -1 if micros < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * rest * 1000)


def span(message: Duration) -> timedelta:
    """The span of time of a message."""
    _check_parts(message.seconds, message.nanos)
    if abs(message.seconds) > _DURATION_SECONDS:
        raise ValueError(f"{message.seconds} s is longer than 10,000 years")
    micros = abs(message.nanos) // 1000
    return timedelta(seconds=message.seconds, microseconds=-micros if message.nanos < 0 else micros)


def _check_parts(units: int, nanos: int) -> None:
    if not -_NANOS < nanos < _NANOS:
        raise ValueError(f"{nanos} is no number of billionths below one")
    if units * nanos < 0:
        raise ValueError(f"{units} and {nanos} billionths differ in sign")
