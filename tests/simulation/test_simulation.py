"""C8 and T1: seeds of 200 random operations among crashes, lost messages and wrong clocks.

One that breaks a promise is printed with the command that replays it.
"""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.figures import LONG, at_most, figure
from tests.simulation.mutants import MUTANTS, rule
from tests.simulation.pool import replay, simulate_all
from tests.simulation.world import OPERATIONS

pytestmark = pytest.mark.timeout(7200 if LONG else 900)

SEEDS = 1_000 if LONG else 20
SEEDS_TO_FIND = 100 if LONG else 20
"""Within so many seeds every planted bug is found."""
FOUND_BY = {"blind-record": 5, "no-tombstone": 3, "give-back-first": 2, "position-first": 4}
"""The seeds that did it last, where not the first one: a short run begins with them."""
MISHAPS = ("kill", "kill at a unit", "kill a service", "power failure", "freeze", "clock")
ROOT = Path(__file__).parents[2]


def test_no_seed_breaks_a_promise() -> None:
    """Whatever goes wrong, in whatever order, the invariants hold once all is settled."""
    broken: list[str] = []
    done: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for report in simulate_all(range(1, SEEDS + 1)):
        done.update(report.done)
        judged.update(report.judged)
        if not report.holds:
            broken.append("\n".join((replay(report.seed), *report.violations[:5])))
    figure(
        "C8",
        f"{SEEDS} seeds of {OPERATIONS} operations, {judged['bookings']:,} bookings, "
        f"broken promises: {at_most(SEEDS) if not broken else len(broken)}",
    )
    figure("T1", f"{done['clock']:,} clocks set by 2 s, 1 h or 1 day among them")
    figure("C8", ", ".join(f"{done[what]:,} times {what}" for what in MISHAPS))

    assert not broken, "\n\n".join(broken)


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bugs_are_found(name: str) -> None:
    """A rule that is not kept is noticed: else that nothing is found would mean nothing."""
    seeds = list(range(1, SEEDS_TO_FIND + 1))
    if not LONG:
        seeds.sort(key=lambda seed: seed != FOUND_BY.get(name, 1))
    with closing(simulate_all(seeds, mutant=name)) as reports:
        finder = next((report for report in reports if not report.holds), None)
    seed = None if finder is None else finder.seed
    figure("C8", f"{name} ({rule(name)[:-1]}): found by seed {seed}")

    assert finder is not None


def test_a_seed_is_replayed_exactly() -> None:
    """Two processes that order their sets differently have the same trace of a seed."""
    with ThreadPoolExecutor(2) as both:
        traces = list(both.map(_trace, ("1", "2")))

    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


def _trace(hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "7", "--trace"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    *trace, _seconds_it_took = ended.stdout.splitlines()
    return trace
