"""Prices after anything may have happened: they are what the formula says of the present state."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import Final, TypeVar

import pytest
from google.type.money_pb2 import Money
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstream import Database
from flights.pricing.v1.pricing_pb2 import PriceEvent
from flights.schedule.v1 import schedule_pb2
from pricing import tables
from pricing.domain import fares
from pricing.domain.errors import RouteNotFound
from pricing.domain.flights import PricedFlight
from pricing.messages import flight_state
from pricing.service import Pricing, Repository, UseCase
from pricing.service import prices as slices
from pricing.service import pricing as use_cases
from pricing.store import SqlStore, snapshot
from pricing.upstreams import Timetable, schedule_inbox
from streams.v1.stream_pb2 import Cursor
from tests.databases import Databases
from tests.pricing.timetable import Clock, changed, flight, removed

_T = TypeVar("_T")

FLIGHTS: Final = 7
ROUTES: Final = ("LAX", "SFO")
SLICE: Final = 2
NUMBERS: Final = count()

numbers = st.integers(0, FLIGHTS - 1)
steps = st.one_of(
    st.tuples(st.just("seats"), numbers, st.integers(0, 100)),
    st.tuples(st.just("moved"), numbers, st.integers(0, 30)),
    st.tuples(st.just("left"), numbers, st.just(0)),
    st.tuples(st.just("fare"), st.integers(0, 1), st.integers(50, 500)),
    st.tuples(st.just("hours"), st.integers(1, 200), st.just(0)),
    st.tuples(st.just("repriced"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("followed"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("snapshot"), st.integers(1, FLIGHTS), st.just(0)),
)
Happened = tuple[str, int, int]


class KilledError(Exception):
    """The process is dead."""


class Mortal(SqlStore):
    """A process that lives for so many units of its work."""

    def __init__(self, database: Database, units: int) -> None:
        super().__init__(database)
        self._units = units

    async def transact(self, of: UseCase, work: Callable[[Repository], _T]) -> _T:
        """Do the work, or be dead."""
        if not self._units:
            raise KilledError
        self._units -= 1
        return await super().transact(of, work)


@dataclass
class Model:
    """What schedule says, which fares were set, and the time."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    said: dict[str, schedule_pb2.Flight] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    versions: "count[int]" = field(default_factory=lambda: count(1))

    async def happens(self, what: str, number: int, value: int) -> None:
        """One thing."""
        match what:
            case "seats":
                await self.flies(number, available=value)
            case "moved":
                await self.flies(number, days=value)
            case "left":
                if self.said.pop(name(number), None):
                    await self.apply(removed(name(number), next(self.versions)))
            case "fare":
                with suppress(RouteNotFound):
                    await self.fare(ROUTES[number], value)
            case "hours":
                self.clock.forward(timedelta(hours=number))
            case "snapshot":
                await self.snapshot(number)
            case _:
                await self.killed_after(number, what)

    async def flies(self, number: int, *, available: int = 100, days: float = 30) -> None:
        """Schedule says this of a flight."""
        version, destination = next(self.versions), ROUTES[number % len(ROUTES)]
        said = flight(
            name(number), version=version, destination=destination, available=available, days=days
        )
        self.said[name(number)] = said
        await self.apply(*changed(said))

    async def apply(self, *events: schedule_pb2.FlightEvent) -> None:
        """Apply events of schedule's."""
        timetable = Timetable(self.clock)
        await self.database.write(lambda connection: timetable.apply_many(connection, events))

    async def fare(self, destination: str, base: int) -> None:
        """An operator sets a fare."""
        pricing = Pricing(SqlStore(self.database), self.clock)
        request = str(next(self.versions))
        await pricing.update_fare(request, "JFK", destination, Decimal(base), None)
        self.bases[destination] = base * 100

    async def snapshot(self, left: int) -> None:
        """Schedule says everything anew; flights after the first ones are gone."""
        self.said = {key: self.said[key] for key in sorted(self.said)[:left]}
        inbox = schedule_inbox(self.database, self.clock)
        await inbox.position()
        await inbox.start_snapshot()
        await inbox.apply(changed(*self.said.values()), None)
        await inbox.complete_snapshot(Cursor(epoch="e", seq=1))

    async def killed_after(self, units: int, what: str) -> None:
        """A process re-prices until it is killed after so many slices."""
        pricing = Pricing(Mortal(self.database, units), self.clock)
        with suppress(KilledError):
            while await (pricing.reprice() if what == "repriced" else pricing.follow_fare()):
                continue

    async def settles(self) -> None:
        """All work is done."""
        pricing = Pricing(SqlStore(self.database), self.clock)
        while await pricing.follow_fare() or await pricing.reprice():
            continue

    def expected(self) -> dict[str, list[tuple[int, int, int]]]:
        """What the formula says: fare and taxes of each cabin, by its number."""
        return {key: self._prices(said) for key, said in self.said.items()}

    def _prices(self, said: schedule_pb2.Flight) -> list[tuple[int, int, int]]:
        state = flight_state(said)
        computed = fares.default_base(said.origin, said.destination, said.distance_km)
        base = self.bases.get(said.destination, computed)
        left = fares.days_left(state.departure_time, self.clock())
        return [
            (one.cabin, *fares.price(base, state.carrier, one.cabin, left, one.steps_of_load))
            for one in state.cabins
        ]


def name(number: int) -> str:
    """The id of a flight."""
    return f"flt_{number}"


def in_cents(event: PriceEvent) -> list[tuple[int, int, int]]:
    """What an event says of each cabin."""
    return [(p.cabin, _cents(p.fare), _cents(p.taxes)) for p in event.prices_changed.prices]


def _cents(money: Money) -> int:
    return money.units * 100 + money.nanos // 10**7


def prices_of(flight: PricedFlight) -> list[tuple[int, int, int]]:
    """What is stored of each cabin."""
    return [(one.cabin, *one.price) for one in flight.prices]


def last_of_each(events: Iterable[PriceEvent]) -> dict[str, PriceEvent]:
    """What somebody has who has taken every event, and whose versions only grow."""
    known: dict[str, PriceEvent] = {}
    versions: dict[str, int] = {}
    for event in events:
        gone = event.HasField("prices_removed")
        subject = event.prices_removed if gone else event.prices_changed
        assert subject.version > versions.get(subject.flight_id, -1)
        versions[subject.flight_id] = subject.version
        known[subject.flight_id] = event
    return {key: event for key, event in known.items() if event.HasField("prices_changed")}


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices in which a few flights make several."""
    monkeypatch.setattr(slices, "AT_A_TIME", SLICE)
    monkeypatch.setattr(use_cases, "AT_A_TIME", SLICE)
    monkeypatch.setattr(use_cases, "_LOOKED_AHEAD", 2 * SLICE + 1)


@pytest.mark.usefixtures("small_slices")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(happened=st.lists(steps, min_size=5, max_size=40))
async def test_prices_are_what_the_formula_says_whatever_happened(
    databases: Databases, happened: Sequence[Happened]
) -> None:
    """In rows, in what a new reader is told, and in what one is told who has followed all along."""
    async with Database.open(
        databases(f"prices-{next(NUMBERS)}"), migrations="pricing:migrations"
    ) as database:
        model = Model(database)
        for number in range(FLIGHTS):
            await model.flies(number)
        for each in happened:
            await model.happens(*each)
        await model.settles()
        pricing = Pricing(SqlStore(database), model.clock)
        stored = await pricing.prices(sorted(model.said))
        told = await database.read(lambda c: snapshot(c, None, 100))
        outbox = await database.read(lambda c: tables.outbox.after(c, 0, 10_000))

    last = last_of_each(PriceEvent.FromString(event.payload) for event in outbox)
    expected = model.expected()
    assert {f.state.flight_id: prices_of(f) for f in stored} == expected
    assert {key: in_cents(event) for key, event in told} == expected
    assert {key: in_cents(event) for key, event in last.items()} == expected
    assert dict(told) == last
