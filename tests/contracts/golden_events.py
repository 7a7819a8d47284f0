"""Events as the services write them today, and as every release has written them.

    python -m tests.contracts.golden_events 0.2.0

keeps today's bytes as those of a release, once: what lies in an outbox is read by later releases.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from google.protobuf import symbol_database
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

import booking.messages
import pricing.messages
import schedule.messages
from booking import domain as bookings
from flights.booking.v1 import booking_pb2
from flights.pricing.v1 import pricing_pb2
from flights.schedule.v1 import schedule_pb2
from schedule import domain as timetable
from streams.v1.stream_pb2 import Cursor

FOLDER: Final = Path(__file__).parent / "golden"
EVENTS: Final = (
    schedule_pb2.FlightEvent,
    pricing_pb2.PriceEvent,
    booking_pb2.BookingEvent,
)
_AT: Final = datetime(2026, 11, 24, 12, 30, 15, 123456, tzinfo=UTC)
_DEPARTURE: Final = datetime(2026, 12, 1, 11, 30, tzinfo=UTC)
_BIGGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The bytes of an event, and what they said when they were written."""

    release: str
    kind: str  # full name of the message
    case: str
    payload: bytes
    said: dict[str, Any]

    def read(self) -> Message:
        """Return it as today's code reads it."""
        message: Message = symbol_database.Default().GetSymbol(self.kind).FromString(self.payload)
        return message


def said(message: Message) -> dict[str, Any]:
    """Return what a message says, without what it leaves at its default."""
    return MessageToDict(message, preserving_proto_field_name=True)


def kept() -> Iterator[Golden]:
    """Yield every event of every release."""
    for file in sorted(FOLDER.glob("*/*.binpb")):
        kind, _, case = file.stem.partition("-")
        text = file.with_suffix(".json").read_text(encoding="utf-8")
        yield Golden(
            release=file.parent.name,
            kind=kind,
            case=case,
            payload=file.read_bytes(),
            said=json.loads(text),
        )


def written() -> dict[tuple[str, str], Message]:
    """Return each kind and case of event as today's code writes it, from values that stay."""
    cases = {
        "changed": schedule.messages.flight_changed(_flight(), _AT),
        "removed": schedule.messages.flight_removed("flt_gone", _BIGGEST, _AT),
        "prices_changed": pricing.messages.prices_changed(
            pricing.messages.Flown("flt_out", "JFK", "LAX", _DEPARTURE),
            7,
            _AT,
            [(1, 18_000, 2_910, 7), (4, 123_456_789, 1, 3)],
        ),
        "prices_removed": pricing.messages.prices_removed("flt_gone", _BIGGEST, _AT),
        "cursor": Cursor(epoch="0123456789abcdef0123456789abcdef", seq=_BIGGEST),
        **{each.status.value: booking.messages.event_message(each) for each in _bookings()},
    }
    return {(message.DESCRIPTOR.full_name, case): message for case, message in cases.items()}


def _flight() -> timetable.Flight:
    return timetable.Flight(
        flight_id="flt_out",
        version=42,
        revision=3,
        carrier="B6",
        number="23R",
        origin="JFK",
        destination="LAX",
        departure_date=date(2026, 12, 1),
        departure_time=_DEPARTURE + timedelta(minutes=35),
        arrival_time=_DEPARTURE + timedelta(minutes=420),
        scheduled_departure_time=_DEPARTURE,
        scheduled_arrival_time=_DEPARTURE + timedelta(minutes=385),
        departure_utc_offset_minutes=-300,
        arrival_utc_offset_minutes=-480,
        aircraft="A320-232",
        distance_km=3983,
        inferred=True,
        status=timetable.FlightStatus.DELAYED,
        status_reason="Nebel über Köln",
        cabins=tuple(
            timetable.CabinSeats(cabin=cabin, capacity=10 * cabin, held=2, sold=3)
            for cabin in timetable.Cabin
        ),
    )


def _bookings() -> Iterator[bookings.Booking]:
    pending = bookings.Booking(
        booking_id="bkg_1",
        reference="K7Q2XM",
        user=bookings.User(issuer="issuer", subject="ann"),
        quote_id="quo_1",
        passengers=(bookings.Passenger(given_name="Ann", family_name="Lee"),) * 2,
        email="ann@example.org",
        create_time=_AT,
        update_time=_AT,
    )
    segments = tuple(
        bookings.Segment(
            flight_id=f"flt_{cabin}", cabin=cabin, fare=Decimal("180.05"), taxes=Decimal("29.10")
        )
        for cabin in bookings.Cabin
    )
    quote = bookings.Quote(
        quote_id="quo_1", passengers=2, segments=segments, total=Decimal("1673.20")
    )
    confirmed = pending.priced(quote, _AT).confirmed(_AT)
    rejection = bookings.Rejection(reason="SEATS_UNAVAILABLE", message="none left")
    yield pending
    yield pending.rejected(rejection, _AT)
    yield confirmed
    yield confirmed.affected(_AT)
    yield confirmed.cancelled(_AT)


def keep(release: str) -> None:
    """Write today's events as those of a release; raises FileExistsError where it has some."""
    folder = FOLDER / release
    folder.mkdir(parents=True)
    for (kind, case), message in written().items():
        file = folder / f"{kind}-{case}.binpb"
        file.write_bytes(message.SerializeToString(deterministic=True))
        text = json.dumps(said(message), indent=2, sort_keys=True, ensure_ascii=False)
        file.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    keep(sys.argv[1])
