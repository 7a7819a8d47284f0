import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstream import Database
from schedule.domain import Cabin, Hold, HoldState, Refusal, Segment
from schedule.service import CancelFlight, HoldSeats, Seats, Timetable
from schedule.store import SqlStore
from schedule.timetable import Airports
from schedule.window_store import insert_flights
from tests.schedule.hold_model import Model
from tests.schedule.samples import NOW, FixedClock, sample

FLIGHTS = 2
CABINS = {"economy": 5, "business": 2}
BOOKINGS = st.integers(0, 3)
EPOCHS = st.integers(1, 3)
SEGMENTS = st.lists(
    st.tuples(
        st.integers(0, FLIGHTS - 1),
        st.sampled_from([Cabin.ECONOMY, Cabin.BUSINESS, Cabin.FIRST]),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=FLIGHTS,
    unique_by=lambda segment: segment[0],
)
STEPS = st.one_of(
    st.tuples(st.just("hold"), BOOKINGS, EPOCHS, SEGMENTS),
    st.tuples(st.just("confirm"), BOOKINGS, EPOCHS),
    st.tuples(st.just("release"), BOOKINGS, EPOCHS),
    st.tuples(st.just("expire"), BOOKINGS),
    st.tuples(st.just("cancel"), st.integers(0, FLIGHTS - 1)),
)
NUMBERS = itertools.count(1)


class Party:
    """The real store and the model, given the same steps; each example has its own flights."""

    def __init__(self, db: Database, airports: Airports) -> None:
        self._db = db
        self._number = next(NUMBERS)
        self._clock = FixedClock()
        self._store = SqlStore(db)
        self._seats = Seats(self._store, self._clock.now)
        self._timetable = Timetable(self._store, airports.utc_offset, self._clock.now)
        first = self._number * FLIGHTS
        self._flights = [sample(first + n, in_hours=9000, **CABINS) for n in range(FLIGHTS)]
        self.model = Model(
            {(f.flight_id, c.cabin): c.capacity for f in self._flights for c in f.cabins}
        )

    async def begin(self) -> None:
        """Put the flights into the timetable."""
        await self._db.write(lambda connection: insert_flights(connection, self._flights, NOW))

    async def hold(self, booking: int, epoch: int, asked: list[tuple[int, Cabin, int]]) -> bool:
        """Whether both say the same; so the other steps."""
        key = self._key(booking)
        segments = tuple(
            Segment(flight_id=self._flights[n].flight_id, cabin=cabin, seats=seats)
            for n, cabin, seats in asked
        )
        command = HoldSeats(booking_id=key, saga_epoch=epoch, segments=segments)
        return await said(self._seats.hold(command)) == self.model.hold(key, epoch, segments)

    async def confirm(self, booking: int, epoch: int) -> bool:
        """Sell."""
        key = self._key(booking)
        return await said(self._seats.confirm(key, epoch)) == self.model.confirm(key, epoch)

    async def release(self, booking: int, epoch: int) -> bool:
        """Give back."""
        key = self._key(booking)
        return await said(self._seats.release(key, epoch)) == self.model.release(key, epoch)

    async def expire(self, booking: int) -> bool:
        """Run out."""
        self._clock.advance(timedelta(minutes=10))
        key = self._key(booking)
        return await said(self._seats.expire(key)) == self.model.expire(key)

    async def cancel(self, number: int) -> bool:
        """Cancel a flight."""
        flight_id = self._flights[number].flight_id
        await self._timetable.cancel(CancelFlight(request_id=flight_id, flight_id=flight_id))
        self.model.cancelled.add(flight_id)
        return True

    async def agree(self) -> bool:
        """Whether every cabin has as many seats held and sold as the model, within capacity."""
        ids = [flight.flight_id for flight in self._flights]
        found = await self._store.read(lambda records: records.flights(ids))
        cabins = {(key, c.cabin): c for key, flight in found.items() for c in flight.cabins}
        held, sold = self.model.taken(HoldState.HELD), self.model.taken(HoldState.CONFIRMED)
        return all(
            (c.held, c.sold) == (held[seat], sold[seat]) and c.held + c.sold <= c.capacity
            for seat, c in cabins.items()
        )

    def _key(self, booking: int) -> str:
        return f"bkg_{self._number}_{booking}"


async def said(step: Awaitable[Hold]) -> str:
    """The state that a step ended in, or the refusal."""
    try:
        return (await step).state.name
    except Refusal as refusal:
        return type(refusal).__name__


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=20))
async def test_seats_are_where_the_holds_say(
    db: Database, airports: Airports, steps: list[tuple[str, ...]]
) -> None:
    """After any steps each answer and each cabin is the model's, and all seats can come back."""
    party = Party(db, airports)
    await party.begin()
    answers = []
    for name, *arguments in steps:
        step: Callable[..., Awaitable[bool]] = getattr(party, name)
        answers.append((await step(*arguments), await party.agree()))
    given_back = await asyncio.gather(*(party.release(booking, 3) for booking in range(4)))

    assert answers == [(True, True)] * len(steps)
    assert all(given_back)
    assert await party.agree()
    assert not party.model.taken(HoldState.HELD) + party.model.taken(HoldState.CONFIRMED)
