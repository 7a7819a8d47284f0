"""The cells of the matrix: every point of every process, and what is played for it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eventstream.steps import Point
from tests.chaos.customer import Way
from tests.chaos.scenarios import COLD, OF_SERVICE, SCENARIOS, UNREACHED, Scenario

SAGA_STEPS: Final = ("booking.begin", "booking.cancel", "booking.claim", "booking.postpone")

Steps = Mapping[str, Sequence[str]]
"""The steps of each service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One crash: where, how the user asks, and what is played.

    With `again` the process is armed once more when it comes back, with the same point or another.
    """

    number: int
    service: str
    step: str
    point: Point
    way: Way
    scenario: Scenario
    again: bool

    @property
    def failpoint(self) -> str:
        """What `MESH_FAILPOINT` says."""
        return f"{self.step}:{self.point}"

    @property
    def name(self) -> str:
        """Unique within a matrix."""
        return f"{self.number}-{self.service}-{self.failpoint}-{self.scenario.name}-{self.way}"


def every_way(steps: Steps) -> list[Cell]:
    """A cell for each point and each way of asking; a scenario after the other."""
    ways = tuple(Way)
    return [
        _cell(number, *place, way, again=number % 2 == 0)
        for number, (place, way) in enumerate(
            (place, way) for place in _places(steps) for way in ways
        )
    ]


def one_way(steps: Steps) -> list[Cell]:
    """A cell for each point, the ways of asking in turn; one in four is armed again."""
    ways = tuple(Way)
    return [
        _cell(number, *place, ways[(number + number // 3) % 3], again=number % 4 == 0)
        for number, place in enumerate(_places(steps))
    ]


def frozen(steps: Steps) -> list[Cell]:
    """A cell for each step of a saga, in booking: after it is durable, before anybody is told."""
    names = [name for name in steps["booking"] if name.startswith("booking.record")]
    return [
        _cell(number, "booking", step, Point.AFTER, Way.RETRY, again=False)
        for number, step in enumerate([*names, *SAGA_STEPS])
    ]


def untold(steps: Steps) -> list[str]:
    """Steps for which nothing is played, and no reason is given; and the other way round."""
    there = {(service, step) for service, names in steps.items() for step in names}
    cold = {(service, step) for service, names in COLD.items() for step in names}
    known = {place for place in there if place[1] in SCENARIOS} | cold | UNREACHED.keys()
    gone = {f"{step} is no step" for step in SCENARIOS.keys() - {step for _, step in there}}
    return sorted(gone | {f"{service} {step}" for service, step in known ^ there})


def _places(steps: Steps) -> Iterator[tuple[str, str, Point]]:
    for service, names in steps.items():
        for step in names:
            if step in SCENARIOS and (service, step) not in UNREACHED:
                for point in Point:
                    yield service, step, point


def _cell(number: int, service: str, step: str, point: Point, way: Way, *, again: bool) -> Cell:
    scenarios = OF_SERVICE.get((service, step)) or SCENARIOS[step]
    return Cell(
        number=number,
        service=service,
        step=step,
        point=point,
        way=way,
        scenario=scenarios[number % len(scenarios)],
        again=again,
    )
