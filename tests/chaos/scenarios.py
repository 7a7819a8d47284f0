"""What must happen for each durable step to be taken, and by whom.

A scenario is played while one process is armed at a point of the step; `prepare` is done before.
`SCENARIOS` says which ones take a step: where there are several, a matrix goes through them in
turn. `OF_SERVICE` goes before it. A step that no scenario takes in some service stands in
`UNREACHED`, with the reason.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import booking.tables
import pricing.tables
from flights.booking.v1 import booking_pb2
from schedule.domain import Flight
from tests.chaos.customer import Customer, RefusedError
from tests.chaos.launch import Pace
from tests.chaos.operations import (
    Operator,
    leave_dead_letter,
    move_to_another_epoch,
    put_off_sagas,
)
from tests.chaos.processes import Process
from tests.chaos.timetable import SEATS
from tests.chaos.world import World

IMPATIENT: Final = Pace(patience=0.2)
SHORT_HOLD: Final = Pace(hold=0.5)
INBOXES: Final = {"booking": booking.tables.inbox, "pricing": pricing.tables.inbox}


@dataclass(slots=True, kw_only=True)
class Scene:
    """Where a scenario is played. `fresh` gives flights that nobody has booked."""

    world: World
    customer: Customer
    operator: Operator
    fresh: Iterator[Flight]
    service: str
    armed: Process | None = None

    @property
    def victim(self) -> Process:
        """The armed process."""
        assert self.armed is not None
        return self.armed

    def flight(self) -> str:
        """The id of a fresh flight."""
        return next(self.fresh).flight_id

    async def book(self, passengers: int = 2) -> booking_pb2.Booking:
        """Book a flight of its own."""
        return await self.customer.book(await self.customer.quote([self.flight()], passengers))


Play = Callable[[Scene], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How a step comes about; `pace` is that of the armed process."""

    play: Play
    prepare: Play | None = None
    pace: Pace | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.play.__name__


async def confirmed(scene: Scene) -> None:
    """A booking that is confirmed."""
    await scene.book()


async def round_trip(scene: Scene) -> None:
    """A booking of two flights."""
    flights = [scene.flight(), scene.flight()]
    await scene.customer.book(await scene.customer.quote(flights))


async def sold_out(scene: Scene) -> None:
    """Two parties for the seats of one: the second booking is rejected."""
    flights = [scene.flight()]
    quotes = [await scene.customer.quote(flights, SEATS - 1) for _ in range(2)]
    for quote in quotes:
        await scene.customer.book(quote)


async def spent_quote(scene: Scene) -> None:
    """Two bookings of one quote: the second is rejected."""
    quote = await scene.customer.quote([scene.flight()])
    for _ in range(2):
        await scene.customer.book(quote)


async def cancelled(scene: Scene) -> None:
    """A booking that is given back."""
    made = await scene.book()
    try:
        await scene.customer.cancel(made)
    except RefusedError:
        if made.status == booking_pb2.BOOKING_STATUS_CONFIRMED:
            raise


async def flight_cancelled(scene: Scene) -> None:
    """A flight is cancelled that somebody has booked, and somebody else is just booking."""
    flights = [scene.flight()]
    early, late = [await scene.customer.quote(flights) for _ in range(2)]
    await scene.customer.book(early)
    await asyncio.gather(scene.operator.cancel(flights[0]), scene.customer.book(late))


async def flight_delayed(scene: Scene) -> None:
    """A flight leaves later."""
    await scene.operator.delay(scene.flight())


async def fare_changed(scene: Scene) -> None:
    """A fare is changed between a quote and its booking."""
    quote = await scene.customer.quote([scene.flight()])
    await scene.operator.change_fare("JFK", "LAX")
    await scene.customer.book(quote)


async def owner_away(scene: Scene) -> None:
    """Schedule is away while a booking is made, until the armed process is struck."""
    quote = await scene.customer.quote([scene.flight()])
    async with away(scene.world, "schedule"):
        made = asyncio.create_task(scene.customer.book(quote))
        await scene.victim.gone()
    await made


async def clock_set_back(scene: Scene) -> None:
    """The clock is set back while a booking waits for schedule: it seems to wait for a day."""
    quote = await scene.customer.quote([scene.flight()])
    async with away(scene.world, "schedule"):
        made = asyncio.create_task(scene.customer.book(quote))
        await put_off_sagas(scene.world.urls["booking"], booking.tables.sagas)
        await scene.victim.gone()
    await made


async def given_up(scene: Scene) -> None:
    """Schedule is away for longer than the booking has patience."""
    await owner_away(scene)


async def hold_expired(scene: Scene) -> None:
    """A booking dies while it holds seats, for longer than they are held."""
    quote = await scene.customer.quote([scene.flight()])
    dying = await scene.world.start(
        "booking", failpoint="booking.record_held:before", pace=SHORT_HOLD
    )
    made = asyncio.create_task(scene.customer.book(quote))
    await dying.ended()
    await scene.victim.ended()
    await (await scene.world.start("booking")).serving()
    await made


async def started(scene: Scene) -> None:
    """A process starts, and is called meanwhile."""
    await scene.book()


async def stopped(scene: Scene) -> None:
    """A process that leads is told to stop while it is called."""
    await scene.victim.logged("lease_taken")
    await scene.victim.serving()
    made = asyncio.create_task(scene.book())
    scene.victim.terminate()
    await made


async def resynced(scene: Scene) -> None:
    """A consumer comes back with a cursor of another epoch, while somebody books."""
    await scene.book()


async def _lost(scene: Scene) -> None:
    await scene.world.kill(scene.service)
    await move_to_another_epoch(scene.world.urls[scene.service], INBOXES[scene.service].position)


async def _cancelled_and_lost(scene: Scene) -> None:
    await scene.operator.cancel(scene.flight())
    await _lost(scene)


async def letter_retried(scene: Scene) -> None:
    """A consumer comes back to a dead letter that is due, while somebody books."""
    await scene.book()


async def _dead_letter(scene: Scene) -> None:
    await scene.world.kill(scene.service)
    letters = INBOXES[scene.service].dead_letter
    await leave_dead_letter(scene.world.urls[scene.service], letters, next(scene.fresh))


@asynccontextmanager
async def away(world: World, service: str) -> AsyncIterator[None]:
    """An instance is dead for the block."""
    await world.kill(service)
    try:
        yield
    finally:
        await (await world.start(service)).serving()


_CONFIRMED: Final = (Scenario(play=confirmed), Scenario(play=round_trip))
_REJECTED: Final = (Scenario(play=sold_out), Scenario(play=spent_quote))
_CANCELLED: Final = (Scenario(play=cancelled),)
_AWAY: Final = (Scenario(play=owner_away),)
_STARTED: Final = (Scenario(play=started),)
_STOPPED: Final = (Scenario(play=stopped),)
_FLIGHT_CANCELLED: Final = (Scenario(play=flight_cancelled),)
_FARE: Final = (Scenario(play=fare_changed),)
_RESYNCED: Final = (Scenario(play=resynced, prepare=_lost),)

SCENARIOS: Final[Mapping[str, tuple[Scenario, ...]]] = {
    "booking.affect": _FLIGHT_CANCELLED,
    "booking.begin": _CONFIRMED,
    "booking.cancel": _CANCELLED,
    "booking.claim": _AWAY,
    "booking.hand_back": _STOPPED,
    "booking.postpone": _AWAY,
    "booking.recall": (Scenario(play=clock_set_back),),
    "booking.record_confirmed": _CONFIRMED,
    "booking.record_held": _CONFIRMED,
    "booking.record_redeemed": _CONFIRMED,
    "booking.record_refused": (*_REJECTED, Scenario(play=given_up, pace=IMPATIENT)),
    "booking.record_rejected": _REJECTED,
    "booking.record_released": (Scenario(play=sold_out),),
    "booking.record_returned": _CANCELLED,
    "booking.tidy": _STARTED,
    "inbox.apply": _CONFIRMED + _FLIGHT_CANCELLED,
    "inbox.apply_rows": _RESYNCED,
    "inbox.complete_snapshot": _RESYNCED,
    "inbox.mark_rows": _RESYNCED,
    "inbox.retry": (Scenario(play=letter_retried, prepare=_dead_letter),),
    "inbox.start_snapshot": _RESYNCED,
    "inbox.sweep": _RESYNCED,
    "lease.beat": _STARTED,
    "lease.take": _STARTED,
    "lease.vacate": _STOPPED,
    "outbox.trim": _STARTED,
    "pricing.create_quote": _CONFIRMED,
    "pricing.redeem": (*_CONFIRMED, Scenario(play=spent_quote)),
    "pricing.release": _REJECTED,
    "pricing.reprice": _FARE,
    "pricing.tidy_quotes": _STARTED,
    "pricing.tidy_requests": _STARTED,
    "pricing.update_fare": _FARE,
    "schedule.cancel_flight": _FLIGHT_CANCELLED,
    "schedule.confirm": _CONFIRMED,
    "schedule.delay_flight": (Scenario(play=flight_delayed),),
    "schedule.expire": (Scenario(play=hold_expired),),
    "schedule.hold": (*_CONFIRMED, Scenario(play=sold_out)),
    "schedule.release": (*_CANCELLED, Scenario(play=sold_out)),
    "schedule.window_forget": _STARTED,
}
"""By step: what is played for it, in turn."""

OF_SERVICE: Final[Mapping[tuple[str, str], tuple[Scenario, ...]]] = {
    ("booking", "inbox.apply"): _FLIGHT_CANCELLED,  # it writes nothing about other news
    ("booking", "inbox.apply_rows"): (Scenario(play=resynced, prepare=_cancelled_and_lost),),
}
"""By service and step, where a service needs something else for it."""

COLD: Final[Mapping[str, tuple[str, ...]]] = {
    "schedule": (
        "migrate.upgrade",
        "schedule.window_start_day",
        "schedule.window_add",
        "schedule.window_begin",
        "schedule.window_remove",
    ),
    "pricing": ("migrate.upgrade", "outbox.begin"),
    "booking": ("migrate.upgrade", "outbox.begin"),
}
"""Steps of the first start of a service, in their order."""

UNREACHED: Final[Mapping[tuple[str, str], str]] = {
    ("schedule", "outbox.begin"): "schedule begins its stream itself, in schedule.window_begin",
}
"""By service and step: why nothing takes it."""
