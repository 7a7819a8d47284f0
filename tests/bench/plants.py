"""Faults planted into a world that is right: each breaks one invariant and leaves the others be."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from flights.booking.v1.booking_pb2 import BookingEvent, BookingStatus
from flights.schedule.v1.schedule_pb2 import FlightEvent
from tests.bench.world import USER, World

Line = dict[str, Any]


class Planted:
    """A copy of a world, to be spoiled."""

    def __init__(self, world: World, folder: Path) -> None:
        self._folder = folder
        for file in world.history.parent.glob("*.db*"):
            shutil.copy(file, folder)
        self.history = folder / "history.jsonl"
        shutil.copy(world.history, self.history)

    def sql(self, service: str, statement: str, *values: Any) -> None:
        """Change rows of one service, whatever its constraints say."""
        with closing(sqlite3.connect(self._folder / f"{service}.db")) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement, values)

    def one(self, service: str, query: str, *values: Any) -> Any:
        """The first value of the first row."""
        with closing(sqlite3.connect(self._folder / f"{service}.db")) as connection:
            return connection.execute(query, values).fetchone()[0]

    def made_by(self, key: str) -> str:
        """The booking that a key made."""
        query = "SELECT booking_id FROM idempotency_key WHERE request_id = ?"
        return str(self.one("booking", query, key))

    def lines(self) -> list[Line]:
        """The history."""
        return [json.loads(line) for line in self.history.read_text().splitlines()]

    def write(self, lines: list[Line]) -> None:
        """Replace the history."""
        self.history.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def add(self, *lines: Line, first: bool = False) -> None:
        """Add lines at the end of the history, or at its beginning."""
        self.write([*lines, *self.lines()] if first else [*self.lines(), *lines])

    def seats(self, **changed: int) -> None:
        """Change the cabin of `flt_out` everywhere at once, as a consistent lie."""
        for column, value in changed.items():
            where = f"UPDATE flight_cabin SET {column} = ? WHERE flight_id = 'flt_out'"  # noqa: S608
            self.sql("schedule", where, value)
        row = "SELECT {} FROM flight_cabin WHERE flight_id = 'flt_out'"
        left = self.one("schedule", row.format("capacity - held - sold"))
        capacity = self.one("schedule", row.format("capacity"))
        event = self.one("schedule", "SELECT event FROM flight WHERE flight_id = 'flt_out'")
        message = FlightEvent.FromString(event)
        message.flight_changed.cabins[0].capacity = capacity
        message.flight_changed.cabins[0].available = left
        payload = message.SerializeToString()
        self.sql("schedule", "UPDATE flight SET event = ? WHERE flight_id = 'flt_out'", payload)
        newest = "(SELECT max(seq) FROM flight_event WHERE key = 'flt_out')"
        last = f"UPDATE flight_event SET payload = ? WHERE seq = {newest}"  # noqa: S608
        self.sql("schedule", last, payload)
        known = "SELECT cabins FROM flight WHERE flight_id = 'flt_out'"
        [[cabin, _, _, *price]] = json.loads(self.one("pricing", known))
        cabins = json.dumps([[cabin, capacity, left, *price]])
        self.sql("pricing", "UPDATE flight SET cabins = ? WHERE flight_id = 'flt_out'", cabins)

    def restate(self, key: str, status: str) -> None:
        """Put a booking into another state, in its row and in its last event."""
        booking_id = self.made_by(key)
        newest = "SELECT max(seq) FROM booking_event WHERE key = ?"
        seq = self.one("booking", newest, booking_id)
        payload = self.one("booking", "SELECT payload FROM booking_event WHERE seq = ?", seq)
        event = BookingEvent.FromString(payload)
        event.booking_changed.status = BookingStatus.Value(f"BOOKING_STATUS_{status.upper()}")
        self.sql(
            "booking",
            "UPDATE booking_event SET payload = ? WHERE seq = ?",
            event.SerializeToString(),
            seq,
        )
        self.sql(
            "booking", "UPDATE booking SET status = ? WHERE booking_id = ?", status, booking_id
        )


Into = Callable[[Planted], None]


@dataclass(frozen=True, slots=True)
class Plant:
    """A fault: what it breaks and how it comes about."""

    name: str
    invariant: str
    into: Into


def _call(
    op: str, said: Mapping[str, Any], told: Mapping[str, Any], process: str = "x"
) -> list[Line]:
    head = {"t": 0, "process": process, "op": op}
    return [{**head, "phase": "invoke", **said}, {**head, "phase": "ok", "booking": told}]


_GHOST: Final = _call(
    "book",
    {"user": USER, "key": "ghost", "quote_id": "quo_x", "passengers": [["A", "B"]], "email": "x"},
    {"booking_id": "bkg_ghost", "status": "confirmed"},
)


def _get(world: Planted, key: str, status: str, **more: Any) -> list[Line]:
    booking_id = world.made_by(key)
    told = {"booking_id": booking_id, "status": status, **more}
    return _call("get", {"user": USER, "booking_id": booking_id}, told)


def _without(world: Planted, op: str, **said: Any) -> None:
    """Take a call out of the history: its invocation and its end."""
    lines = world.lines()
    for place, line in enumerate(lines):
        if line["op"] == op and line["phase"] == "invoke" and said.items() <= line.items():
            del lines[place : place + 2]
            break
    world.write(lines)


def _refused(world: Planted) -> None:
    lines = world.lines()
    for asked, answer in pairwise(lines):
        if asked.get("key") == "unknown":
            answer["phase"] = "fail"
    world.write(lines)


def _cheaper_offer(world: Planted) -> None:
    lines = world.lines()
    next(line for line in lines if "quote" in line)["quote"]["total"] = "1.00"
    world.write(lines)


def _last_event_gone(world: Planted) -> None:
    last = "(SELECT max(seq) FROM booking_event)"
    world.sql("booking", f"DELETE FROM booking_event WHERE seq = {last}")  # noqa: S608 - ours
    world.sql("booking", "UPDATE booking_head SET seq = seq - 1")


def _quote_of(world: Planted, key: str) -> str:
    query = "SELECT quote_id FROM booking WHERE booking_id = ?"
    return str(world.one("booking", query, world.made_by(key)))


def _dearer(world: Planted) -> None:
    quote_id = _quote_of(world, "one")
    lines = json.loads(world.one("pricing", "SELECT lines FROM quote WHERE quote_id = ?", quote_id))
    lines[0][2] += 1
    update = "UPDATE quote SET lines = ? WHERE quote_id = ?"
    world.sql("pricing", update, json.dumps(lines), quote_id)


def _a_seat_more(world: Planted) -> None:
    sold = "SELECT sold FROM flight_cabin WHERE flight_id = 'flt_out'"
    world.seats(sold=world.one("schedule", sold) + 1)


def _sql(service: str, statement: str, *values: Callable[[Planted], str]) -> Into:
    return lambda world: world.sql(service, statement, *(value(world) for value in values))


def _made(key: str) -> Callable[[Planted], str]:
    return lambda world: world.made_by(key)


def _quote(key: str) -> Callable[[Planted], str]:
    return lambda world: _quote_of(world, key)


_booking, _schedule, _pricing = (partial(_sql, name) for name in ("booking", "schedule", "pricing"))

PLANTS: Final = (
    Plant("acknowledged, then lost", "I1", lambda w: w.add(*_GHOST)),
    Plant("other names", "I1", _booking("UPDATE passenger SET given_name = 'Eve'")),
    Plant("another contact", "I1", _booking("UPDATE contact SET email = 'eve@example.org'")),
    Plant(
        "another reference told",
        "I1",
        lambda w: w.add(*_get(w, "one", "confirmed", reference="234567")),
    ),
    Plant(
        "another's booking",
        "I1",
        _booking("UPDATE booking SET subject = 'eve' WHERE booking_id = ?", _made("one")),
    ),
    Plant(
        "a key that leads elsewhere",
        "I2",
        _booking(
            "UPDATE idempotency_key SET booking_id = ? WHERE request_id = 'one'", _made("three")
        ),
    ),
    Plant(
        "a booking without a key",
        "I2",
        _booking("DELETE FROM idempotency_key WHERE request_id = 'one'"),
    ),
    Plant("a reply from the past", "I2", lambda w: w.add(*_get(w, "two", "confirmed"))),
    Plant(
        "a version from the past", "I2", lambda w: w.add(*_get(w, "one", "confirmed", version=1))
    ),
    Plant("told more than is", "I2", lambda w: w.add(*_get(w, "one", "cancelled"))),
    Plant("one seat too few", "I3", lambda w: w.seats(capacity=1)),
    Plant("nobody booked it", "I4", lambda w: _without(w, "book", key="one")),
    Plant("nobody cancelled it", "I4", lambda w: _without(w, "cancel")),
    Plant(
        "a hold of no booking",
        "I4",
        _schedule(
            "INSERT INTO hold (booking_id, saga_epoch, state, expire_time, update_time)"
            " SELECT 'bkg_ghost', 1, 3, expire_time, update_time FROM hold LIMIT 1"
        ),
    ),
    Plant(
        "a claim of no booking",
        "I4",
        _pricing(
            "INSERT INTO claim (quote_id, booking_id, epoch, released)"
            " SELECT quote_id, 'bkg_ghost', 1, 1 FROM claim LIMIT 1"
        ),
    ),
    Plant("affected, and its flights fly", "I4", lambda w: w.restate("one", "affected")),
    Plant("pending for ever", "I5", lambda w: w.restate("unknown", "pending")),
    Plant("refused, and yet booked", "I5", _refused),
    Plant(
        "confirmed without its quote",
        "I5",
        _pricing("UPDATE quote SET booking_id = NULL WHERE quote_id = ?", _quote("one")),
    ),
    Plant(
        "rejected with its quote",
        "I5",
        _pricing(
            "UPDATE quote SET booking_id = ? WHERE quote_id = ?",
            _made("refused"),
            _quote("refused"),
        ),
    ),
    Plant(
        "rejected, its hold not released",
        "I5",
        _schedule("UPDATE hold SET state = 4 WHERE booking_id = ?", _made("refused")),
    ),
    Plant("a dearer quote", "I6", _dearer),
    Plant(
        "a quote of the past",
        "I6",
        _pricing("UPDATE quote SET expire_time = '2020-01-01 00:00:00.000000'"),
    ),
    Plant("a cheaper offer", "I6", _cheaper_offer),
    Plant("a gap", "I7", _booking("DELETE FROM booking_event WHERE seq = 3")),
    Plant("the last event gone", "I7", _last_event_gone),
    Plant("a head without its event", "I7", _schedule("UPDATE flight_head SET seq = seq + 1")),
    Plant(
        "a projection behind its cursor",
        "I7",
        _pricing("UPDATE flight SET schedule_version = 1 WHERE flight_id = 'flt_out'"),
    ),
    Plant("a cursor beyond the head", "I7", _pricing("UPDATE inbox_position SET seq = seq + 1")),
    Plant("a cancelled flight unknown", "I7", _booking("DELETE FROM cancelled_flight")),
    Plant("unaffected", "I7", lambda w: w.restate("affected", "confirmed")),
    Plant("a seat lost", "I8", _a_seat_more),
    Plant("a seat held by nobody", "I8", lambda w: w.seats(held=1)),
    Plant("acknowledged, killed, lost", "I9", lambda w: w.add(*_GHOST, first=True)),
    Plant(
        "cancelled, killed, confirmed",
        "I9",
        lambda w: w.add(*_get(w, "unknown", "cancelled"), first=True),
    ),
)
