from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from consulmesh.errors import Violation
from flights.search.v1.search_pb2 import SearchFareCalendarResponse
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes, forever, refusal

QUERY = {"origin": "JFK", "destination": "LAX", "month": "2026-12"}
AWAY = refusal(grpc.StatusCode.UNAVAILABLE, "DRAINING")


@pytest.fixture
async def divided(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """A gateway whose search is divided in two."""
    settings = replace(SETTINGS, search_shards=2, budgets={**SETTINGS.budgets, "calendar": 0.8})
    async with running_gateway(*upstreams, settings) as gateway:
        gateway.fakes.reset()
        yield gateway


async def asked(gateway: Gateway) -> tuple[int, Any]:
    """The calendar, or the problem."""
    async with gateway.client.get("/v1/fare-calendar", params=QUERY) as response:
        return response.status, await response.json()


def in_turn(*answers: Any) -> Any:
    """An answer for each of the calls of one question."""
    left = list(answers)

    def next_one(request: Any) -> Any:
        answer = left.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    return next_one


async def test_each_day_has_its_lowest_price(gateway: Gateway) -> None:
    """A month, its days in their order, and which of them nothing is known of."""
    gateway.fakes.search.answers["SearchFareCalendar"] = examples.calendar(1, 2)

    status, body = await asked(gateway)
    (request,) = gateway.fakes.search.requests

    assert status == 200
    assert body == {
        "month": "2026-12",
        "days": [
            {"date": "2026-12-01", "per_passenger": {"currency": "USD", "amount": "101.00"}},
            {"date": "2026-12-02", "per_passenger": {"currency": "USD", "amount": "102.00"}},
        ],
        "basis": "live",
        "unreachable": ["2026-12-03"],
    }
    assert (request.query.departure_date.year, request.query.departure_date.month) == (2026, 12)


async def test_the_parts_of_search_are_put_together(divided: Gateway) -> None:
    """Each part knows its days and not the others'; together they know the month."""
    divided.fakes.search.answers["SearchFareCalendar"] = in_turn(
        examples.calendar(1, 4, unreachable=(2, 3)), examples.calendar(2, 3, unreachable=(1, 4))
    )

    status, body = await asked(divided)

    assert status == 200
    assert [day["date"][-2:] for day in body["days"]] == ["01", "02", "03", "04"]
    assert "unreachable" not in body


@pytest.mark.parametrize("part", [AWAY, forever], ids=["away", "hangs"])
async def test_a_part_that_does_not_answer_leaves_its_days_out(divided: Gateway, part: Any) -> None:
    """What the other parts know goes out in time, and says what is not there."""
    divided.fakes.search.answers["SearchFareCalendar"] = in_turn(
        examples.calendar(1, unreachable=(2, 3)), part
    )

    status, body = await asked(divided)

    assert status == 200
    assert [day["date"] for day in body["days"]] == ["2026-12-01"]
    assert body["unreachable"] == ["2026-12-02", "2026-12-03"]


async def test_without_any_part_there_is_no_answer(divided: Gateway) -> None:
    """Nothing known at all is not an empty month."""
    divided.fakes.search.answers["SearchFareCalendar"] = in_turn(AWAY, AWAY)

    status, problem = await asked(divided)

    assert (status, problem["code"]) == (503, "UPSTREAM_UNAVAILABLE")


async def test_a_wrong_question_is_wrong_for_every_part(divided: Gateway) -> None:
    """An airport that one part does not know is no partial answer; and the month is named."""
    wrong = refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "DATE_OUT_OF_RANGE",
        violations=[
            Violation(field="query.departure_date", reason="DATE_OUT_OF_RANGE", description="Past.")
        ],
    )
    divided.fakes.search.answers["SearchFareCalendar"] = in_turn(examples.calendar(1), wrong)

    status, problem = await asked(divided)

    assert (status, problem["code"]) == (400, "DATE_OUT_OF_RANGE")
    assert problem["errors"][0]["field"] == "month"


async def test_a_position_is_one_that_all_parts_have_reached(divided: Gateway) -> None:
    """Of two parts that are not equally far, the answer is as far as the one behind."""
    ahead, behind = examples.calendar(1), examples.calendar(2)
    ahead.positions[0].cursor.seq += 5
    divided.fakes.search.answers["SearchFareCalendar"] = in_turn(ahead, behind)
    async with divided.client.get("/v1/fare-calendar", params=QUERY) as response:
        position = response.headers["Search-Position"]
    divided.fakes.search.answers["SearchFareCalendar"] = behind
    async with divided.client.get("/v1/fare-calendar", params=QUERY) as response:
        of_one = response.headers["Search-Position"]

    assert position == of_one


@pytest.mark.parametrize("month", ["2026-13", "2026", "december", "2026-12-01", "0000-01"])
async def test_a_month_is_a_year_and_a_month(gateway: Gateway, month: str) -> None:
    """What is no month is 400."""
    async with gateway.client.get("/v1/fare-calendar", params=QUERY | {"month": month}) as response:
        problem = await response.json()

    assert response.status == 400
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [("month", "MALFORMED")]


async def test_a_month_without_flights_is_empty(gateway: Gateway) -> None:
    """A month in which nothing is sold has no days."""
    gateway.fakes.search.answers["SearchFareCalendar"] = SearchFareCalendarResponse()

    status, body = await asked(gateway)

    assert status == 200
    assert body["days"] == []
