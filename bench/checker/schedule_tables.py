"""Schedule's database by SQL."""

from collections import defaultdict

from sqlalchemy import Connection

from bench.checker.databases import rows
from bench.checker.facts import Cabin, Flight, Hold, ScheduleFacts
from bench.checker.messages import cabin_name, flight_event, hold_state_name
from bench.checker.streams import read_stream
from flights.schedule.v1.schedule_pb2 import FLIGHT_STATUS_CANCELLED

_CABINS = "SELECT flight_id, cabin, capacity, held, sold FROM flight_cabin"
_FLIGHTS = "SELECT flight_id, version, status, event FROM flight"
_HOLDS = "SELECT booking_id, state FROM hold"
_SEGMENTS = (
    "SELECT booking_id, flight_id, cabin, seats FROM hold_segment ORDER BY booking_id, position"
)


def read_schedule(connection: Connection) -> ScheduleFacts:
    """All that the judge needs of it."""
    cabins = defaultdict[str, dict[str, Cabin]](dict)
    for flight_id, cabin, capacity, held, sold in rows(connection, _CABINS):
        cabins[flight_id][cabin_name(cabin)] = Cabin(capacity=capacity, held=held, sold=sold)
    return ScheduleFacts(
        flights={
            flight_id: Flight(
                version=version,
                cancelled=status == FLIGHT_STATUS_CANCELLED,
                event=bytes(event),
                cabins=cabins[flight_id],
            )
            for flight_id, version, status, event in rows(connection, _FLIGHTS)
        },
        holds=_holds(connection),
        stream=read_stream(connection, "flight", flight_event),
    )


def _holds(connection: Connection) -> dict[str, Hold]:
    holds = {
        booking_id: Hold(state=hold_state_name(state))
        for booking_id, state in rows(connection, _HOLDS)
    }
    for booking_id, flight_id, cabin, seats in rows(connection, _SEGMENTS):
        holds[booking_id].seats.append((flight_id, cabin_name(cabin), seats))
    return holds
