from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no stubs
    reflection_pb2,
    reflection_pb2_grpc,
)
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consulmesh.context import CallContext, ContextSource, current
from consulmesh.errors import InvalidArgument, PermissionDenied, Status, Violation
from consulmesh.logs import AccessRecord
from consulmesh.metrics import RpcMetrics
from consulmesh.policies import Peer
from consulmesh.testing import channel_to, running, serving
from tests.consulmesh.echo import SERVICE, Context, EchoStub, add_echo, text

INSTANCE = "tested-1/0.0.0"


class SeatsGoneError(Exception):
    """A domain error."""

    reason = "SEATS_UNAVAILABLE"

    def __init__(self) -> None:
        self.metadata = {"flight_id": "flt_1"}
        self.retry_after = timedelta(seconds=2)
        super().__init__("No seats are left.")


class LastSeatGoneError(SeatsGoneError):
    """A kind of it."""


STATUS_CODES: dict[type[Exception], grpc.StatusCode] = {
    SeatsGoneError: grpc.StatusCode.FAILED_PRECONDITION
}


async def echo(request: StringValue, _context: Context) -> StringValue:
    """Answers what it was asked."""
    return request


async def spread(request: StringValue, _context: Context) -> AsyncIterator[StringValue]:
    """Letter by letter."""
    for letter in request.value:
        yield text(letter)


async def failing(request: StringValue, context: Context) -> StringValue:
    """Fails in the way that it is asked to."""
    ways: dict[str, Exception] = {
        "domain": LastSeatGoneError(),
        "invalid": InvalidArgument(
            [Violation(field="cabin", reason="UNKNOWN", description="not a cabin")]
        ),
        "defect": ZeroDivisionError("secret of a bug"),
        "upstream": aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), details="up is away"
        ),
        "untranslated": aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), details="secret of up"
        ),
        "stray": asyncio.CancelledError(),  # type: ignore[dict-item]  # raised as if awaited
    }
    if request.value == "abort":
        await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
    raise ways[request.value]


async def failing_stream(request: StringValue, context: Context) -> AsyncIterator[StringValue]:
    """Fails after the first message."""
    yield text("first")
    await failing(request, context)


async def failed(call: Any) -> tuple[Status, str]:
    """The status of a call that fails, and the instance that it names."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    return Status.of(caught.value), str(trailers.get("mesh-instance", ""))


async def drained(call: Any) -> list[str]:
    """All messages of a stream."""
    return [message.value async for message in call]


@pytest.fixture
async def stub() -> AsyncIterator[EchoStub]:
    """The client of a server whose handlers fail."""
    async with serving(
        add_echo(unary=failing, spread=failing_stream), status_codes=STATUS_CODES
    ) as channel:
        yield EchoStub(channel)


async def collect(requests: AsyncIterator[StringValue], _context: Context) -> StringValue:
    """Joins what it iterates over."""
    return text("".join([request.value async for request in requests]))


async def chat(
    requests: AsyncIterator[StringValue], _context: Context
) -> AsyncIterator[StringValue]:
    """Echoes as a generator."""
    async for request in requests:
        yield request


async def collect_by_reading(_requests: object, context: Context) -> StringValue:
    """Joins what it reads from its context."""
    parts = []
    while (request := await context.read()) is not aio.EOF:
        parts.append(request.value)
    return text("".join(parts))


async def chat_by_writing(_requests: object, context: Context) -> None:
    """Echoes what it reads by writing."""
    while (request := await context.read()) is not aio.EOF:
        await context.write(request)


async def spread_by_writing(request: StringValue, context: Context) -> None:
    """Letter by letter, by writing."""
    for letter in request.value:
        await context.write(text(letter))


ITERATING: dict[str, Any] = {"unary": echo, "collect": collect, "spread": spread, "chat": chat}
READING: dict[str, Any] = {
    "unary": echo,
    "collect": collect_by_reading,
    "spread": spread_by_writing,
    "chat": chat_by_writing,
}


@pytest.mark.parametrize("kind", ["Unary", "Collect", "Spread", "Chat"])
@pytest.mark.parametrize("handlers", [ITERATING, READING], ids=["iterating", "reading"])
async def test_every_kind_of_call_is_served_and_signed(kind: str, handlers: dict[str, Any]) -> None:
    """Coroutines, generators and writers answer, and the trailer says which instance did."""
    async with serving(add_echo(**handlers)) as channel:
        request = text("ab") if kind in {"Unary", "Spread"} else iter([text("a"), text("b")])
        call = getattr(EchoStub(channel), kind)(request)
        many = kind in {"Spread", "Chat"}
        answer = "".join(await drained(call)) if many else (await call).value
        trailers = await call.trailing_metadata()

    assert answer == "ab"
    assert trailers["mesh-instance"] == INSTANCE


async def test_a_domain_error_arrives_with_its_details(stub: EchoStub) -> None:
    """Code by the table along the MRO, reason, metadata, RetryInfo and the instance."""
    status, instance = await failed(stub.Unary(text("domain")))

    assert status == Status(
        code=grpc.StatusCode.FAILED_PRECONDITION,
        message="No seats are left.",
        reason="SEATS_UNAVAILABLE",
        domain="tested",
        metadata={"flight_id": "flt_1"},
        retry_after=timedelta(seconds=2),
    )
    assert instance == INSTANCE


async def test_violations_arrive_as_bad_request(stub: EchoStub) -> None:
    """The client sees which field is wrong."""
    status, _ = await failed(stub.Unary(text("invalid")))

    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.violations == (
        Violation(field="cabin", reason="UNKNOWN", description="not a cabin"),
    )


async def test_a_defect_says_nothing_and_is_logged(stub: EchoStub) -> None:
    """The client gets a constant text, the log the traceback."""
    with capture_logs() as logs:
        status, instance = await failed(stub.Unary(text("defect")))

    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "Internal error.")
    assert instance == INSTANCE
    assert [log["event"] for log in logs] == ["handler_failed"]
    assert isinstance(logs[0]["exc_info"], ZeroDivisionError)


async def test_an_upstreams_unavailability_is_passed_on(stub: EchoStub) -> None:
    """As itself, with a reason that says so."""
    status, instance = await failed(stub.Unary(text("upstream")))

    assert (status.code, status.message) == (grpc.StatusCode.UNAVAILABLE, "up is away")
    assert status.reason == "UPSTREAM_UNAVAILABLE"
    assert instance == INSTANCE


async def test_an_upstreams_other_error_is_our_defect(stub: EchoStub) -> None:
    """What nobody translated does not leak."""
    with capture_logs():
        status, _ = await failed(stub.Unary(text("untranslated")))

    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "Internal error.")


async def test_a_stray_cancellation_is_answered(stub: EchoStub) -> None:
    """A handler that awaited something that was cancelled does not leave its client waiting."""
    with capture_logs():
        status, instance = await failed(stub.Unary(text("stray"), timeout=20))

    assert status.code is grpc.StatusCode.INTERNAL
    assert instance == INSTANCE


async def test_an_abort_by_hand_is_signed_too(stub: EchoStub) -> None:
    """Foreign servicers abort: their code stays, the trailer is there."""
    status, instance = await failed(stub.Unary(text("abort")))

    assert (status.code, status.message) == (grpc.StatusCode.DATA_LOSS, "by hand")
    assert instance == INSTANCE


@pytest.mark.parametrize("way", ["domain", "defect", "abort"])
async def test_a_stream_that_fails_says_why_after_its_messages(stub: EchoStub, way: str) -> None:
    """What was sent arrives, then the status with details and instance."""
    call = stub.Spread(text(way))
    first = await call.read()
    with capture_logs():
        status, instance = await failed(call.read())

    assert first.value == "first"
    assert status.code is not grpc.StatusCode.UNKNOWN
    assert instance == INSTANCE


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_an_undecodable_request_is_the_clients_fault(kind: str) -> None:
    """INVALID_ARGUMENT with a reason, in all four kinds, and no handler hears of it."""
    heard: list[str] = []

    async def unary(request: StringValue, _context: Context) -> StringValue:
        heard.append(request.value)
        return request

    async def collect(requests: AsyncIterator[StringValue], _context: Context) -> StringValue:
        heard.extend([request.value async for request in requests])
        return text("")

    async def chat(requests: AsyncIterator[StringValue], _context: Context) -> Any:
        async for request in requests:
            heard.append(request.value)
            yield request

    async def unary_stream(request: StringValue, _context: Context) -> Any:
        heard.append(request.value)
        yield request

    handlers: Any = {"unary": unary, "collect": collect, "spread": unary_stream, "chat": chat}
    method = {
        "unary_unary": "Unary",
        "unary_stream": "Spread",
        "stream_unary": "Collect",
        "stream_stream": "Chat",
    }[kind]
    async with serving(add_echo(**handlers)) as channel:
        garbage = b"\xff\xff\xff"
        call: Any = getattr(channel, kind)(f"/{SERVICE}/{method}")(
            iter([garbage]) if kind.startswith("stream") else garbage
        )
        status, instance = await failed(drained(call) if kind.endswith("stream") else call)

    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (status.reason, status.domain) == ("MALFORMED_REQUEST", "tested")
    assert instance == INSTANCE
    assert not heard


async def test_an_oversized_request_is_refused_and_the_connection_lives() -> None:
    """More than 4 MiB is RESOURCE_EXHAUSTED, by gRPC core; the next call works."""
    async with serving(add_echo(unary=echo)) as channel:
        stub = EchoStub(channel)
        status, _ = await failed(stub.Unary(text("x" * (4 * 1024 * 1024 + 1))))
        answer = await stub.Unary(text("small"))

    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer.value == "small"


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_an_unknown_method_is_answered_by_us(kind: str) -> None:
    """UNIMPLEMENTED with details and instance, whatever kind of call it is."""
    async with serving(add_echo(unary=echo)) as channel:
        call: Any = getattr(channel, kind)("/no.such.Service/Method")(
            iter([b"x"]) if kind.startswith("stream") else b"x"
        )
        status, instance = await failed(drained(call) if kind.endswith("stream") else call)

    assert status.code is grpc.StatusCode.UNIMPLEMENTED
    assert status.reason == "METHOD_NOT_FOUND"
    assert instance == INSTANCE


async def test_a_method_that_nobody_wrote_is_unimplemented() -> None:
    """What generated servicers do by default is no defect."""

    def unary(_request: StringValue, context: Context) -> StringValue:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError("Method not implemented!")

    async with serving(add_echo(unary=unary)) as channel:
        with capture_logs() as logs:
            status, instance = await failed(EchoStub(channel).Unary(text("x")))

    assert status.code is grpc.StatusCode.UNIMPLEMENTED
    assert status.reason == "METHOD_NOT_IMPLEMENTED"
    assert instance == INSTANCE
    assert not logs


async def test_an_answer_of_the_wrong_type_is_internal() -> None:
    """A handler that forgot to return is a defect that says nothing of itself."""

    async def forgetful(_request: StringValue, _context: Context) -> None:
        return None

    async with serving(add_echo(unary=forgetful)) as channel:
        with capture_logs() as logs:
            status, _ = await failed(EchoStub(channel).Unary(text("x")))

    assert (status.code, status.message) == (grpc.StatusCode.INTERNAL, "Internal error.")
    assert [log["event"] for log in logs] == ["handler_failed"]


async def test_trailers_and_codes_of_a_handler_stay_beside_ours() -> None:
    """Foreign servicers set trailers and codes: both arrive, with the instance."""

    async def unary(request: StringValue, context: Context) -> StringValue | None:
        context.set_trailing_metadata((("x-own", "1"),))
        if request.value == "gone":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("gone")
            return None
        return request

    async with serving(add_echo(unary=unary)) as channel:
        stub = EchoStub(channel)
        call = stub.Unary(text("x"))
        await call
        trailers = await call.trailing_metadata()
        status, instance = await failed(stub.Unary(text("gone")))

    assert (trailers["x-own"], trailers["mesh-instance"]) == ("1", INSTANCE)
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert instance == INSTANCE


async def test_a_generator_is_closed_as_soon_as_its_reader_is_gone() -> None:
    """What it holds is given back at once, not when it is collected."""
    closed = asyncio.Event()

    async def endless(_request: StringValue, _context: Context) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield text("x" * 100_000)  # until flow control stops it
        finally:
            closed.set()

    async with serving(add_echo(spread=endless)) as channel:
        call = EchoStub(channel).Spread(text("x"))
        await call.read()
        held = not closed.is_set()
        call.cancel()
        gone = await asyncio.wait_for(closed.wait(), 20)

    assert (held, gone) == (True, True)


class Refusing:
    """Admission and authorization that write down in which order they were asked."""

    def __init__(self, *, admitted: bool, authorized: bool) -> None:
        self.order: list[str] = []
        self._admitted = admitted
        self._authorized = authorized

    def admit(self, method: str, call: ContextSource) -> None:
        """First."""
        self.order.append(f"admit {method} {call.read().caller}")
        if not self._admitted:
            raise SeatsGoneError

    def identify(self, peer: Peer) -> str:
        """Before both; whoever it is."""
        return f"peer with {len(peer.auth_context())} proofs"

    def authorize(self, method: str, caller: str, call: ContextSource, peer: Peer) -> None:
        """Second."""
        self.order.append(f"authorize {method} {caller} {call.read().caller} {peer.auth_context()}")
        if not self._authorized:
            raise PermissionDenied


@pytest.mark.parametrize(
    ("admitted", "authorized", "code", "steps"),
    [
        (False, True, grpc.StatusCode.FAILED_PRECONDITION, ["admit"]),
        (True, False, grpc.StatusCode.PERMISSION_DENIED, ["admit", "authorize"]),
        (True, True, grpc.StatusCode.INVALID_ARGUMENT, ["admit", "authorize"]),
    ],
)
async def test_calls_are_admitted_then_authorized_then_decoded(
    *, admitted: bool, authorized: bool, code: grpc.StatusCode, steps: list[str]
) -> None:
    """Each stage only if the one before let the call pass: nothing is decoded for a stranger."""
    policy = Refusing(admitted=admitted, authorized=authorized)
    async with serving(
        add_echo(unary=echo), status_codes=STATUS_CODES, admission=policy, authorization=policy
    ) as channel:
        raw: Any = channel.unary_unary(f"/{SERVICE}/Unary")
        status, _ = await failed(raw(b"\xff\xff"))

    assert status.code is code
    assert [step.split()[0] for step in policy.order] == steps
    assert all(f"{SERVICE}/Unary" in step for step in policy.order)


async def test_health_is_admitted_under_any_load() -> None:
    """An overloaded server sheds calls, and is not taken for a dead one."""
    policy = Refusing(admitted=False, authorized=True)
    async with serving(admission=policy) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="")
        )

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_knows_each_service_and_serves_when_told() -> None:
    """NOT_SERVING until told, then SERVING; a service that is not here is NOT_FOUND."""
    seen = []
    async with running(add_echo(unary=echo)) as (server, port), channel_to(port) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for serving_now in (False, True):
            await server.set_serving(serving=serving_now)
            for name in ("", SERVICE):
                answer = await check(health_pb2.HealthCheckRequest(service=name))
                seen.append(answer.status)
        status, instance = await failed(check(health_pb2.HealthCheckRequest(service="stranger")))
        services = server.proto_services

    assert seen == [2, 2, 1, 1]
    assert (status.code, instance) == (grpc.StatusCode.NOT_FOUND, INSTANCE)
    assert services == (SERVICE,)


async def test_a_fresh_server_is_not_serving() -> None:
    """Until `set_serving`, also for the server as a whole, which gRPC's servicer takes for well."""
    async with (
        running(add_echo(unary=echo), serving=False) as (_, port),
        channel_to(port) as channel,
    ):
        check = health_pb2_grpc.HealthStub(channel).Check
        names = ("", SERVICE)
        answers = [await check(health_pb2.HealthCheckRequest(service=name)) for name in names]

    assert {answer.status for answer in answers} == {health_pb2.HealthCheckResponse.NOT_SERVING}


async def test_reflection_lists_what_is_served() -> None:
    """As grpcurl asks: the service, health and gRPC's admin services too."""
    async with serving(add_echo(unary=echo)) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = [
            service.name
            async for response in call
            for service in response.list_services_response.service
        ]

    admin = {"grpc.channelz.v1.Channelz", "envoy.service.status.v3.ClientStatusDiscoveryService"}
    assert {SERVICE, "grpc.health.v1.Health", *admin} <= set(names)


async def test_the_access_log_says_what_happened() -> None:
    """Method, outcome, duration, trace, request id, caller and reason, and nothing of the user."""
    records: list[AccessRecord] = []

    async def unary(request: StringValue, _context: Context) -> StringValue:
        seen.append(current())
        if request.value:
            raise SeatsGoneError
        return request

    seen: list[CallContext] = []
    async with serving(
        add_echo(unary=unary), status_codes=STATUS_CODES, access_log=records.append
    ) as channel:
        stub = EchoStub(channel)
        metadata = (("authorization", "Bearer secret-token"), ("x-request-id", "req-7"))
        await stub.Unary(text(""), metadata=metadata)
        await failed(stub.Unary(text("ann@example.org"), metadata=metadata))
    first, second = records

    assert (first.method, first.code, first.reason) == (f"{SERVICE}/Unary", "OK", None)
    assert (second.code, second.reason) == ("FAILED_PRECONDITION", "SEATS_UNAVAILABLE")
    assert 0 < first.seconds < 1
    assert first.context.read() is seen[0]
    assert (seen[0].request_id, seen[0].caller) == ("req-7", "test")
    assert seen[0].token == "secret-token"
    assert b"secret" not in first.line() + second.line()
    assert b"example.org" not in first.line() + second.line()


async def test_checks_of_health_are_not_logged() -> None:
    """Consul asks every second; only a check that fails is worth a line."""
    records: list[AccessRecord] = []
    async with serving(access_log=records.append) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        await check(health_pb2.HealthCheckRequest(service=""))
        await failed(check(health_pb2.HealthCheckRequest(service="stranger")))

    assert [record.code for record in records] == ["NOT_FOUND"]


async def test_served_calls_are_counted() -> None:
    """By method and outcome; names that clients invent share one time series."""
    registry = CollectorRegistry()
    async with serving(
        add_echo(unary=failing), status_codes=STATUS_CODES, metrics=RpcMetrics(registry)
    ) as channel:
        stub = EchoStub(channel)
        await failed(stub.Unary(text("domain")))
        for name in ("One", "Two"):
            await failed(channel.unary_unary(f"/{SERVICE}/{name}")(b""))

    def count(method: str, code: str) -> float | None:
        return registry.get_sample_value(
            "rpc_server_call_duration_seconds_count",
            {"rpc_method": method, "rpc_response_status_code": code},
        )

    assert count(f"{SERVICE}/Unary", "FAILED_PRECONDITION") == 1
    assert count("_OTHER", "UNIMPLEMENTED") == 2
    assert (
        registry.get_sample_value("rpc_server_active_calls", {"rpc_method": f"{SERVICE}/Unary"})
        == 0
    )


async def test_a_port_belongs_to_one_server() -> None:
    """A second server on a port that is taken is an error, not a second answerer."""
    async with running(add_echo(unary=echo)) as (_, port), running(add_echo()) as (other, _):
        with pytest.raises(RuntimeError):
            other.add_insecure_port(f"127.0.0.1:{port}")
