"""Bugs to plant, each against one rule: a simulation that misses them would prove nothing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import Connection, update

import booking.store
from booking.domain import Answer, Saga, Unanswered
from booking.runner import SagaRunner
from booking.tables import sagas
from booking.upstreams import ScheduleSeats
from eventstream import SqlInbox
from eventstream.steps import UNNAMED
from pricing.domain.quotes import Claim, Quote
from schedule.domain import Hold, tombstone
from schedule.service import Seats

Patches = Sequence[tuple[object, str, Any]]

_release = Seats._release
_ask_release = ScheduleSeats.release
_cancel = SagaRunner._cancel


def _for_everybody(self: Quote, claim: Claim, accept_time: datetime, now: datetime) -> Quote:
    """A quote is redeemed whoever has it already."""
    del accept_time, now
    return replace(self, booking_id=claim.booking_id)


def _whatever_is_stored(connection: Connection, before: Saga, row: dict[str, Any]) -> bool:
    """A step is recorded without comparing what is stored with what was read."""
    this = sagas.c.booking_id == before.booking.booking_id
    connection.execute(update(sagas).where(this).values(row))
    return True


def _leaving_nothing(self: Seats, records: Any, booking_id: str, epoch: int) -> Hold:
    """A release leaves no tombstone where nothing was held: a late hold is taken."""
    if records.hold(booking_id) is None:
        return tombstone(booking_id, epoch, self._now())
    return _release(self, records, booking_id, epoch)


async def _hoping(self: ScheduleSeats, saga: Saga) -> None:
    """A release without an answer is taken for done."""
    with suppress(Unanswered):
        await _ask_release(self, saga)


async def _giving_back_first(self: SagaRunner, user: Any, booking_id: str, key: Any) -> Any:
    """Seats are given back before it is decided, and stored, that the booking is cancelled."""
    found = await self._log.find(user, booking_id)  # type: ignore[attr-defined]  # the store has it
    if found is not None:
        with suppress(Answer):
            saga = Saga(booking=found, owner="", epoch=1)
            await self._participants._seats.release(saga)
    return await _cancel(self, user, booking_id, key)


async def _in_two_units(self: SqlInbox[Any], events: Any, cursor: Any) -> None:
    """The position is stored first, and what it says was applied a moment later."""
    await self._write(lambda _: None, cursor, UNNAMED)
    await self._db.write(lambda c: self._take(c, events, None))


MUTANTS: Final[dict[str, Patches]] = {
    "shared-quote": ((Quote, "redeem", _for_everybody),),
    "blind-record": ((booking.store, "_move", _whatever_is_stored),),
    "no-tombstone": ((Seats, "_release", _leaving_nothing),),
    "hope": ((ScheduleSeats, "release", _hoping),),
    "give-back-first": ((SagaRunner, "_cancel", _giving_back_first),),
    "position-first": ((SqlInbox, "apply", _in_two_units),),
}
"""By name: what is replaced by what, for the block of `planted`."""


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a bug for the block; None plants none."""
    with _all([patch.object(*each) for each in MUTANTS[name]] if name else []):
        yield


@contextmanager
def _all(patches: Sequence[Any]) -> Iterator[None]:
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


def rule(name: str) -> str:
    """What the bug breaks, in a sentence."""
    replacements: list[Callable[..., Any]] = [what for _, _, what in MUTANTS[name]]
    return (replacements[0].__doc__ or "").partition("\n")[0]
