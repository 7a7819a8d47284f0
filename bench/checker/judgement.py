"""The judgement: all invariants over one case."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.checker.booking_tables import read_booking
from bench.checker.case import Case
from bench.checker.databases import Urls, snapshot
from bench.checker.facts import Facts
from bench.checker.history import History
from bench.checker.invariants import INVARIANTS
from bench.checker.pricing_tables import read_pricing
from bench.checker.schedule_tables import read_schedule
from bench.checker.violation import Violation

_SHOWN: Final = 20  # of each invariant: one fault often breaks it in a thousand places


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was judged, and what is wrong.

    `unfinished` are bookings whose saga has work left, and cancelled flights whose bookings are
    not all marked yet.
    """

    counts: Mapping[str, int]
    violations: Sequence[Violation]
    unfinished: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether all is finished and no invariant is broken."""
        return not self.violations and not self.unfinished

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        lines = [f"judged {counts}: {len(self.violations)} violations"]
        if self.unfinished:
            some = ", ".join(self.unfinished[:_SHOWN])
            lines.append(f"{len(self.unfinished)} are not finished: {some}")
        by_invariant = defaultdict[str, list[Violation]](list)
        for violation in self.violations:
            by_invariant[violation.invariant].append(violation)
        for name, found in sorted(by_invariant.items()):
            lines += map(str, found[:_SHOWN])
            if len(found) > _SHOWN:
                lines.append(f"{name}: and {len(found) - _SHOWN} more")
        return "\n".join(lines)


def judge(history: History, urls: Urls) -> Report:
    """Judge a history by the databases at its end.

    The databases are read one after the other: nothing may happen meanwhile, or a difference
    between two of them means nothing. Bookings that are not finished are judged by what holds at
    any time.
    """
    case = Case.of(history, read(urls))
    return Report(
        counts=_counts(case),
        violations=[violation for invariant in INVARIANTS for violation in invariant(case)],
        unfinished=unfinished(case.facts),
    )


def read(urls: Urls) -> Facts:
    """Everything that the databases say; consumers first, as they are never ahead of a source."""
    with snapshot(urls.pricing) as connection:
        pricing = read_pricing(connection)
    with snapshot(urls.booking) as connection:
        booking = read_booking(connection)
    with snapshot(urls.schedule) as connection:
        return Facts(booking=booking, schedule=read_schedule(connection), pricing=pricing)


def unfinished(facts: Facts) -> list[str]:
    """What booking has still to do by itself."""
    sagas = (key for key, booking in facts.booking.bookings.items() if not booking.finished)
    flights = (flight_id for flight_id, pending in facts.booking.cancelled.items() if pending)
    return sorted([*sagas, *flights])


def _counts(case: Case) -> dict[str, int]:
    facts = case.facts
    states = Counter(booking.status for booking in case.bookings.values())
    streams = facts.booking.stream, facts.schedule.stream, facts.pricing.stream
    return {
        "bookings": len(case.bookings),
        **{f"of them {status}": count for status, count in sorted(states.items())},
        "keys": len(facts.booking.keys),
        "holds": len(facts.schedule.holds),
        "quotes": len(facts.pricing.quotes),
        "events": sum(stream.events for stream in streams),
        "lines of history": case.history.lines,
        "kills": len(case.history.kills),
    }
