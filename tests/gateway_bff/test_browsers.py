"""What browsers are told: origins whose scripts may ask, and headers that keep answers safe."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import aiohttp
import grpc
import pytest

from consulmesh import ConfigError
from flights.pricing.v1.pricing_pb2 import GetQuoteResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse
from gateway_bff.quotas import Limit
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway, running_gateway
from tests.gateway_bff.fakes import Fakes, refusal
from tests.gateway_bff.test_search import QUERY

ORIGIN: Final = "https://app.example.org"
QUOTE: Final = f"/v1/quotes/{examples.QUOTE}"
DATA: Final = "default-src 'none'; frame-ancestors 'none'"


@pytest.fixture
async def shared(upstreams: tuple[Upstreams, Fakes]) -> AsyncIterator[Gateway]:
    """A gateway for the scripts of one origin, which may ask four times an hour."""
    upstreams[1].reset()
    settings = replace(
        SETTINGS, cors_origins=(ORIGIN,), limits={"requests": Limit.parse("4/hour burst 4")}
    )
    async with running_gateway(*upstreams, settings) as gateway:
        yield gateway


async def asked(
    gateway: Gateway, path: str, method: str = "GET", **headers: str
) -> aiohttp.ClientResponse:
    """The answer, read."""
    async with gateway.client.request(method, path, headers=headers) as response:
        await response.read()
        return response


def preflight(method: str, *headers: str, origin: str = ORIGIN) -> dict[str, str]:
    """What a browser asks before a script may."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": ", ".join(headers),
    }


async def test_a_script_may_book(shared: Gateway) -> None:
    """With its token, its key and a body of JSON; the browser's own credentials are never asked."""
    said = await asked(
        shared,
        "/v1/bookings",
        "OPTIONS",
        **preflight("POST", "authorization", "content-type", "idempotency-key", "prefer"),
    )
    allowed = said.headers["Access-Control-Allow-Headers"].split(", ")

    assert said.status == 200
    assert said.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in said.headers["Access-Control-Allow-Methods"].split(", ")
    assert {"Min-Position", "If-None-Match", "Last-Event-ID", "traceparent"} < set(allowed)
    assert "Access-Control-Allow-Credentials" not in said.headers
    assert "Origin" in said.headers["Vary"]
    assert "X-Request-Id" in said.headers


@pytest.mark.parametrize(
    "headers",
    [
        preflight("POST", origin="https://evil.example"),
        preflight("DELETE"),
        preflight("POST", "X-Mesh-Criticality"),
    ],
    ids=["origin", "method", "header"],
)
async def test_what_a_script_may_not_is_told_before(
    shared: Gateway, headers: dict[str, str]
) -> None:
    """Another origin, method or header is refused where the browser asks."""
    said = await asked(shared, "/v1/bookings", "OPTIONS", **headers)

    assert said.status == 400


async def test_a_script_sees_why_it_is_refused(shared: Gateway) -> None:
    """Problems carry the headers too: of an upstream, of a crash, and of the rate limit."""
    shared.fakes.pricing.answers["GetQuote"] = refusal(grpc.StatusCode.UNAVAILABLE, "AWAY")
    away = await asked(shared, QUOTE, Origin=ORIGIN)
    broken = examples.quote()
    broken.expire_time.seconds = 2**62  # no calendar has this day
    shared.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=broken)
    crashed = await asked(shared, QUOTE, Origin=ORIGIN)
    missing = await asked(shared, "/v1/nothing", Origin=ORIGIN)
    await asked(shared, QUOTE)
    limited = await asked(shared, QUOTE, Origin=ORIGIN)
    said = [away, crashed, missing, limited]

    assert [each.status for each in said] == [503, 500, 404, 429]
    assert {each.headers["Access-Control-Allow-Origin"] for each in said} == {ORIGIN}
    exposed = limited.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"} < set(exposed)
    assert {"RateLimit", "Retry-After", "X-Request-Id"} <= limited.headers.keys()


async def test_caches_tell_origins_apart(shared: Gateway) -> None:
    """An answer varies by the origin too, and another origin is not let in."""
    shared.fakes.search.answers["SearchAirports"] = SearchAirportsResponse()
    said = await asked(shared, "/v1/airports?q=x", Origin=ORIGIN)
    other = await asked(shared, "/v1/airports?q=x", Origin="https://evil.example")

    assert said.headers["Vary"] == other.headers["Vary"] == "Accept-Encoding, Origin"
    assert "ETag" in said.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_any_origin_gets_no_credentials(upstreams: tuple[Upstreams, Fakes]) -> None:
    """With `*` everybody's scripts may ask, as nobody."""
    async with running_gateway(*upstreams, replace(SETTINGS, cors_origins=("*",))) as gateway:
        said = await asked(gateway, "/livez", Origin=ORIGIN)
        before = await asked(gateway, "/v1/quotes", "OPTIONS", **preflight("POST", "content-type"))

    assert said.headers["Access-Control-Allow-Origin"] == "*"
    assert before.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in {*said.headers, *before.headers}


async def test_no_origin_is_let_in_by_default(gateway: Gateway) -> None:
    """Without configuration there is nothing of it, and OPTIONS lists methods as ever."""
    said = await asked(gateway, "/livez", Origin=ORIGIN)
    before = await asked(gateway, "/v1/quotes", "OPTIONS", **preflight("POST"))

    assert not any(name.startswith("Access-Control") for name in said.headers)
    assert (before.status, before.headers["Allow"]) == (204, "OPTIONS, POST")


@pytest.mark.parametrize(
    "text", ["app.example.org", "https://a.example/", "*, https://a.example", "null", "https://*.a"]
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    """Browsers would never send it, so the start stops."""
    with pytest.raises(ConfigError, match="MESH_CORS_ORIGINS"):
        Settings.from_env({"MESH_CORS_ORIGINS": text})


def test_origins_stand_side_by_side() -> None:
    """By commas; none without the variable."""
    text = f"{ORIGIN}, http://localhost:5173,http://[::1]:80"

    assert Settings.from_env({"MESH_CORS_ORIGINS": text}).cors_origins == (
        ORIGIN,
        "http://localhost:5173",
        "http://[::1]:80",
    )
    assert Settings.from_env({}).cors_origins == ()


def guards(headers: Mapping[str, str]) -> list[str | None]:
    """The headers that say what may be done with an answer."""
    names = (
        "X-Content-Type-Options",
        "Referrer-Policy",
        "Cross-Origin-Resource-Policy",
        "Content-Security-Policy",
    )
    return [headers.get(name) for name in names]


@pytest.mark.parametrize(
    "path", ["/livez", "/metrics", "/openapi.json", "/v1/nothing", "/v1/airports", QUOTE]
)
async def test_every_answer_is_only_data(gateway: Gateway, path: str) -> None:
    """Also a problem and a crash; nothing is said of TLS where there is none."""
    broken = examples.quote()
    broken.expire_time.seconds = 2**62
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=broken)
    said = await asked(gateway, path)

    assert guards(said.headers) == ["nosniff", "no-referrer", "same-origin", DATA]
    assert "Strict-Transport-Security" not in said.headers


async def test_an_event_stream_is_only_data(gateway: Gateway) -> None:
    """As any answer."""
    gateway.fakes.search.answers["StreamItineraries"] = []
    async with gateway.client.get(
        "/v1/itineraries", params=QUERY, headers={"Accept": "text/event-stream"}
    ) as response:
        await response.read()

    assert response.content_type == "text/event-stream"
    assert guards(response.headers) == ["nosniff", "no-referrer", "same-origin", DATA]


async def test_the_reference_loads_what_it_needs_and_no_more(gateway: Gateway) -> None:
    """Every script and style of the page is allowed by its policy, and no inline script is but it.

    What the page is made of comes from the framework: an update that changes it fails here.
    """
    async with gateway.client.get("/docs") as response:
        page = await response.text()
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    loaded = re.findall(r'<(script|link)[^>]* (?:src|href)="([^"]*)"', page)
    (inline,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = b64encode(sha256(inline.encode()).digest()).decode()

    assert policy["default-src"] == "'none'"
    assert len(loaded) == 3
    for kind, url in loaded:
        allowed = policy["script-src" if kind == "script" else "style-src"].split()
        assert url == "data:," or ("'self'" in allowed and url.startswith("/docs/static/"))
    assert f"'sha256-{digest}'" in policy["script-src"].split()
    assert "'unsafe-inline'" not in policy["script-src"]
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize(
    ("settings", "headers", "said"),
    [
        ({}, {"X-Forwarded-Proto": "https"}, None),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-Proto": "https"}, "max-age=31536000"),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-Proto": "http"}, None),
        ({"trusted_proxies": "10.0.0.1"}, {"X-Forwarded-Proto": "https"}, None),
        ({"hsts": "max-age=60; includeSubDomains"}, {}, "max-age=60; includeSubDomains"),
    ],
    ids=["nobody is trusted", "trusted", "trusted, no TLS", "not trusted", "configured"],
)
async def test_browsers_are_kept_to_tls_where_there_is_some(
    upstreams: tuple[Upstreams, Fakes],
    settings: dict[str, Any],
    headers: dict[str, str],
    said: str | None,
) -> None:
    """By the word of a proxy that is trusted, or of who runs the gateway; by no client's."""
    async with running_gateway(*upstreams, replace(SETTINGS, **settings)) as gateway:
        answer = await asked(gateway, "/livez", **headers)

    assert answer.headers.get("Strict-Transport-Security") == said


@pytest.mark.parametrize("text", ["31536000", "max-age=-1", "max-age=1, preload", "on"])
def test_a_wrong_word_about_tls_is_refused(text: str) -> None:
    """By the name of the variable."""
    with pytest.raises(ConfigError, match="MESH_HSTS"):
        Settings.from_env({"MESH_HSTS": text})


async def test_what_never_became_a_request_is_only_data_too(gateway: Gateway) -> None:
    """A problem that the HTTP server itself gives has the headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"nonsense\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()

    assert head.startswith("HTTP/1.1 400 ")
    assert f"content-security-policy: {DATA}\r\n" in head
    assert "x-content-type-options: nosniff\r\n" in head
