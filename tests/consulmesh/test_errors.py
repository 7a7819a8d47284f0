from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as StatusMessage
from grpc import aio

from consulmesh.errors import (
    DETAILS,
    InvalidArgument,
    PermissionDenied,
    Status,
    Unauthenticated,
    Violation,
)
from consulmesh.translation import Answer, Translation


class NotThere(Exception):  # noqa: N818 - as services name theirs
    """A domain error as services have them."""


class FlightNotThere(NotThere):
    """One that says more."""

    reason = "FLIGHT_NOT_FOUND"
    metadata: Mapping[str, str] = {"flight_id": "flt_1"}
    retry_after = timedelta(milliseconds=1500)


class HTTPGoneAway(NotThere):
    """One whose name has an abbreviation."""


def rpc_error(
    code: grpc.StatusCode, message: str = "", trailers: tuple[tuple[str, bytes], ...] = ()
) -> aio.AioRpcError:
    """What a client sees."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailers), details=message)


def seen(answer: Answer) -> Status:
    """What a client reads from an answer."""
    return Status.of(rpc_error(answer.status.code, answer.status.message, answer.trailers))


@pytest.fixture
def translation() -> Translation:
    """The table of a service that knows one domain error."""
    return Translation({NotThere: grpc.StatusCode.NOT_FOUND}, domain="schedule")


def test_a_status_survives_the_wire() -> None:
    """Every part of a status comes back at the client."""
    sent = Status(
        code=grpc.StatusCode.FAILED_PRECONDITION,
        message="Ünïcode",
        reason="SEATS_UNAVAILABLE",
        domain="schedule",
        metadata={"left": "0"},
        violations=(Violation(field="segments[1].cabin", reason="FULL", description="no seats"),),
        retry_after=timedelta(seconds=1.25),
    )

    assert Status.of(rpc_error(sent.code, sent.message, sent.trailers())) == sent


def test_an_error_without_details_has_a_code_and_a_message() -> None:
    """What gRPC core raises itself carries nothing else."""
    bare = aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, details="no connection")

    assert Status.of(bare) == Status(code=grpc.StatusCode.UNAVAILABLE, message="no connection")


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff",
        StatusMessage(code=5).SerializeToString(),  # of another status than the call's
        StatusMessage(
            code=14, details=[AnyMessage(type_url="x/google.rpc.ErrorInfo", value=b"\xff")]
        ).SerializeToString(),
        StatusMessage(
            code=14, details=[AnyMessage(type_url="x/unknown.Type", value=b"")]
        ).SerializeToString(),
    ],
)
def test_details_that_cannot_be_read_are_as_if_absent(raw: bytes) -> None:
    """A broken peer does not break its client."""
    status = Status.of(rpc_error(grpc.StatusCode.UNAVAILABLE, "m", ((DETAILS, raw),)))

    assert status == Status(code=grpc.StatusCode.UNAVAILABLE, message="m")


def test_details_that_peers_would_refuse_are_cut() -> None:
    """A thousand violations do not make the answer undeliverable; code and reason stay."""
    many = [Violation(field=f"f[{n}]", reason="BAD", description="x" * 100) for n in range(1000)]
    answer = Translation({}, domain="d").answer(InvalidArgument(many))

    assert sum(len(value) for _, value in answer.trailers) < 6_000
    assert seen(answer).reason == "VALIDATION_FAILED"
    assert len(answer.status.message) <= 1_000


def test_a_domain_error_is_found_along_the_mro(translation: Translation) -> None:
    """A subclass has the code of the nearest class in the table, and its own details."""
    status = seen(translation.answer(FlightNotThere("There is no such flight.")))

    assert status == Status(
        code=grpc.StatusCode.NOT_FOUND,
        message="There is no such flight.",
        reason="FLIGHT_NOT_FOUND",
        domain="schedule",
        metadata={"flight_id": "flt_1"},
        retry_after=timedelta(milliseconds=1500),
    )


def test_the_reason_defaults_to_the_name_of_the_class(translation: Translation) -> None:
    """Class names become UPPER_SNAKE."""
    assert translation.answer(NotThere()).status.reason == "NOT_THERE"
    assert translation.answer(HTTPGoneAway()).status.reason == "HTTP_GONE_AWAY"


def test_a_subclass_may_have_its_own_code() -> None:
    """The nearest entry wins, in whatever order the table was written."""
    table = Translation(
        {NotThere: grpc.StatusCode.NOT_FOUND, FlightNotThere: grpc.StatusCode.ABORTED}, domain="d"
    )

    assert table.answer(FlightNotThere()).status.code is grpc.StatusCode.ABORTED
    assert table.answer(NotThere()).status.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (InvalidArgument(), grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"),
        (Unauthenticated(), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (PermissionDenied(), grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (NotImplementedError(), grpc.StatusCode.UNIMPLEMENTED, "METHOD_NOT_IMPLEMENTED"),
    ],
)
def test_every_service_knows_the_common_errors(
    translation: Translation, error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    """They need no entry in a service's table."""
    answer = translation.answer(error)

    assert (answer.status.code, answer.status.reason) == (code, reason)
    assert answer.expected


def test_violations_become_field_violations(translation: Translation) -> None:
    """An InvalidArgument tells which fields are wrong, and in its message too."""
    wrong = Violation(field="passengers", reason="OUT_OF_RANGE", description="1 to 9")
    status = seen(translation.answer(InvalidArgument([wrong])))

    assert status.violations == (wrong,)
    assert status.message == "passengers: 1 to 9"


def test_a_defect_is_internal_with_a_constant_text(translation: Translation) -> None:
    """What a bug says stays inside."""
    answer = translation.answer(ZeroDivisionError("secret"))

    assert not answer.expected
    assert seen(answer) == Status(
        code=grpc.StatusCode.INTERNAL,
        message="Internal error.",
        reason="INTERNAL",
        domain="schedule",
    )


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_what_stands_in_the_way_of_an_upstream_is_passed_on(
    translation: Translation, code: grpc.StatusCode
) -> None:
    """The upstream's own details reach our caller byte by byte."""
    said = Status(
        code=code, message="m", reason="OVERLOADED", domain="up", retry_after=timedelta(seconds=1)
    )
    answer = translation.answer(rpc_error(code, "m", said.trailers()))

    assert seen(answer) == said
    assert answer.trailers == said.trailers()
    assert answer.expected


def test_what_core_says_of_an_upstream_gets_a_reason(translation: Translation) -> None:
    """Our caller sees that it was not we who were unavailable."""
    status = seen(translation.answer(rpc_error(grpc.StatusCode.UNAVAILABLE, "no connection")))

    assert (status.code, status.message) == (grpc.StatusCode.UNAVAILABLE, "no connection")
    assert (status.reason, status.domain) == ("UPSTREAM_UNAVAILABLE", "schedule")


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN]
)
def test_other_errors_of_an_upstream_are_our_own_defect(
    translation: Translation, code: grpc.StatusCode
) -> None:
    """An adapter that did not translate its upstream's errors is a bug of ours."""
    answer = translation.answer(rpc_error(code, "secret"))

    assert answer.status.code is grpc.StatusCode.INTERNAL
    assert "secret" not in answer.status.message
    assert not answer.expected


def test_a_group_is_what_its_member_is(translation: Translation) -> None:
    """An error out of a task group is not INTERNAL because of the group around it."""
    group = ExceptionGroup("g", [ExceptionGroup("h", [FlightNotThere()])])

    assert translation.answer(group).status.reason == "FLIGHT_NOT_FOUND"


def test_a_defect_in_a_group_wins(translation: Translation) -> None:
    """A bug is not hidden by an expected error beside it."""
    group = ExceptionGroup("g", [FlightNotThere(), ZeroDivisionError()])

    assert not translation.answer(group).expected


def test_a_message_that_utf8_cannot_carry_is_repaired(translation: Translation) -> None:
    """Lone surrogates in a domain error do not break the answer."""
    wrong = Violation(field="a\ud800", reason="BAD", description="b\ud800")

    assert seen(translation.answer(NotThere("a\ud800b"))).message == "a?b"
    assert seen(translation.answer(InvalidArgument([wrong]))).violations == (
        Violation(field="a?", reason="BAD", description="b?"),
    )


def test_unknown_details_are_ignored_beside_known_ones() -> None:
    """A peer that says more than we understand is understood as far as possible."""
    message = StatusMessage(code=5, message="m")
    message.details.add(type_url="type.googleapis.com/unknown.Thing", value=b"x")
    message.details.add().Pack(ErrorInfo(reason="R", domain="d"))
    raw = message.SerializeToString()

    assert Status.of(rpc_error(grpc.StatusCode.NOT_FOUND, "m", ((DETAILS, raw),))).reason == "R"
