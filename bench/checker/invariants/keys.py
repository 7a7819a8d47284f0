"""I2: idempotency keys and the bookings that they made."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from bench.checker.case import Case, follows, kept
from bench.checker.history import Call, Told
from bench.checker.violation import Violation


def i2_one_booking_per_key(case: Case) -> Iterator[Violation]:
    """One booking per key and one key per booking; replies differ only as its state moved on.

    A reply may not show an older state than any that had arrived before it was asked for. Nor may
    the booking be in an older state at the end, unless something was killed: that is I9's.
    """
    made = {(key.user, key.key): key.booking_id for key in case.facts.booking.keys}
    yield from _ambiguous(case, made)
    yield from _keys_of_bookings(case)
    for booking_id, calls in case.answers.items():
        if backward := _backward(calls):
            yield Violation("I2", f"replies went back from {backward}", (booking_id,))
        booking = case.bookings.get(booking_id)
        last = [c.told for c in calls if c.ended is not None and c.ended > case.history.last_kill]
        if booking and not all(kept(told, booking) for told in last if told):
            yield Violation("I2", f"{booking.status} is older than what was told", (booking_id,))


def _ambiguous(case: Case, made: Mapping[tuple[str, str], str]) -> Iterator[Violation]:
    for (user, key), calls in case.attempts.items():
        told = {call.told.booking_id for call in calls if call.told}
        if len(told) > 1:
            yield Violation("I2", "one key, several bookings", (user, key, *sorted(told)))
        elif told and (stored := made.get((user, key))) and stored not in told:
            yield Violation("I2", "the key leads elsewhere", (user, key, stored, *told))


def _keys_of_bookings(case: Case) -> Iterator[Violation]:
    keys = Counter(key.booking_id for key in case.facts.booking.keys)
    for booking_id in case.bookings:
        if keys[booking_id] != 1:
            yield Violation("I2", f"{keys[booking_id]} keys made this booking", (booking_id,))
    for booking_id in keys.keys() - case.bookings.keys():
        yield Violation("I2", "a key leads to no booking", (booking_id,))


def _backward(calls: Iterable[Call]) -> str | None:
    """The first step back that replies show, if there is one."""
    replies = sorted((c for c in calls if c.told), key=lambda call: call.begun)
    arriving = sorted(replies, key=_ended)
    newest: dict[str, Told] = {}  # by state, what had arrived when the reply was asked for
    upto = 0
    for reply in replies:
        while _ended(arriving[upto]) < reply.begun:
            _note(newest, arriving[upto].told)
            upto += 1
        for before in newest.values():
            if reply.told and not follows(before, reply.told):
                return f"{before.status} to {reply.told.status}"
    return None


def _ended(call: Call) -> int:
    return -1 if call.ended is None else call.ended


def _note(newest: dict[str, Told], told: Told | None) -> None:
    if told and ((known := newest.get(told.status)) is None or follows(known, told)):
        newest[told.status] = told
