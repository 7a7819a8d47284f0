import asyncio
import sys
from pathlib import Path

import pytest

from bench.checker import Urls, judge, read_file
from tests.bench.conftest import urls_in
from tests.bench.plants import PLANTS, Plant, Planted
from tests.bench.world import World, make
from tests.databases import Databases


def test_a_right_world_is_not_accused(world: World) -> None:
    """Bookings that are confirmed, rejected, cancelled and unanswered: nothing to say."""
    report = judge(read_file(world.history), world.urls)

    assert report.holds, report
    assert report.counts["bookings"] == 7
    assert report.counts["of them confirmed"] == 4
    assert report.counts["keys"] == 7
    assert report.counts["kills"] == 1


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.invariant} {plant.name}")
def test_a_planted_fault_is_found_and_named(plant: Plant, planted: Planted, tmp_path: Path) -> None:
    """The invariant that it breaks fires, and no other does."""
    plant.into(planted)
    report = judge(read_file(planted.history), urls_in(tmp_path))

    assert {violation.invariant for violation in report.violations} == {plant.invariant}, report
    assert not report.holds


def test_an_unfinished_saga_is_named(planted: Planted, tmp_path: Path) -> None:
    """What is still under way is no violation, but the judgement does not hold."""
    booking_id = planted.made_by("one")
    step = "UPDATE saga SET step = 'confirm_seats' WHERE booking_id = ?"
    planted.sql("booking", step, booking_id)
    report = judge(read_file(planted.history), urls_in(tmp_path))

    assert (report.violations, report.unfinished, report.holds) == ([], [booking_id], False)


async def test_the_program_says_what_is_wrong(planted: Planted, tmp_path: Path) -> None:
    """Exit code 0 for what is right; else 1, with the invariant and the ids."""
    right = await _run(planted.history, urls_in(tmp_path))
    planted.sql("schedule", "UPDATE hold SET state = 4 WHERE state = 3")
    wrong = await _run(planted.history, urls_in(tmp_path))

    assert right[0] == 0, right
    assert "judged 7 bookings" in right[1]
    assert wrong[0] == 1
    assert "I5: rejected, and its seats are expired" in wrong[1]
    assert planted.made_by("refused") in wrong[1]


async def _run(history: Path, urls: Urls) -> tuple[int | None, str]:
    words = ["--history", str(history), "--booking", urls.booking]
    words += ["--schedule", urls.schedule, "--pricing", urls.pricing]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.checker", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_databases_of_either_engine_are_judged(databases: Databases, tmp_path: Path) -> None:
    """The same bookings on PostgreSQL are the same facts."""
    urls = Urls(**{name: databases(name) for name in ("booking", "schedule", "pricing")})
    world = await make(urls, tmp_path)
    report = judge(read_file(world.history), urls)

    assert report.holds, report
    assert report.counts["bookings"] == 7
