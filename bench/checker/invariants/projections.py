"""I7, second half: what consumers of schedule's stream know is what schedule has said."""

from collections.abc import Iterator

from bench.checker.case import Case
from bench.checker.facts import Flight, Position, PricedFlight, ScheduleFacts
from bench.checker.violation import Violation


def i7_projections_equal_their_source(case: Case) -> Iterator[Violation]:
    """A consumer's rows are the source's as of the consumer's cursor, which is in its history.

    A row that the source has changed after that is older at the consumer, or not there yet. A
    consumer that has no cursor, as it has never followed or is amid a snapshot, is not judged.
    """
    schedule = case.facts.schedule
    positions = {"pricing": case.facts.pricing.position, "booking": case.facts.booking.position}
    for consumer, position in positions.items():
        if position is not None and position.epoch is not None:
            for what in _misplaced(position, schedule):
                yield Violation("I7", f"{consumer}: {what}", (position.epoch, str(position.seq)))
            project = _pricing if consumer == "pricing" else _booking
            for what, key in project(case, position.seq):
                yield Violation("I7", f"{consumer}: {what}", (key,))


def _misplaced(position: Position, schedule: ScheduleFacts) -> Iterator[str]:
    if position.epoch != schedule.stream.epoch:
        yield "it follows another epoch"
    elif position.seq > schedule.stream.head:
        yield f"it stands beyond the head, {schedule.stream.head}"
    if position.dead_letters:
        yield f"{position.dead_letters} dead letters"


def _pricing(case: Case, seq: int) -> Iterator[tuple[str, str]]:
    schedule, known = case.facts.schedule, case.facts.pricing.flights
    for flight_id in schedule.flights.keys() | known.keys():
        there, here = schedule.flights.get(flight_id), known.get(flight_id)
        if _passed(schedule, flight_id, seq):
            if not _same(there, here):
                yield "its flight is not schedule's", flight_id
        elif there and here and here.schedule_version >= there.version:
            yield "it knows a flight before it has read of it", flight_id


def _passed(schedule: ScheduleFacts, flight_id: str, seq: int) -> bool:
    """Whether a cursor has passed the newest event of a flight."""
    last = schedule.stream.last.get(flight_id)
    return last is None or last.seq <= seq


def _same(there: Flight | None, here: PricedFlight | None) -> bool:
    if there is None or here is None:
        return there is None and here is None
    seats = {name: (cabin.capacity, cabin.available) for name, cabin in there.cabins.items()}
    known = {name: (cabin.capacity, cabin.available) for name, cabin in here.cabins.items()}
    return (there.version, there.cancelled, seats) == (
        here.schedule_version,
        here.cancelled,
        known,
    )


def _booking(case: Case, seq: int) -> Iterator[tuple[str, str]]:
    schedule, cancelled = case.facts.schedule, case.facts.booking.cancelled
    for flight_id, flight in schedule.flights.items():
        if _passed(schedule, flight_id, seq) and flight.cancelled != (flight_id in cancelled):
            yield "it and schedule disagree whether a flight is cancelled", flight_id
    for booking_id, booking in case.bookings.items():
        if booking.status == "confirmed":
            for name, *_ in booking.segments:
                if cancelled.get(name) is False:
                    yield f"confirmed, and {name} is cancelled", booking_id
