"""Bookings as messages: domain values to and from flights.booking.v1, nothing else."""

from booking.domain import Booking, Cabin, Rejection, Segment, Status, Step, UnfinishedSaga
from consulmesh import wellknown
from flights.booking.v1 import booking_pb2 as pb
from flights.type.v1 import cabin_pb2

CURRENCY = "USD"

_CABINS = {
    Cabin.ECONOMY: cabin_pb2.CABIN_ECONOMY,
    Cabin.PREMIUM_ECONOMY: cabin_pb2.CABIN_PREMIUM_ECONOMY,
    Cabin.BUSINESS: cabin_pb2.CABIN_BUSINESS,
    Cabin.FIRST: cabin_pb2.CABIN_FIRST,
}
_CABINS_BY_NUMBER = {number: cabin for cabin, number in _CABINS.items()}
_STATUSES = {
    Status.PENDING: pb.BOOKING_STATUS_PENDING,
    Status.CONFIRMED: pb.BOOKING_STATUS_CONFIRMED,
    Status.REJECTED: pb.BOOKING_STATUS_REJECTED,
    Status.CANCELLED: pb.BOOKING_STATUS_CANCELLED,
    Status.AFFECTED: pb.BOOKING_STATUS_AFFECTED,
}

_STEPS = {
    Step.REDEEM_QUOTE: pb.SAGA_STEP_REDEEM_QUOTE,
    Step.HOLD_SEATS: pb.SAGA_STEP_HOLD_SEATS,
    Step.CONFIRM_SEATS: pb.SAGA_STEP_CONFIRM_SEATS,
    Step.RELEASE_SEATS: pb.SAGA_STEP_RELEASE_SEATS,
    Step.RELEASE_QUOTE: pb.SAGA_STEP_RELEASE_QUOTE,
    Step.RETURN_SEATS: pb.SAGA_STEP_RETURN_SEATS,
}


def cabin_message(cabin: Cabin) -> cabin_pb2.Cabin.ValueType:
    """The enum value of a cabin."""
    return _CABINS[cabin]


def cabin_value(number: cabin_pb2.Cabin.ValueType) -> Cabin:
    """The cabin of an enum value; ValueError for one that is not known."""
    try:
        return _CABINS_BY_NUMBER[number]
    except KeyError:
        raise ValueError(f"cabin {number} is unknown") from None


def booking_message(booking: Booking) -> pb.Booking:
    """The whole booking, as its user may see it."""
    return pb.Booking(
        booking_id=booking.booking_id,
        reference=booking.reference,
        status=_STATUSES[booking.status],
        quote_id=booking.quote_id,
        segments=_segments(booking),
        passengers=[
            pb.Passenger(given_name=one.given_name, family_name=one.family_name)
            for one in booking.passengers
        ],
        contact=pb.Contact(email=booking.email),
        total=None if booking.total is None else wellknown.money(booking.total, CURRENCY),
        rejection=None if booking.rejection is None else _rejection(booking.rejection),
        create_time=wellknown.timestamp(booking.create_time),
        update_time=wellknown.timestamp(booking.update_time),
        version=booking.version,
    )


def event_message(booking: Booking) -> pb.BookingEvent:
    """The state of a booking as other services may know it: nothing about a person."""
    return pb.BookingEvent(
        event_time=wellknown.timestamp(booking.update_time),
        booking_changed=pb.BookingChanged(
            booking_id=booking.booking_id,
            version=booking.version,
            status=_STATUSES[booking.status],
            segments=_segments(booking),
            passengers=len(booking.passengers),
            rejection_reason="" if booking.rejection is None else booking.rejection.reason,
        ),
    )


def saga_message(saga: UnfinishedSaga) -> pb.UnfinishedSaga:
    """A saga that has not ended."""
    return pb.UnfinishedSaga(
        booking_id=saga.booking_id,
        step=_STEPS[saga.step],
        epoch=saga.epoch,
        attempts=saga.attempts,
        last_error=saga.last_error,
        owner=saga.owner,
        start_time=wellknown.timestamp(saga.start_time),
        due_time=wellknown.timestamp(saga.due_time),
    )


def _segments(booking: Booking) -> list[pb.BookedSegment]:
    return [_segment(segment) for segment in booking.segments]


def _segment(segment: Segment) -> pb.BookedSegment:
    return pb.BookedSegment(
        flight_id=segment.flight_id,
        cabin=_CABINS[segment.cabin],
        fare=wellknown.money(segment.fare, CURRENCY),
        taxes=wellknown.money(segment.taxes, CURRENCY),
    )


def _rejection(rejection: Rejection) -> pb.Rejection:
    return pb.Rejection(
        reason=rejection.reason,
        message=rejection.message,
        fresh_quote_id=rejection.fresh_quote_id,
    )
