"""A careful client against a gateway that answers as it is told."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.checker import Recorder, read_file
from bench.recorded_api import RecordedApi, User

ANN = User("ann", "a-token")
BOOKING = {
    "booking_id": "bkg_1",
    "status": "confirmed",
    "reference": "234567",
    "quote_id": "quo_1",
    "segments": [],
    "passengers": [{"given_name": "Ann", "family_name": "Lee"}],
    "contact": {"email": "ann@example.org"},
    "total": {"currency": "USD", "amount": "10.00"},
}
NAMES = [("Ann", "Lee")]


@dataclass
class Gateway:
    """Answers by the next of `statuses`, the last one for ever. State: the keys it was sent."""

    statuses: Sequence[int]
    keys: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """One answer."""
        status = self.statuses[min(len(self.keys), len(self.statuses) - 1)]
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        if status == 409:
            return web.json_response(
                {"code": "SEATS_UNAVAILABLE", "booking_id": "bkg_1"}, status=409
            )
        if status >= 400:
            return web.json_response({"code": f"CODE_{status}"}, status=status)
        return web.json_response(BOOKING, status=status)


@dataclass
class Client:
    """The client, the gateway it asks, and what it writes down."""

    gateway: Gateway
    api: RecordedApi
    file: Path

    @property
    def phases(self) -> list[str]:
        """What became of each attempt."""
        lines: list[dict[str, Any]] = [
            json.loads(one) for one in self.file.read_text().splitlines()
        ]
        return [line["phase"] for line in lines if line["phase"] != "invoke"]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client whose gateway answers 201."""
    gateway = Gateway([201])
    app = web.Application()
    app.router.add_route("*", "/v1/{path:.*}", gateway.handle)
    file = tmp_path / "history.jsonl"
    with Recorder.open(file) as recorder:
        async with TestServer(app) as server, aiohttp.ClientSession() as http:
            api = RecordedApi(http, str(server.make_url("")), recorder, pauses=(0, 0))
            yield Client(gateway, api, file)


async def test_a_booking_is_asked_for_again_with_its_key(client: Client) -> None:
    """An unknown outcome is repeated with the same key until there is an answer."""
    client.gateway.statuses = [503, 504, 201]
    booking = await client.api.book("p", ANN, "key", "quo_1", NAMES)

    assert booking["status"] == "confirmed"
    assert client.gateway.keys == ["key"] * 3
    assert client.phases == ["info", "info", "ok"]
    assert (client.api.tally.raw_failed, client.api.tally.calls_failed) == (2, 0)


async def test_nobody_asks_more_than_three_times(client: Client) -> None:
    """After three attempts the outcome stays unknown, and the call has failed."""
    client.gateway.statuses = [503]
    booking = await client.api.book("p", ANN, "key", "quo_1", NAMES)

    assert booking == {}
    assert client.phases == ["info"] * 3
    assert client.api.tally.calls_failed == 1


async def test_repetitions_are_a_tenth_of_the_calls(client: Client) -> None:
    """When everything fails, the burst is spent and then one call in ten is repeated."""
    client.gateway.statuses = [503]
    for number in range(100):
        await client.api.get("p", ANN, f"bkg_{number}")

    assert client.api.tally.calls == 100
    assert 115 <= client.api.tally.raw <= 120


async def test_a_refusal_is_an_answer(client: Client) -> None:
    """A rejected booking is `ok`, a request that was not taken `fail`; neither is repeated."""
    client.gateway.statuses = [409, 422]
    rejected = await client.api.book("p", ANN, "one", "quo_1", NAMES)
    refused = await client.api.book("p", ANN, "two", "quo_1", NAMES)

    assert rejected == {"booking_id": "bkg_1", "status": "rejected"}
    assert refused == {}
    assert client.phases == ["ok", "fail"]
    assert client.api.tally.unexpected == {"422 CODE_422": 1}


async def test_what_was_told_can_be_read_again(client: Client) -> None:
    """The history has the request, the answer, and calls that never ended."""
    await client.api.book("p", ANN, "key", "quo_1", NAMES)
    with client.file.open("a") as lines:
        open_ended = {"t": 0, "process": "q", "op": "get", "phase": "invoke", "booking_id": "bkg_2"}
        lines.write(json.dumps(open_ended) + "\n" + '{"t": 0, "proc')
    booked, unanswered = read_file(client.file).calls

    assert booked.told is not None
    assert booked.request is not None
    assert (booked.user, booked.key, booked.phase) == ("ann", "key", "ok")
    assert booked.request.passengers == (("Ann", "Lee"),)
    assert (str(booked.told.total), booked.told.email) == ("10.00", "ann@example.org")
    assert (unanswered.op, unanswered.phase, unanswered.told) == ("get", "info", None)
