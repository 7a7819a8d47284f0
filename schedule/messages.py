"""Flights and holds as messages of flights.schedule.v1."""

from datetime import datetime

from consulmesh.wellknown import date_message, timestamp
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2
from schedule.domain import CabinSeats, Flight, Hold, Segment


def flight(flight: Flight) -> schedule_pb2.Flight:
    """The message of a flight."""
    return schedule_pb2.Flight(
        flight_id=flight.flight_id,
        version=flight.version,
        carrier=flight.carrier,
        number=flight.number,
        origin=flight.origin,
        destination=flight.destination,
        departure_date=date_message(flight.departure_date),
        departure_time=timestamp(flight.departure_time),
        arrival_time=timestamp(flight.arrival_time),
        scheduled_departure_time=timestamp(flight.scheduled_departure_time),
        scheduled_arrival_time=timestamp(flight.scheduled_arrival_time),
        aircraft=flight.aircraft,
        distance_km=flight.distance_km,
        status=schedule_pb2.FlightStatus.ValueType(flight.status),
        cabins=[cabin_seats(seats) for seats in flight.cabins],
        inferred=flight.inferred,
        etag=flight.etag,
        status_reason=flight.status_reason,
        departure_utc_offset_minutes=flight.departure_utc_offset_minutes,
        arrival_utc_offset_minutes=flight.arrival_utc_offset_minutes,
    )


def cabin_seats(seats: CabinSeats) -> schedule_pb2.CabinSeats:
    """The message of a cabin's seats."""
    return schedule_pb2.CabinSeats(
        cabin=cabin_pb2.Cabin.ValueType(seats.cabin),
        capacity=seats.capacity,
        available=seats.available,
    )


def flight_changed(changed: Flight, at: datetime) -> schedule_pb2.FlightEvent:
    """The event that a flight is new or has changed."""
    return schedule_pb2.FlightEvent(event_time=timestamp(at), flight_changed=flight(changed))


def flight_removed(flight_id: str, version: int, at: datetime) -> schedule_pb2.FlightEvent:
    """The event that a flight has left the timetable."""
    removed = schedule_pb2.FlightRemoved(flight_id=flight_id, version=version)
    return schedule_pb2.FlightEvent(event_time=timestamp(at), flight_removed=removed)


def hold(hold: Hold) -> schedule_pb2.Hold:
    """The message of a hold."""
    return schedule_pb2.Hold(
        booking_id=hold.booking_id,
        segments=[segment(s) for s in hold.segments],
        state=schedule_pb2.HoldState.ValueType(hold.state),
        expire_time=timestamp(hold.expire_time),
    )


def segment(segment: Segment) -> schedule_pb2.SegmentSeats:
    """The message of a segment."""
    return schedule_pb2.SegmentSeats(
        flight_id=segment.flight_id,
        cabin=cabin_pb2.Cabin.ValueType(segment.cabin),
        seats=segment.seats,
    )
