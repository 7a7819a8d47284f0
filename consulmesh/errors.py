"""One shape of errors on the wire: status code, message, and google.rpc details (AIP-193).

A server turns exceptions into a `Status` by `translation.Translation`; a client reads one back
from the error that gRPC raised with `Status.of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage

from consulmesh import wellknown

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

DETAILS: Final = "grpc-status-details-bin"

# gRPC peers refuse more than 8 KiB of metadata, and binary metadata grows by a third on the wire.
_LONGEST_MESSAGE = 1_000
_LARGEST_DETAILS = 4_500
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What is wrong with one field of a request."""

    field: str  # as in the proto, with indices: "segments[1].cabin"
    reason: str  # UPPER_SNAKE
    description: str


class InvalidArgument(Exception):  # noqa: N818 - named after its status code
    """The request is wrong whatever the state of the system is."""

    def __init__(
        self,
        violations: Sequence[Violation] = (),
        *,
        reason: str = "VALIDATION_FAILED",
        message: str | None = None,
    ) -> None:
        self.violations = tuple(violations)
        self.reason = reason
        said = "; ".join(f"{v.field}: {v.description}" for v in self.violations)
        super().__init__(message or said or "The request is not valid.")


class Unauthenticated(Exception):  # noqa: N818 - named after its status code
    """Nobody, or nobody we believe, is behind this call."""

    def __init__(
        self, message: str = "Authentication is required.", *, reason: str = "UNAUTHENTICATED"
    ) -> None:
        self.reason = reason
        super().__init__(message)


class PermissionDenied(Exception):  # noqa: N818 - named after its status code
    """We know who is behind this call, and may not do it for them."""

    def __init__(
        self, message: str = "You may not do this.", *, reason: str = "PERMISSION_DENIED"
    ) -> None:
        self.reason = reason
        super().__init__(message)


class Unavailable(Exception):  # noqa: N818 - named after its status code
    """Something that this takes is away for now; it may be there when asked again."""

    def __init__(self, message: str, *, reason: str = "UNAVAILABLE") -> None:
        self.reason = reason
        super().__init__(message)


class Overloaded(Exception):  # noqa: N818 - an answer, not a defect
    """There is more to do than can be done; nothing of this was begun."""

    reason = "OVERLOADED"
    retry_after = timedelta(seconds=1)

    def __init__(self) -> None:
        super().__init__("There is too much to do.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The outcome of a call that failed. `reason` is "" where no ErrorInfo came with it."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: timedelta | None = None

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        """What the server said; details that cannot be read are as if they had not come."""
        details = _details(error)
        info = _unpacked(details, ErrorInfo())
        retry = _unpacked(details, RetryInfo())
        return cls(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason if info else "",
            domain=info.domain if info else "",
            metadata=dict(info.metadata) if info else {},
            violations=_violations(_unpacked(details, BadRequest())),
            retry_after=_delay(retry) if retry else None,
        )

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """The details as trailing metadata, cut down to what peers accept."""
        info = ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.metadata)
        full = self._message([info, *self._bad_request(), *self._retry_info()])
        if full.ByteSize() > _LARGEST_DETAILS:
            least = ErrorInfo(reason=self.reason[:63], domain=self.domain)
            full = self._message([least, *self._retry_info()])
        return ((DETAILS, full.SerializeToString()),)

    def _message(self, details: Sequence[Message]) -> StatusMessage:
        status = StatusMessage(code=self.code.value[0], message=self.message)
        for detail in details:
            status.details.add().Pack(detail)
        return status

    def _bad_request(self) -> list[BadRequest]:
        if not self.violations:
            return []
        named = [
            BadRequest.FieldViolation(field=v.field, reason=v.reason, description=v.description)
            for v in self.violations
        ]
        return [BadRequest(field_violations=named)]

    def _retry_info(self) -> list[RetryInfo]:
        if self.retry_after is None:
            return []
        return [RetryInfo(retry_delay=wellknown.duration(self.retry_after))]


def clean(message: str) -> str:
    """A message that fits a status: of bounded length, and Unicode that UTF-8 can carry."""
    return message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()


def raw_details(error: grpc.aio.AioRpcError) -> bytes | None:
    """The serialised google.rpc.Status that came with an error."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            return value
    return None


def _details(error: grpc.aio.AioRpcError) -> Sequence[AnyMessage]:
    raw = raw_details(error)
    if raw is None:
        return ()
    try:
        status = StatusMessage.FromString(raw)
    except DecodeError:
        return ()
    # of another status: a proxy replaced the code and left the details
    return status.details if _CODES.get(status.code) is error.code() else ()


def _unpacked(details: Sequence[AnyMessage], empty: _M) -> _M | None:
    for detail in details:
        try:
            if detail.Unpack(empty):
                return empty
        except DecodeError:
            return None
    return None


def _violations(bad: BadRequest | None) -> tuple[Violation, ...]:
    if bad is None:
        return ()
    return tuple(
        Violation(field=v.field, reason=v.reason, description=v.description)
        for v in bad.field_violations
    )


def _delay(retry: RetryInfo) -> timedelta | None:
    try:
        return wellknown.span(retry.retry_delay)
    except ValueError:
        return None
