"""C2: a process dies at every point of every durable step; nothing is lost, doubled or oversold.

Short: every point once on SQLite, the ways of asking in turn, and a few on PostgreSQL. Long: every
point in every way on both.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.cells import Cell, Steps, every_way, frozen, one_way, untold
from tests.chaos.cold import Cold
from tests.chaos.figures import LONG, at_most, figure
from tests.chaos.freezing import Freezing
from tests.chaos.killing import Killing
from tests.chaos.matrix import Matrix, UrlOf
from tests.chaos.processes import Zygote
from tests.chaos.stage import Outcome
from tests.databases import OwnPostgres
from tools import failpoints

WORLDS: Final = 4  # at once: most of a cell's time is spent waiting
ON_POSTGRES: Final = 6  # cells of the short version
SEVERAL: Final = 7200 if LONG else 420  # seconds; a machine may have other things to do


@pytest.fixture(scope="module")
async def steps() -> Mapping[str, Sequence[str]]:
    """The durable steps of each service, as the services tell them."""
    told = [asyncio.to_thread(failpoints.steps, service) for service in failpoints.SERVICES]
    return dict(zip(failpoints.SERVICES, await asyncio.gather(*told), strict=True))


def test_every_point_is_played_or_excused(steps: Steps) -> None:
    """The list of steps is generated: each has its scenarios, or a reason why it can't have any."""
    missing = untold(steps)

    assert missing == []


@pytest.mark.timeout(SEVERAL)
async def test_dying_at_any_point_on_sqlite(forks: Zygote, steps: Steps, tmp_path: Path) -> None:
    """Whatever a process was doing durably when it died, the invariants hold afterwards."""
    cells = every_way(steps) if LONG else one_way(steps)
    matrix = Matrix(forks, tmp_path, _sqlite(tmp_path), steps, stage=Killing)
    outcome = await matrix.play(cells, WORLDS)
    _tell("SQLite", outcome)

    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.cells == len(cells)


@pytest.mark.timeout(SEVERAL)
async def test_dying_at_any_point_on_postgres(
    forks: Zygote, steps: Steps, tmp_path: Path, durable_postgres: OwnPostgres
) -> None:
    """On PostgreSQL too, where a dead process leaves its transaction to the server."""
    cells = every_way(steps) if LONG else _spread(one_way(steps), ON_POSTGRES)
    matrix = Matrix(forks, tmp_path, _postgres(durable_postgres), steps, stage=Killing)
    outcome = await matrix.play(cells, WORLDS if LONG else 1)
    _tell("PostgreSQL", outcome)
    durable_postgres.drop()

    assert not outcome.failures, "\n".join(outcome.failures)
    assert outcome.cells == len(cells)


async def test_dying_at_any_point_of_the_first_start(forks: Zygote, tmp_path: Path) -> None:
    """A first start that is cut off anywhere is taken up by the next one, up to a whole system."""
    cold = Cold(forks, tmp_path, lambda service: _sqlite(tmp_path)("cold", service))
    deaths = await cold.play()
    figure("C2", f"first start on SQLite: died at {deaths} points in turn, whole afterwards")

    assert deaths == cold.points


@pytest.mark.timeout(SEVERAL)
async def test_dying_at_any_point_of_the_first_start_on_postgres(
    forks: Zygote, tmp_path: Path, durable_postgres: OwnPostgres
) -> None:
    """On PostgreSQL too: databases that were created and then left are migrated by the next."""
    cold = Cold(forks, tmp_path, durable_postgres.new)
    deaths = await cold.play()
    durable_postgres.drop()
    figure("C2", f"first start on PostgreSQL: died at {deaths} points in turn, whole afterwards")

    assert deaths == cold.points


@pytest.mark.timeout(SEVERAL)
async def test_waking_up_from_any_step_of_a_saga(
    forks: Zygote, steps: Steps, tmp_path: Path
) -> None:
    """An instance that was frozen after a step, until another has finished, wakes up harmless."""
    url_of = _sqlite(tmp_path)
    matrix = Matrix(forks, tmp_path, url_of, steps, stage=Freezing, bookings=2)
    outcome = await matrix.play(frozen(steps), 2)
    _tell("SQLite, frozen", outcome)

    assert not outcome.failures, "\n".join(outcome.failures)


@pytest.mark.timeout(SEVERAL)
async def test_waking_up_from_any_step_of_a_saga_on_postgres(
    forks: Zygote, steps: Steps, tmp_path: Path, durable_postgres: OwnPostgres
) -> None:
    """On PostgreSQL too."""
    url_of = _postgres(durable_postgres)
    cells = frozen(steps) if LONG else _spread(frozen(steps), 3)
    matrix = Matrix(forks, tmp_path, url_of, steps, stage=Freezing, bookings=2)
    outcome = await matrix.play(cells, 2 if LONG else 1)
    _tell("PostgreSQL, frozen", outcome)
    durable_postgres.drop()

    assert not outcome.failures, "\n".join(outcome.failures)


def _sqlite(folder: Path) -> UrlOf:
    return lambda world, service: f"sqlite:///{folder}/{world}/data/{service}.db"


def _postgres(server: OwnPostgres) -> UrlOf:
    return lambda _, service: server.new(service)


def _spread(cells: Sequence[Cell], count: int) -> Sequence[Cell]:
    """Some of the cells, of all services."""
    return cells[:: len(cells) // count][:count]


def _tell(engine: str, outcome: Outcome) -> None:
    failed = len(outcome.failures)
    figure(
        "C2",
        f"{engine}: {outcome.cells} cells, {outcome.hits} processes struck at their point, "
        f"{outcome.bookings} bookings, violations: {failed or at_most(outcome.hits)}",
    )
