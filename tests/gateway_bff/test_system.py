import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consulmesh import ConfigError
from consulmesh.context import within
from consulmesh.testing import channel_to, running
from flights.search.v1.search_pb2 import SearchAirportsResponse
from gateway_bff.readiness import Readiness
from gateway_bff.server import listening
from gateway_bff.settings import BUDGETS, Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes


async def test_a_process_that_answers_is_live(gateway: Gateway) -> None:
    """Liveness asks nobody else."""
    async with gateway.client.get("/livez") as response:
        body = await response.json()

    assert (response.status, body) == (200, {"status": "live"})


async def test_a_gateway_is_ready_when_search_answers(gateway: Gateway) -> None:
    """Readiness is search's health, asked through the mesh."""
    async with gateway.client.get("/readyz") as response:
        body = await response.json()

    assert (response.status, body) == (200, {"status": "ready"})


@pytest.fixture
async def warming() -> AsyncIterator[Readiness]:
    """Readiness over a search that is not ready itself."""
    async with running(Fakes().add_to) as (server, port), channel_to(port) as channel:
        await server.set_serving(serving=False)
        yield Readiness(channel)


async def test_a_search_that_is_not_serving_is_not_reachable(warming: Readiness) -> None:
    """A search that still loads is as good as none."""
    with within(1):
        reachable = await warming()

    assert not reachable


async def test_a_gateway_without_search_is_not_ready(upstreams: tuple[Upstreams, Fakes]) -> None:
    """Without search requests should go elsewhere: 503 with when to ask again."""

    async def nobody() -> bool:
        return False

    async with (
        running_gateway(replace(upstreams[0], is_reachable=nobody), upstreams[1]) as gateway,
        gateway.client.get("/readyz") as response,
    ):
        problem = await response.json()

    assert (response.status, problem["code"]) == (503, "NOT_READY")
    assert response.headers["Retry-After"] == "1"


async def test_a_gateway_that_stops_is_not_ready_and_answers(
    upstreams: tuple[Upstreams, Fakes],
) -> None:
    """While it drains a gateway says so to its checks, and serves whoever still comes."""
    upstreams[1].reset()
    upstreams[1].search.answers["SearchAirports"] = SearchAirportsResponse()

    async with running_gateway(*upstreams) as gateway:
        gateway.app.state.draining = True
        async with gateway.client.get("/readyz") as ready:
            problem = await ready.json()
        async with gateway.client.get("/v1/airports?q=x") as response:
            await response.read()

    assert (ready.status, problem["code"]) == (503, "SHUTTING_DOWN")
    assert response.status == 200


async def test_requests_that_run_are_finished_when_the_server_stops(
    upstreams: tuple[Upstreams, Fakes], gateway: Gateway
) -> None:
    """Stopping waits for the answers that are under way."""
    goes_on = asyncio.Event()

    async def later(_request: object) -> SearchAirportsResponse:
        await goes_on.wait()
        return SearchAirportsResponse()

    gateway.fakes.search.answers["SearchAirports"] = later
    async with running_gateway(*upstreams) as stopping:
        url = f"http://127.0.0.1:{stopping.port}/v1/airports?q=x"
        request = asyncio.create_task(gateway.client.get(url))
        await gateway.fakes.search.started.wait()
        asyncio.get_running_loop().call_later(0.2, goes_on.set)
    async with await request as response:
        body = await response.json()

    assert response.status == 200
    assert body == {"airports": []}


async def test_metrics_have_the_names_of_the_conventions(gateway: Gateway) -> None:
    """Requests are counted by method, route template and status, never by path."""
    async with gateway.client.get("/v1/quotes/secret") as response:
        await response.read()
    async with gateway.client.request("PROPFIND", "/v1/coffee/secret") as response:
        await response.read()
    async with gateway.client.get("/metrics") as response:
        text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    duration = families["http_server_request_duration_seconds"]
    seen = [sample.labels for sample in duration.samples if sample.name.endswith("_count")]

    assert response.content_type == "text/plain"
    assert {
        "http_request_method": "GET",
        "http_route": "/v1/quotes/{quote_id}",
        "http_response_status_code": "404",
    } in seen
    assert {
        "http_request_method": "_OTHER",
        "http_route": "",
        "http_response_status_code": "404",
    } in seen
    assert "http_server_active_requests" in families
    assert "secret" not in text


async def test_a_port_that_is_taken_is_named(gateway: Gateway) -> None:
    """A port that somebody else has is a plain message, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"MESH_PORT: 127.0.0.1:{port}: Address already"):
            async with listening(
                gateway.app,
                host="127.0.0.1",
                port=port,
                settings=SETTINGS,
                grace=timedelta(seconds=1),
            ):
                pass


def test_budgets_come_from_one_table() -> None:
    """A variable of the environment changes some budgets and leaves the others."""
    settings = Settings.from_env({"MESH_ROUTE_BUDGETS": '{"quote": 0.8, "search": 3}'})

    assert settings.budgets == {**BUDGETS, "quote": 0.8, "search": 3.0}
    assert Settings.from_env({}).budgets == BUDGETS


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_shards_is_refused(text: str) -> None:
    """By the name of the variable; without it there is one."""
    assert Settings.from_env({"SEARCH_SHARDS": " "}).search_shards == 1
    with pytest.raises(ConfigError, match="SEARCH_SHARDS"):
        Settings.from_env({"SEARCH_SHARDS": text})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"coffee": 1}', '{"quote": "1"}', '{"quote": 0}', '{"quote": true}']
)
def test_a_wrong_table_is_refused(text: str) -> None:
    """Whatever is not names of routes and seconds stops the start, and the variable is named."""
    with pytest.raises(ConfigError, match="MESH_ROUTE_BUDGETS"):
        Settings.from_env({"MESH_ROUTE_BUDGETS": text})
