"""The statements of the store; what they are executed with are their bind parameters."""

from sqlalchemy import bindparam, func, insert, literal_column, select, tuple_, update

from schedule.domain import HoldState
from schedule.tables import flight, flight_cabin, hold, hold_segment, request

FLIGHT = [column for column in flight.c if column is not flight.c.event]
CHANGING = [
    "version",
    "revision",
    "departure_time",
    "arrival_time",
    "departure_utc_offset_minutes",
    "arrival_utc_offset_minutes",
    "status",
    "status_reason",
    "event",
]

SEATS = [column for column in flight_cabin.c if column is not flight_cabin.c.flight_id]
FLIGHTS = (
    select(*FLIGHT, *SEATS)
    .outerjoin(flight_cabin, flight_cabin.c.flight_id == flight.c.flight_id)
    .where(flight.c.flight_id.in_(bindparam("flight_ids", expanding=True)))
    .order_by(flight.c.flight_id, flight_cabin.c.cabin)
)
PAGE = (
    select(flight.c.flight_id)
    .where(
        flight.c.origin == bindparam("origin"),
        flight.c.destination == bindparam("destination"),
        flight.c.departure_date == bindparam("departure_date"),
    )
    .order_by(flight.c.scheduled_departure_time, flight.c.flight_id)
    .limit(bindparam("limit"))
)
NEXT_PAGE = PAGE.where(
    tuple_(flight.c.scheduled_departure_time, flight.c.flight_id)
    > tuple_(
        bindparam("after_time", type_=flight.c.departure_time.type),
        bindparam("after_id", type_=flight.c.flight_id.type),
    )
)
AS_READ = flight.c.flight_id == bindparam("key"), flight.c.version == bindparam("seen")
CHANGE_FLIGHT = update(flight).where(*AS_READ).values({name: bindparam(name) for name in CHANGING})
MOVE_SEATS = (  # a statement of its own, as it leaves the indexes alone
    update(flight).where(*AS_READ).values(version=bindparam("version"), event=bindparam("event"))
)
CHANGE_CABIN = (
    update(flight_cabin)
    .where(flight_cabin.c.flight_id == bindparam("key"), flight_cabin.c.cabin == bindparam("of"))
    .values(held=bindparam("held"), sold=bindparam("sold"))
)
HOLD = (
    select(hold, hold_segment.c.flight_id, hold_segment.c.cabin, hold_segment.c.seats)
    .outerjoin(hold_segment, hold_segment.c.booking_id == hold.c.booking_id)
    .where(hold.c.booking_id == bindparam("key"))
    .order_by(hold_segment.c.position)
)
OPEN_SEGMENTS = insert(hold_segment)
MOVE_HOLD = (
    update(hold)
    .where(hold.c.booking_id == bindparam("key"))
    .values({name: bindparam(name) for name in ("saga_epoch", "state", "update_time")})
)
HELD = hold.c.state == literal_column(str(HoldState.HELD.value))  # as in the partial index
DUE = (
    select(hold.c.booking_id)
    .where(HELD, hold.c.expire_time <= bindparam("now"))
    .order_by(hold.c.expire_time)
    .limit(100)
)
NEXT_EXPIRY = select(func.min(hold.c.expire_time)).where(HELD)
REQUEST = select(request.c.fingerprint).where(request.c.request_id == bindparam("key"))
SNAPSHOT = (
    select(flight.c.flight_id, flight.c.event)
    .where(flight.c.flight_id > bindparam("after"))
    .order_by(flight.c.flight_id)
    .limit(bindparam("limit"))
)
