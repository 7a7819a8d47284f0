"""Exceptions of handlers as statuses: by one table per service, looked up along the MRO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc

from consulmesh.errors import (
    DETAILS,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    Status,
    Unauthenticated,
    Unavailable,
    Violation,
    clean,
    raw_details,
)


class Draining(Exception):  # noqa: N818 - an answer, not a defect
    """This instance is about to leave; another one will answer."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("draining")


class SlowReader(Exception):  # noqa: N818 - an answer, not a defect
    """The client took no message of its stream for too long."""

    reason = "SLOW_READER"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no message was read for {seconds:g} s")


class UnknownMethod(Exception):  # noqa: N818 - an answer, not a defect
    """This server has no such method."""

    reason = "METHOD_NOT_FOUND"


# What everybody's handlers may raise. NotImplementedError is what generated servicers raise for
# methods that nobody wrote.
_COMMON: Final[Mapping[type[Exception], grpc.StatusCode]] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    NotImplementedError: grpc.StatusCode.UNIMPLEMENTED,
    UnknownMethod: grpc.StatusCode.UNIMPLEMENTED,
    Draining: grpc.StatusCode.UNAVAILABLE,
    SlowReader: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# What an upstream's failure means to our own caller; other codes are about our own request.
_PASSED_ON: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNAVAILABLE: "UPSTREAM_UNAVAILABLE",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is sent for an exception. `expected` is False for defects, which are worth a log."""

    status: Status
    trailers: tuple[tuple[str, bytes], ...]
    expected: bool = True


class Translation:
    """Maps exceptions to answers. `domain` names the mesh service in each ErrorInfo.

    An exception may say more by attributes: `reason`, `metadata`, `violations`, `retry_after`.
    What the table does not know is INTERNAL with a constant text. An exception group is what its
    only, or its first, member is; a defect among the members wins.
    """

    def __init__(self, codes: Mapping[type[Exception], grpc.StatusCode], *, domain: str) -> None:
        self._codes: dict[type[BaseException], grpc.StatusCode | None] = dict(
            [*_COMMON.items(), *codes.items()]
        )
        self._domain = domain
        self._overloaded = self._said(Overloaded(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def answer(self, error: BaseException) -> Answer:
        """The answer for an exception of a handler."""
        if isinstance(error, Overloaded):
            return self._overloaded  # made once: it is said when there is no time
        if isinstance(error, BaseExceptionGroup):
            answers = [self.answer(member) for member in error.exceptions]
            return next((each for each in answers if not each.expected), answers[0])
        if isinstance(error, grpc.aio.AioRpcError) and error.code() in _PASSED_ON:
            return self._passed_on(error)
        code = self._code(type(error))
        if code is None:
            return self._defect()
        return self._said(error, code)

    def refusal(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        retry_after: timedelta | None = None,
    ) -> Answer:
        """An answer of the library's own."""
        return _answer(
            Status(
                code=code,
                message=message,
                reason=reason,
                domain=self._domain,
                retry_after=retry_after,
            )
        )

    def _code(self, kind: type[BaseException]) -> grpc.StatusCode | None:
        """The code of the nearest class of the MRO; remembered, as classes are few."""
        if kind not in self._codes:
            known = (self._codes[base] for base in kind.__mro__ if base in self._codes)
            self._codes[kind] = next((code for code in known if code is not None), None)
        return self._codes[kind]

    def _said(self, error: BaseException, code: grpc.StatusCode) -> Answer:
        metadata = getattr(error, "metadata", None) or {}
        return _answer(
            Status(
                code=code,
                message=clean(str(error)),
                reason=_reason(error),
                domain=self._domain,
                metadata={clean(str(key)): clean(str(value)) for key, value in metadata.items()},
                violations=tuple(map(_violation, getattr(error, "violations", None) or ())),
                retry_after=getattr(error, "retry_after", None),
            )
        )

    def _passed_on(self, error: grpc.aio.AioRpcError) -> Answer:
        raw = raw_details(error)
        if raw is not None:
            return Answer(status=Status.of(error), trailers=((DETAILS, raw),))
        return self.refusal(error.code(), _PASSED_ON[error.code()], clean(error.details() or ""))

    def _defect(self) -> Answer:
        status = Status(
            code=grpc.StatusCode.INTERNAL,
            message="Internal error.",
            reason="INTERNAL",
            domain=self._domain,
        )
        return Answer(status=status, trailers=status.trailers(), expected=False)


def _violation(said: Any) -> Violation:
    """Any object with these three attributes: domains do not import us."""
    return Violation(
        field=clean(said.field), reason=said.reason, description=clean(said.description)
    )


def _answer(status: Status) -> Answer:
    return Answer(status=status, trailers=status.trailers())


def _reason(error: BaseException) -> str:
    """FlightNotFound → FLIGHT_NOT_FOUND, unless the error says something else."""
    said = getattr(error, "reason", None)
    if isinstance(said, str) and said:
        return said
    if isinstance(error, NotImplementedError):
        return "METHOD_NOT_IMPLEMENTED"
    name = type(error).__name__
    return "".join(
        f"_{letter}" if at and letter.isupper() and _begins_word(name, at) else letter
        for at, letter in enumerate(name)
    ).upper()


def _begins_word(name: str, at: int) -> bool:
    return not name[at - 1].isupper() or name[at + 1 : at + 2].islower()
