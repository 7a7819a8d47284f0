"""Invariants I1 to I9, each a function from a case to what breaks it."""

from collections.abc import Callable, Iterator
from typing import Final

from bench.checker.case import Case
from bench.checker.invariants.acknowledged import i1_acknowledged_is_there, i9_survives_a_kill
from bench.checker.invariants.asked_for import i4_nothing_unasked
from bench.checker.invariants.keys import i2_one_booking_per_key
from bench.checker.invariants.outcomes import i5_no_effect_or_one
from bench.checker.invariants.prices import i6_charged_as_quoted
from bench.checker.invariants.projections import i7_projections_equal_their_source
from bench.checker.invariants.seats import i3_never_oversold, i8_seats_come_back
from bench.checker.invariants.streams import i7_streams_are_gapless
from bench.checker.violation import Violation

Invariant = Callable[[Case], Iterator[Violation]]

INVARIANTS: Final[tuple[Invariant, ...]] = (
    i1_acknowledged_is_there,
    i2_one_booking_per_key,
    i3_never_oversold,
    i4_nothing_unasked,
    i5_no_effect_or_one,
    i6_charged_as_quoted,
    i7_streams_are_gapless,
    i7_projections_equal_their_source,
    i8_seats_come_back,
    i9_survives_a_kill,
)
