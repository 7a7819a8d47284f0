"""The fare calendar: what a journey costs on each day of a month.

Where search is divided by days, every part is asked for its own.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Sequence
from typing import Annotated, Final

import grpc
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from consulmesh.context import within
from flights.search.v1.search_pb2 import SearchFareCalendarRequest, SearchFareCalendarResponse
from gateway_bff import freshness, openapi, schemas, searching, shards, translate
from gateway_bff.openapi import problems
from gateway_bff.parameters import documented, parameters
from gateway_bff.reply import TheSettings, TheUpstreams, revalidated
from gateway_bff.requests import CalendarParameters
from gateway_bff.route import CalendarRoute

_NAME: Final = "calendar"
_OF_A_PART: Final = 0.75
"""Of the budget: what a part that is asked beside others has, so that theirs can still go out."""
_AWAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)

router = APIRouter(route_class=CalendarRoute, tags=["search"])


@router.get(
    "/v1/fare-calendar",
    name=_NAME,
    operation_id="getFareCalendar",
    summary="The lowest price of each day of a month",
    responses={**openapi.revalidated(schemas.FareCalendar, searching.HEADERS), **problems()},
    openapi_extra=documented(CalendarParameters, *searching.REQUEST_HEADERS),
)
async def fare_calendar(
    request: Request,
    asked: Annotated[CalendarParameters, Depends(parameters(CalendarParameters))],
    upstreams: TheUpstreams,
    settings: TheSettings,
) -> Response:
    """Show the lowest price for one passenger on each day on which something is sold."""
    question = SearchFareCalendarRequest(
        query=searching.query(asked, dt.date.fromisoformat(f"{asked.month}-01")),
        min_positions=searching.min_positions(request),
    )
    every = shards.every(settings.search_shards)
    with within(settings.budgets[_NAME] * (_OF_A_PART if len(every) > 1 else 1.0)):
        answers = await _those_there(
            [upstreams.search.SearchFareCalendar(question, metadata=each) for each in every]
        )
    positions = freshness.oldest(answer.positions for answer in answers)
    body = translate.fare_calendar(asked.month, answers)
    return revalidated(request, body, freshness.headers(positions))


async def _those_there(
    calls: Sequence[Awaitable[SearchFareCalendarResponse]],
) -> list[SearchFareCalendarResponse]:
    """The answers of the parts that are there; raises where none is, or the question is wrong."""
    answers: list[SearchFareCalendarResponse] = []
    away: list[grpc.aio.AioRpcError] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, grpc.aio.AioRpcError) and result.code() in _AWAY:
            away.append(result)
        elif isinstance(result, BaseException):
            raise result
        else:
            answers.append(result)
    if not answers:
        raise away[0]
    return answers
