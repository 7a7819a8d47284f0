"""The public API as a careful client uses it, with a record of what it asked and was told.

Retries: at most three attempts, with the same key, within one deadline, and no more than a tenth
of the calls on the whole.
"""

import asyncio
import itertools
import math
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from bench.checker import Recorder

DEADLINE: Final = 10.0  # seconds for a call with all its attempts
PAUSES: Final = (0.1, 0.2)  # seconds before the second and the third attempt
_BUDGET: Final = 0.1  # repetitions per call
_BURST: Final = 10.0  # repetitions that may come at once


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; status 0: nothing did."""

    status: int
    body: Mapping[str, Any]

    @property
    def unknown(self) -> bool:
        """Whether it may have had an effect or not: worth another attempt."""
        return self.status in {0, 429} or self.status >= 500

    @property
    def name(self) -> str:
        """Status and code."""
        return f"{self.status} {self.body.get('code', '')}".rstrip()


@dataclass(slots=True)
class Tally:
    """How calls went: `raw` are attempts, `calls` are those that a user waits for.

    `unexpected` are answers that no client should get, `settled` bookings by state.
    """

    raw: int = 0
    raw_failed: int = 0
    calls: int = 0
    calls_failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)

    def count_attempt(self, answer: Answer) -> None:
        """One attempt is over."""
        self.raw += 1
        if answer.unknown:
            self.raw_failed += 1
            self.failures[answer.name] += 1

    def count(self, answer: Answer, expected: frozenset[int]) -> None:
        """A call is over, with all its attempts."""
        self.calls += 1
        if answer.unknown:
            self.calls_failed += 1
        elif answer.status not in expected:
            self.unexpected[answer.name] += 1

    def __str__(self) -> str:
        raw = self.raw_failed / max(1, self.raw)
        retried = self.calls_failed / max(1, self.calls)
        settled = ", ".join(f"{count} {state}" for state, count in sorted(self.settled.items()))
        return (
            f"{self.calls} calls, errors {raw:.3%} raw, {retried:.3%} with retry; "
            f"{settled or 'nothing booked'}"
        )


@dataclass(frozen=True, slots=True)
class User:
    """A user and the header that says so."""

    name: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """Whose call it is."""
        return {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A request: who makes it, what the history says of it, and which statuses are an answer."""

    process: str
    op: str
    method: str
    path: str
    expected: frozenset[int]
    headers: Mapping[str, str]
    said: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


class RecordedApi:
    """Calls of many users, each of whom waits as long as `patience` says, in seconds.

    State: the tally, and what is left of the budget of repetitions.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        gateway: str,
        history: Recorder,
        pauses: Sequence[float] = PAUSES,
        patience: Callable[[], float] = lambda: DEADLINE,
    ) -> None:
        self.tally = Tally()
        self._pauses = pauses
        self._patience = patience
        self._http = http
        self._url = f"{gateway}/v1"
        self._history = history
        self._budget = _BURST

    async def quote(self, process: str, itinerary_id: str, passengers: int) -> Mapping[str, Any]:
        """A quote; empty where there is none."""
        call = _Call(
            process=process,
            op="quote",
            method="POST",
            path="quotes",
            expected=frozenset({201, 409}),
            headers={"Idempotency-Key": uuid.uuid4().hex},
            body={"itinerary_id": itinerary_id, "passengers": passengers},
        )
        return quote_told(await self._insist(call))

    async def book(
        self, process: str, user: User, key: str, quote_id: str, names: Sequence[tuple[str, str]]
    ) -> Mapping[str, Any]:
        """A booking as the API told of it at last; empty where nobody knows."""
        email = f"{user.name}@example.org"
        said = {"user": user.name, "key": key, "quote_id": quote_id, "passengers": names}
        call = _Call(
            process=process,
            op="book",
            method="POST",
            path="bookings",
            expected=frozenset({201, 202, 409}),
            headers=user.headers | {"Idempotency-Key": key},
            said=said | {"email": email},
            body={
                "quote_id": quote_id,
                "passengers": [{"given_name": one, "family_name": two} for one, two in names],
                "contact": {"email": email},
            },
        )
        return booking_told(await self._insist(call))

    async def get(self, process: str, user: User, booking_id: str) -> Mapping[str, Any]:
        """A booking as it is; empty where nobody says."""
        call = _Call(
            process=process,
            op="get",
            method="GET",
            path=f"bookings/{booking_id}",
            expected=frozenset({200}),
            headers=user.headers,
            said={"user": user.name, "booking_id": booking_id},
        )
        return booking_told(await self._insist(call))

    async def cancel(self, process: str, user: User, booking_id: str) -> Mapping[str, Any]:
        """A booking, given back; empty where nobody knows."""
        call = _Call(
            process=process,
            op="cancel",
            method="POST",
            path=f"bookings/{booking_id}/cancel",
            expected=frozenset({200}),
            headers=user.headers | {"Idempotency-Key": uuid.uuid4().hex},
            said={"user": user.name, "booking_id": booking_id},
        )
        return booking_told(await self._insist(call))

    async def _insist(self, call: _Call) -> Answer:
        """Ask until there is an answer, as often and as long as a client may."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._patience()
        pauses = itertools.chain(self._pauses, [math.inf])
        self._budget = min(_BURST, self._budget + _BUDGET)
        while (answer := await self._attempt(call, limit)).unknown:
            pause = next(pauses)
            if self._budget < 1 or loop.time() + pause >= limit:
                break
            self._budget -= 1
            await asyncio.sleep(pause)
        self.tally.count(answer, call.expected)
        return answer

    async def _attempt(self, call: _Call, limit: float) -> Answer:
        self._history.invoke(call.process, call.op, **call.said)
        answer = await self._ask(call, limit)
        self.tally.count_attempt(answer)
        if answer.unknown:
            self._history.info(call.process, call.op, status=answer.status)
        elif quote := quote_told(answer):
            self._history.ok(call.process, call.op, quote=quote)
        elif booking := booking_told(answer):
            self._history.ok(call.process, call.op, booking=booking)
        else:
            self._history.fail(call.process, call.op, code=answer.body.get("code", ""))
        return answer

    async def _ask(self, call: _Call, limit: float) -> Answer:
        try:
            async with (
                asyncio.timeout_at(limit),
                self._http.request(
                    call.method,
                    f"{self._url}/{call.path}",
                    json=call.body,
                    headers=call.headers,
                ) as response,
            ):
                return Answer(response.status, await response.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Answer(0, {"code": type(error).__name__})


def booking_told(answer: Answer) -> dict[str, Any]:
    """What an answer says of a booking, as a history has it; empty where it says nothing."""
    body = answer.body
    if "booking_id" not in body:
        return {}
    if answer.status == 409:
        return {"booking_id": body["booking_id"], "status": "rejected"}
    booking = {
        "booking_id": body["booking_id"],
        "status": body["status"],
        "reference": body["reference"],
        "quote_id": body["quote_id"],
        "segments": _segments(body["segments"]),
        "passengers": [[one["given_name"], one["family_name"]] for one in body["passengers"]],
        "email": body["contact"]["email"],
    }
    return booking | ({"total": body["total"]["amount"]} if "total" in body else {})


def quote_told(answer: Answer) -> dict[str, Any]:
    """What an answer says of a quote, as a history has it; empty where it is none."""
    body = answer.body
    if answer.status != 201 or "expire_time" not in body:
        return {}
    return {
        "quote_id": body["quote_id"],
        "passengers": body["passengers"],
        "total": body["total"]["amount"],
        "segments": _segments(body["lines"]),
        "expire_time": body["expire_time"],
    }


def _segments(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [line["flight_id"], line["cabin"], line["fare"]["amount"], line["taxes"]["amount"]]
        for line in lines
    ]
