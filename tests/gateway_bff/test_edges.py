import asyncio
import io
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from consulmesh.context import Criticality
from consulmesh.logs import AccessRecord
from flights.pricing.v1.pricing_pb2 import GetQuoteResponse
from flights.search.v1.search_pb2 import SearchAirportsResponse, SearchItinerariesResponse
from gateway_bff.app import create_app
from gateway_bff.server import _bound, listening
from gateway_bff.upstreams import Upstreams
from tests.gateway_bff import examples
from tests.gateway_bff.conftest import SETTINGS, Gateway
from tests.gateway_bff.fakes import Fakes, refusal
from tests.gateway_bff.test_search import QUERY

AIRPORTS = "/v1/airports?q=jfk"
JSON = {"Content-Type": "application/json"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def airports(gateway: Gateway) -> Gateway:
    """A gateway that finds an airport."""
    gateway.fakes.search.answers["SearchAirports"] = SearchAirportsResponse(
        airports=[examples.airport()]
    )
    return gateway


async def raw(gateway: Gateway, *parts: bytes, pause: float = 0.0) -> tuple[int, dict[str, Any]]:
    """Status and problem that the server answers to these bytes, and then it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return int(head.split()[1]), json.loads(body)


async def test_a_request_gets_ids(airports: Gateway) -> None:
    """Every answer has a request id and a place in a trace, and no server's name."""
    async with airports.client.get(AIRPORTS) as response:
        await response.read()
    (context,) = airports.fakes.search.contexts

    assert response.headers["X-Request-Id"] == context.request_id
    assert response.headers["traceparent"].split("-")[1] == context.trace.trace_id
    assert "Server" not in response.headers


async def test_the_log_does_not_tell_what_gives_access(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line names the route, not the quote: whoever knows a quote's id may use it."""
    lines: list[AccessRecord] = []
    monkeypatch.setattr("gateway_bff.edge.access", lines.append)
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse()
    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        await response.read()
    async with gateway.client.get("/nowhere") as response:
        await response.read()

    assert [line.method for line in lines] == ["GET /v1/quotes/{quote_id}", "GET /nowhere"]


async def test_ids_of_the_client_travel(airports: Gateway) -> None:
    """The client's trace goes on, with spans of our own, and its request id is kept."""
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-Id": "mine-1"}

    async with airports.client.get(AIRPORTS, headers=headers) as response:
        await response.read()
    (context,) = airports.fakes.search.contexts

    assert context.trace.trace_id == TRACE
    assert context.request_id == "mine-1"
    assert response.headers["X-Request-Id"] == "mine-1"
    assert response.headers["traceparent"].split("-")[1] == TRACE
    assert "00f067aa0ba902b7" not in response.headers["traceparent"]


@pytest.mark.parametrize("request_id", ["x" * 129, "caf\u00e9", "a\tb"])
async def test_a_request_id_that_could_do_harm_is_replaced(
    airports: Gateway, request_id: str
) -> None:
    """Only a short, printable id is believed."""
    async with airports.client.get(AIRPORTS, headers={"X-Request-Id": request_id}) as response:
        await response.read()

    assert response.status == 200
    assert response.headers["X-Request-Id"] != request_id


async def test_a_client_cannot_make_itself_important(airports: Gateway) -> None:
    """How much a call matters and who makes it is decided here, whatever the client says."""
    headers = {"mesh-criticality": "critical_plus", "mesh-caller": "booking"}

    async with airports.client.get(AIRPORTS, headers=headers) as response:
        await response.read()
    (context,) = airports.fakes.search.contexts

    assert context.criticality is Criticality.SHEDDABLE_PLUS
    assert context.caller == "gateway-bff"


@pytest.mark.parametrize(
    ("path", "service", "method", "criticality"),
    [
        ("/v1/itineraries", "search", "SearchItineraries", Criticality.SHEDDABLE),
        (f"/v1/flights/{examples.FLIGHT}", "schedule", "GetFlight", Criticality.SHEDDABLE_PLUS),
        (f"/v1/quotes/{examples.QUOTE}", "pricing", "GetQuote", Criticality.CRITICAL),
        ("/v1/bookings", "booking", "ListBookings", Criticality.CRITICAL),
    ],
)
async def test_a_search_matters_less_than_a_booking(
    gateway: Gateway,
    bearer: Callable[..., dict[str, str]],
    path: str,
    service: str,
    method: str,
    criticality: Criticality,
) -> None:
    """Services that must refuse some calls are told by what their users are about to do."""
    upstream = getattr(gateway.fakes, service)
    upstream.answers[method] = refusal(grpc.StatusCode.NOT_FOUND, "NOTHING")
    params = QUERY if service == "search" else {}
    async with gateway.client.get(path, params=params, headers=bearer()) as response:
        await response.read()

    assert {context.criticality for context in upstream.contexts} == {criticality}


async def test_a_problem_names_its_trace(gateway: Gateway) -> None:
    """A problem has every member, the path, and the trace under which we can find it."""
    async with gateway.client.get("/v1/nothing") as response:
        problem = await response.json()

    assert response.status == 404
    assert response.content_type == "application/problem+json"
    assert problem == {
        "type": "https://flightmesh.dev/problems/not-found",
        "title": "There is nothing here",
        "status": 404,
        "detail": "There is nothing here.",
        "instance": "/v1/nothing",
        "code": "NOT_FOUND",
        "trace_id": response.headers["traceparent"].split("-")[1],
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "MALFORMED_JSON"),
        (b"\xff\xfe", 400, "MALFORMED_JSON"),
        (b'{"passengers": NaN}', 400, "MALFORMED_JSON"),
        (b'{"itinerary_id": "\\ud800"}', 400, "MALFORMED_JSON"),
        (b"[" * 10_000, 400, "MALFORMED_JSON"),
        (b'{"passengers": 1e999}', 400, "MALFORMED_JSON"),
        (b'{"itinerary_id": "x", "passengers": 99999999999999999999999}', 422, "OUT_OF_RANGE"),
        (b"null", 422, "INVALID"),
        (b"", 422, "REQUIRED"),
    ],
)
async def test_what_is_not_json_is_refused(
    gateway: Gateway, body: bytes, status: int, code: str
) -> None:
    """Bytes that are not JSON are 400; JSON of another kind is 422; never 500."""
    async with gateway.client.post("/v1/quotes", data=body, headers=JSON) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (status, "VALIDATION_FAILED")
    assert problem["errors"][0]["code"] == code


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=utf-8", 201),
        ("application/vnd.flightmesh+json", 201),
        ("APPLICATION/JSON", 201),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_a_body_must_be_json(gateway: Gateway, content_type: str, status: int) -> None:
    """Any other media type is 415."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    body = json.dumps({"itinerary_id": examples.ITINERARY}).encode()

    async with gateway.client.post(
        "/v1/quotes", data=body, headers={"Content-Type": content_type}
    ) as response:
        answer = await response.json()

    assert response.status == status
    assert status == 201 or answer["code"] == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.parametrize("size", [64 * 1024 + 1, 900 * 1024, 8 * 1024 * 1024])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_has_a_limit(gateway: Gateway, size: int, chunked: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """More than 64 KiB is 413, whether the length is said before or not, and readable as such."""

    async def parts() -> AsyncIterator[bytes]:
        yield b" " * size

    body = parts() if chunked else io.BytesIO(b" " * size)
    async with gateway.client.post("/v1/quotes", data=body, headers=JSON) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (413, "BODY_TOO_LARGE")
    assert gateway.fakes.pricing.requests == []


async def test_who_asks_before_sending_too_much_is_told(gateway: Gateway) -> None:
    """A client that waits for leave to send a body that is too large gets 413 instead of leave."""
    status, problem = await raw(
        gateway,
        b"POST /v1/quotes HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n"
        b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n",
    )

    assert (status, problem["code"]) == (413, "BODY_TOO_LARGE")


async def test_a_body_without_end_is_cut_off(impatient: Gateway) -> None:
    """A client that goes on sending after the answer is disconnected after a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def upload() -> None:
        while True:
            writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(upload(), 20)
    writer.close()
    reader.feed_eof()


def test_a_body_does_not_wait_for_the_acknowledgement_of_its_headers() -> None:
    """Nagle's algorithm is off on every connection, whatever event loop serves it."""
    with (
        _bound("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        delays = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0

    assert not delays


async def test_a_body_of_the_limit_is_read(gateway: Gateway) -> None:
    """64 KiB are allowed, in chunks too."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    body = json.dumps({"itinerary_id": examples.ITINERARY}).encode().ljust(64 * 1024)

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async with gateway.client.post("/v1/quotes", data=parts(), headers=JSON) as response:
        await response.read()

    assert response.status == 201


async def test_a_slow_body_is_cut_off(impatient: Gateway) -> None:
    """A body that does not arrive is 408."""
    status, problem = await raw(
        impatient, b"POST /v1/quotes HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"
    )

    assert (status, problem["code"]) == (408, "REQUEST_TIMEOUT")


async def test_slow_headers_are_cut_off(impatient: Gateway) -> None:
    """A request whose headers do not arrive is 408."""
    status, problem = await raw(impatient, b"GET /livez HTTP/1.1\r\nHost:")

    assert (status, problem["code"]) == (408, "REQUEST_TIMEOUT")


async def test_a_silent_connection_is_closed(impatient: Gateway) -> None:
    """A connection without a request is closed without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)

    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert said == b""


async def test_headers_have_a_limit(gateway: Gateway) -> None:
    """Headers that do not end are 431, before there is a request."""
    part = b"X-More: " + b"a" * 8_000 + b"\r\n"

    status, problem = await raw(
        gateway, b"GET /livez HTTP/1.1\r\nHost: x\r\n", *([part] * 10), pause=0.01
    )

    assert (status, problem["code"]) == (431, "HEADERS_TOO_LARGE")


@pytest.mark.parametrize("text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n"])
async def test_what_is_not_http_is_a_problem(gateway: Gateway, text: bytes) -> None:
    """Bytes that are no request are 400, in the shape of every problem."""
    status, problem = await raw(gateway, text)

    assert (status, problem["code"]) == (400, "VALIDATION_FAILED")


async def test_head_is_get_without_the_body(airports: Gateway) -> None:
    """HEAD has the headers of GET and nothing else."""
    async with airports.client.get(AIRPORTS) as get:
        body = await get.read()
    async with airports.client.head(AIRPORTS) as head:
        nothing = await head.read()

    assert head.status == 200
    assert head.headers["Content-Length"] == str(len(body))
    assert nothing == b""


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/itineraries", "GET, HEAD, OPTIONS"),
        ("/v1/quotes", "OPTIONS, POST"),
        ("/v1/bookings", "GET, HEAD, OPTIONS, POST"),
        (f"/v1/bookings/{examples.BOOKING}/cancel", "OPTIONS, POST"),
    ],
)
async def test_methods_of_a_resource(gateway: Gateway, path: str, allow: str) -> None:
    """OPTIONS lists every method of a path, and another one is 405 with the same list."""
    async with gateway.client.options(path) as options:
        await options.read()
    async with gateway.client.delete(path) as other:
        problem = await other.json()

    assert (options.status, options.headers["Allow"]) == (204, allow)
    assert (other.status, problem["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert other.headers["Allow"] == allow


@pytest.mark.parametrize("path", ["/v1/airports/", "/V1/airports", "/v1", "/", "/v1//airports"])
async def test_only_paths_that_exist_are_found(gateway: Gateway, path: str) -> None:
    """No path is guessed or redirected."""
    async with gateway.client.get(path, allow_redirects=False) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("GET", "/v1/airports/?q=jfk", "/v1/airports"),
        ("POST", "/v1/bookings//", "/v1/bookings"),
        ("GET", "/v1/coffee/", None),
    ],
)
async def test_a_slash_too_many_is_pointed_out(
    gateway: Gateway, method: str, path: str, hint: str | None
) -> None:
    """404 and no redirect, which would hide the mistake and send tokens and bodies twice."""
    async with gateway.client.request(method, path, allow_redirects=False) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (404, "NOT_FOUND")
    assert problem["detail"] == (
        f"There is nothing here. {hint} has no slash at its end."
        if hint
        else "There is nothing here."
    )


def post(*headers: bytes, body: bytes = b"{}") -> bytes:
    """A request for a quote with these headers, after which nothing comes."""
    lines = (b"POST /v1/quotes HTTP/1.1", b"Host: x", b"Connection: close", *headers)
    return b"\r\n".join([*lines, b"", body])


def get(target: bytes, *headers: bytes, host: bytes = b"Host: x\r\n") -> bytes:
    """A request for something, after which nothing comes."""
    lines = b"".join(each + b"\r\n" for each in (b"Connection: close", *headers))
    return b"GET " + target + b" HTTP/1.1\r\n" + host + lines + b"\r\n"


_JSON = b"Content-Type: application/json"
_CHUNKED = b"Transfer-Encoding: chunked"
_AIRPORTS = AIRPORTS.encode()
_BOOKINGS = b"/v1/bookings"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        pytest.param(post(b"Content-Length: 2", b"Content-Length: 2"), 400, "MALFORMED", id="2 CL"),
        pytest.param(post(b"Content-Length: 2, 2"), 400, "MALFORMED", id="list of CL"),
        pytest.param(post(b"Content-Length: -1"), 400, "MALFORMED", id="negative CL"),
        pytest.param(post(b"Content-Length: +2"), 400, "MALFORMED", id="CL with a sign"),
        pytest.param(post(b"Content-Length: " + b"9" * 30), 400, "MALFORMED", id="CL overflows"),
        pytest.param(post(b"Content-Length: 2", _CHUNKED), 400, "MALFORMED", id="CL and TE"),
        pytest.param(post(_CHUNKED, b"Content-Length: 2"), 400, "MALFORMED", id="TE and CL"),
        pytest.param(post(b"Transfer-Encoding: gzip"), 400, "MALFORMED", id="TE without chunks"),
        pytest.param(post(_CHUNKED, body=b"zz\r\n{}"), 400, "MALFORMED", id="no chunk size"),
        pytest.param(post(_CHUNKED, body=b"f" * 18), 400, "MALFORMED", id="chunk size overflows"),
        pytest.param(
            post(_JSON, b"Content-Encoding: gzip", b"Content-Length: 2"), 415, None, id="coded"
        ),
        pytest.param(
            post(
                _JSON,
                b"Idempotency-Key: aaaaaaaaaaaaaaaa",
                b"Idempotency-Key: bbbbbbbbbbbbbbbb",
                b"Content-Length: 2",
            ),
            400,
            "REPEATED",
            id="2 keys",
        ),
        pytest.param(
            post(_JSON, b"Content-Type: text/plain", b"Content-Length: 2"),
            400,
            "REPEATED",
            id="2 media types",
        ),
        pytest.param(
            get(_BOOKINGS, b"Authorization: Bearer a", b"Authorization: Bearer b"),
            400,
            "REPEATED",
            id="2 tokens",
        ),
        pytest.param(get(_AIRPORTS, b"Host: y"), 400, "REPEATED", id="2 hosts"),
        pytest.param(get(_AIRPORTS, host=b""), 400, "REQUIRED", id="no host"),
        pytest.param(get(_AIRPORTS, b"X-A: a\0b"), 400, "MALFORMED", id="NUL in a header"),
        pytest.param(get(_AIRPORTS, b"X-A: a\r\n b"), 400, "MALFORMED", id="folded header"),
        pytest.param(get(_AIRPORTS, b"X-A : a"), 400, "MALFORMED", id="space before a colon"),
        pytest.param(get(b"/v1/flights/%zz"), 404, None, id="path: no encoding"),
        pytest.param(get(b"/v1/flights/%ff%fe"), 404, None, id="path: no UTF-8"),
        pytest.param(get(b"/v1/flights/%ed%a0%80"), 404, None, id="path: surrogate"),
        pytest.param(get(b"/v1/flights/flt_%00"), 404, None, id="path: NUL"),
        pytest.param(get(b"/v1/fl\xe9"), 400, "MALFORMED", id="path: raw bytes"),
        pytest.param(get(b"/v1/fl\0"), 400, "MALFORMED", id="path: raw NUL"),
        pytest.param(get(b"/v1/airports?q=%zz"), 400, "MALFORMED", id="query: no encoding"),
        pytest.param(get(b"/v1/airports?q=%ff"), 400, "MALFORMED", id="query: no UTF-8"),
        pytest.param(get(b"/v1/airports?q=a%00"), 400, "MALFORMED", id="query: NUL"),
        pytest.param(get(b"/v1/airports?q=\xe9"), 400, "MALFORMED", id="query: raw bytes"),
        pytest.param(get(b"/v1/airports?q=" + b"a" * 8192), 414, None, id="query: too long"),
        pytest.param(get(b"http://x"), 400, "MALFORMED", id="absolute without a path"),
        pytest.param(get(b"http://x:999999/"), 400, "MALFORMED", id="no port"),
        pytest.param(get(_AIRPORTS, *[b"X-A: b"] * 101), 431, None, id="too many headers"),
        pytest.param(get(_AIRPORTS, b"X-A: " + b"a" * 65_536), 431, None, id="too large"),
        pytest.param(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED", id="CONNECT"),
        pytest.param(b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n", 400, "MALFORMED", id="2.0"),
        pytest.param(b"GET /livez\r\n\r\n", 400, "MALFORMED", id="0.9"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "MALFORMED", id="HTTP/2"),
        pytest.param(b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED", id="method"),
    ],
)
async def test_what_two_readers_could_read_in_two_ways_is_refused(
    airports: Gateway, text: bytes, status: int, code: str | None
) -> None:
    """A problem by its status, before anybody is asked: nothing is guessed, nothing crashes."""
    found, problem = await raw(airports, text)

    assert (found, problem["status"]) == (status, status)
    assert [error["code"] for error in problem.get("errors", ())] == ([code] if code else [])
    assert airports.fakes.search.requests == airports.fakes.pricing.requests == []


@pytest.mark.parametrize(
    "text",
    [
        get(b"http://elsewhere" + _AIRPORTS),
        get(b"/v1/airports?q=" + b"%C3%A9" * 30),
        get(_AIRPORTS, *[b"X-A: b"] * 90),
        b"GET " + _AIRPORTS + b" HTTP/1.0\r\n\r\n",
        get(_AIRPORTS, b"Content-Length: 5") + b"hello",
    ],
    ids=["absolute", "UTF-8", "many headers", "1.0 without a host", "with a body"],
)
async def test_what_is_unusual_but_right_is_answered(airports: Gateway, text: bytes) -> None:
    """Forms that a server has to take."""
    status, body = await raw(airports, text)

    assert status == 200
    assert body["airports"][0]["code"] == "JFK"


async def test_requests_may_come_before_their_answers(airports: Gateway) -> None:
    """Pipelined requests are answered one by one, in their order; after `close` none is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", airports.port)
    one, last = get(_AIRPORTS).replace(b"Connection: close\r\n", b""), get(b"/v1/nothing")
    writer.write(one + last + one)
    said = await asyncio.wait_for(reader.read(), 20)
    writer.close()

    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404"]
    assert len(airports.fakes.search.requests) == 1


async def test_who_asks_before_sending_is_given_leave(gateway: Gateway) -> None:
    """100 Continue, then the answer to what was sent."""
    gateway.fakes.pricing.answers["CreateQuote"] = examples.quote_created()
    body = json.dumps({"itinerary_id": examples.ITINERARY}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post(_JSON, b"Expect: 100-continue", b"Content-Length: %d" % len(body), body=b""))
    leave = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.write(body)
    said = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()

    assert leave == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert said.startswith(b"HTTP/1.1 201 ")


async def test_an_answer_is_not_longer_than_the_mistake(gateway: Gateway) -> None:
    """Of very many errors some are shown."""
    body = dict.fromkeys(map(str, range(5_000)), 0)
    async with gateway.client.post("/v1/quotes", json=body) as response:
        problem = await response.json()

    assert response.status == 422
    assert len(problem["errors"]) == 20


@pytest.mark.parametrize(
    ("code", "status", "public"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, "VALIDATION_FAILED"),
        (grpc.StatusCode.OUT_OF_RANGE, 400, "VALIDATION_FAILED"),
        (grpc.StatusCode.FAILED_PRECONDITION, 400, "FAILED_PRECONDITION"),
        (grpc.StatusCode.UNAUTHENTICATED, 401, "UNAUTHENTICATED"),
        (grpc.StatusCode.PERMISSION_DENIED, 403, "FORBIDDEN"),
        (grpc.StatusCode.NOT_FOUND, 404, "NOT_FOUND"),
        (grpc.StatusCode.ALREADY_EXISTS, 409, "CONFLICT"),
        (grpc.StatusCode.ABORTED, 409, "CONFLICT"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503, "OVERLOADED"),
        (grpc.StatusCode.INTERNAL, 500, "INTERNAL"),
        (grpc.StatusCode.UNKNOWN, 500, "INTERNAL"),
        (grpc.StatusCode.DATA_LOSS, 500, "INTERNAL"),
        (grpc.StatusCode.UNIMPLEMENTED, 501, "NOT_IMPLEMENTED"),
        (grpc.StatusCode.UNAVAILABLE, 503, "UPSTREAM_UNAVAILABLE"),
        (grpc.StatusCode.CANCELLED, 503, "UPSTREAM_UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "DEADLINE_EXCEEDED"),
    ],
)
async def test_every_status_has_its_problem(
    gateway: Gateway, code: grpc.StatusCode, status: int, public: str
) -> None:
    """A reason we have no name for is what its status code is; server errors keep their words."""
    gateway.fakes.pricing.answers["GetQuote"] = refusal(code, "SOMETHING_NEW", "db-7 said no.")

    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        problem = await response.json()

    assert (response.status, problem["status"], problem["code"]) == (status, status, public)
    assert ("db-7" in problem["detail"]) == (status < 500)


async def test_retry_after_is_what_the_service_says(gateway: Gateway) -> None:
    """RetryInfo becomes Retry-After, rounded up to seconds."""
    gateway.fakes.pricing.answers["GetQuote"] = refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after=timedelta(milliseconds=2300)
    )

    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        await response.read()

    assert response.status == 503
    assert response.headers["Retry-After"] == "3"


@pytest.mark.parametrize("reason", ["OVERLOADED", "DATABASE_BUSY"])
async def test_a_busy_service_is_503(gateway: Gateway, reason: str) -> None:
    """Overload is not the client's quota: 503 where the service says that it is busy."""
    gateway.fakes.pricing.answers["GetQuote"] = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)

    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (503, "OVERLOADED")
    assert response.headers["Retry-After"] == "1"


async def test_a_shard_that_is_not_asked_rightly_is_not_the_clients_fault(
    gateway: Gateway,
) -> None:
    """Where gateway and search disagree about the shards: 503, and nothing of the inside."""
    gateway.fakes.search.answers["SearchItineraries"] = refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "OTHER_SHARD"
    )

    asked = {"origin": "JFK", "destination": "LAX", "date": "2026-12-01"}
    async with gateway.client.get("/v1/itineraries", params=asked) as response:
        problem = await response.json()

    assert (response.status, problem["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert "shard" not in str(problem).lower()


async def test_an_upstream_that_is_away_says_nothing_of_the_inside(
    upstreams: tuple[Upstreams, Fakes], gateway: Gateway
) -> None:
    """What gRPC says of a connection that can't be made stays inside."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        away = type(upstreams[0].pricing)(channel)
        app = create_app(
            replace(upstreams[0], pricing=away), SETTINGS, registry=CollectorRegistry()
        )
        async with (
            listening(
                app, host="127.0.0.1", port=0, settings=SETTINGS, grace=timedelta(seconds=1)
            ) as port,
            gateway.client.get(f"http://127.0.0.1:{port}/v1/quotes/{examples.QUOTE}") as response,
        ):
            text = await response.text()

    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert "127.0.0.1" not in text
    assert "connect" not in text


async def test_a_defect_is_500_and_says_nothing(gateway: Gateway) -> None:
    """A crash of our own is 500 with a constant text, and the next request is served."""
    broken = examples.quote()
    broken.expire_time.seconds = 2**62  # no calendar has this day
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=broken)

    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as response:
        problem = await response.json()
    gateway.fakes.pricing.answers["GetQuote"] = GetQuoteResponse(quote=examples.quote())
    async with gateway.client.get(f"/v1/quotes/{examples.QUOTE}") as again:
        await again.read()

    assert (response.status, problem["code"]) == (500, "INTERNAL")
    assert problem["detail"] == "Something went wrong on our side."
    assert again.status == 200


async def test_an_empty_answer_of_search_is_no_defect(gateway: Gateway) -> None:
    """Nothing found is an empty page."""
    gateway.fakes.search.answers["SearchItineraries"] = SearchItinerariesResponse()

    async with gateway.client.get(
        "/v1/itineraries?origin=JFK&destination=LAX&date=2026-12-01"
    ) as response:
        body = await response.json()

    assert response.status == 200
    assert body == {"itineraries": []}
    assert "Freshness" not in response.headers
