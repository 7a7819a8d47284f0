"""Messages of the contracts as the judge's values."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

from google.type.money_pb2 import Money

from bench.checker.history import Priced
from flights.booking.v1 import booking_pb2
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2

Change: TypeAlias = (
    booking_pb2.BookingChanged
    | schedule_pb2.Flight
    | schedule_pb2.FlightRemoved
    | pricing_pb2.FlightPrices
    | pricing_pb2.PricesRemoved
)
"""What an event says of its key."""


def booking_event(payload: bytes) -> tuple[str, Change]:
    """Key and change of an event of booking's."""
    change = booking_pb2.BookingEvent.FromString(payload).booking_changed
    return change.booking_id, change


def flight_event(payload: bytes) -> tuple[str, Change]:
    """Key and change of an event of schedule's."""
    event = schedule_pb2.FlightEvent.FromString(payload)
    removed = event.WhichOneof("change") == "flight_removed"
    change = event.flight_removed if removed else event.flight_changed
    return change.flight_id, change


def price_event(payload: bytes) -> tuple[str, Change]:
    """Key and change of an event of pricing's."""
    event = pricing_pb2.PriceEvent.FromString(payload)
    removed = event.WhichOneof("change") == "prices_removed"
    change = event.prices_removed if removed else event.prices_changed
    return change.flight_id, change


def is_end(change: Change) -> bool:
    """Whether the key is gone from there on."""
    return isinstance(change, schedule_pb2.FlightRemoved | pricing_pb2.PricesRemoved)


def amount(money: Money) -> Decimal:
    """The decimal number; its parts have one sign."""
    return Decimal(money.units) + Decimal(money.nanos).scaleb(-9)


@cache
def cabin_name(number: int) -> str:
    """`economy` for CABIN_ECONOMY."""
    return cabin_pb2.Cabin.Name(cabin_pb2.Cabin.ValueType(number)).removeprefix("CABIN_").lower()


def hold_state_name(number: int) -> str:
    """`held` for HOLD_STATE_HELD."""
    state = schedule_pb2.HoldState.ValueType(number)
    return schedule_pb2.HoldState.Name(state).removeprefix("HOLD_STATE_").lower()


def status_name(number: booking_pb2.BookingStatus.ValueType) -> str:
    """`confirmed` for BOOKING_STATUS_CONFIRMED."""
    return booking_pb2.BookingStatus.Name(number).removeprefix("BOOKING_STATUS_").lower()


def priced(
    lines: Iterable[booking_pb2.BookedSegment] | Iterable[pricing_pb2.QuoteLine],
) -> tuple[Priced, ...]:
    """The lines of a booking or a quote."""
    return tuple(
        (line.flight_id, cabin_name(line.cabin), amount(line.fare), amount(line.taxes))
        for line in lines
    )


def booking_told(message: booking_pb2.Booking) -> Mapping[str, Any]:
    """What a booking of gRPC says, as a history has it."""
    told = {
        "booking_id": message.booking_id,
        "status": status_name(message.status),
        "version": message.version,
        "reference": message.reference,
        "quote_id": message.quote_id,
        "segments": _told(message.segments),
        "passengers": [[one.given_name, one.family_name] for one in message.passengers],
        "email": message.contact.email,
    }
    return told | ({"total": str(amount(message.total))} if message.HasField("total") else {})


def quote_told(message: pricing_pb2.Quote) -> Mapping[str, Any]:
    """What a quote of gRPC says, as a history has it."""
    return {
        "quote_id": message.quote_id,
        "passengers": message.passengers,
        "total": str(amount(message.total)),
        "segments": _told(message.lines),
        "expire_time": message.expire_time.ToJsonString(),
    }


def _told(
    lines: Iterable[booking_pb2.BookedSegment] | Iterable[pricing_pb2.QuoteLine],
) -> list[list[str]]:
    return [[*of, str(fare), str(taxes)] for *of, fare, taxes in priced(lines)]
