"""What belongs to a call and travels with it: deadline, trace, request id, criticality, identity.

The current context is a context variable: it is inherited by tasks that a handler starts, and must
not be inherited by background jobs, which are started in a fresh `contextvars` context.
"""

import random
import re
import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
# Ids have to be unique, not secret; seeded from the system.
_random_bits = random.Random().getrandbits  # noqa: S311 - see above


class Criticality(StrEnum):
    """How much a call matters when a server must refuse some, most first."""

    CRITICAL_PLUS = "critical_plus"
    CRITICAL = "critical"
    SHEDDABLE_PLUS = "sheddable_plus"
    SHEDDABLE = "sheddable"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace (W3C Trace Context, level 1), without tracestate."""

    trace_id: str  # 32 lower-case hexadecimal digits
    span_id: str  # 16 of them
    sampled: bool = True

    @classmethod
    def root(cls) -> Self:
        """The start of a new trace."""
        digits = f"{_random_bits(192):048x}"
        return cls(digits[:32], digits[32:])

    @classmethod
    def parse(cls, traceparent: str | None) -> Self:
        """The caller's position; a new root when there is none or it is not well-formed."""
        found = _read(traceparent)
        return cls.root() if found is None else cls(*found)

    @classmethod
    def joined(cls, traceparent: str | None) -> Self:
        """A new span below the caller's, or of a new trace: `parse(…).child()` at half the cost."""
        found = _read(traceparent)
        return cls.root() if found is None else cls(found[0], _span_id(), found[2])

    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def below(self) -> str:
        """The header's value for a call made from here: that of a child."""
        return f"00-{self.trace_id}-{_span_id()}-{'01' if self.sampled else '00'}"

    def child(self) -> Self:
        """A new span of the same trace."""
        return type(self)(self.trace_id, _span_id(), self.sampled)


def _read(traceparent: str | None) -> tuple[str, str, bool] | None:
    """Later versions may add parts; what they have in common with the first is read."""
    if traceparent is None:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    return None if more and version == "00" else (trace_id, span_id, int(flags, 16) & 1 == 1)


def _span_id() -> str:
    return f"{_random_bits(64):016x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """One call as a server sees it, and as the calls that it makes inherit it."""

    deadline: float | None = None  # time.monotonic()
    trace: TraceContext = field(default_factory=TraceContext.root)
    request_id: str
    criticality: Criticality = Criticality.CRITICAL
    token: str | None = field(default=None, repr=False)  # the end user's bearer token
    baggage: str | None = None  # what the first caller said for all hops (W3C Baggage)
    caller: str | None = None  # the calling service as it names itself: proves nothing

    def read(self) -> Self:
        """Itself: it has been read already."""
        return self

    @classmethod
    def fresh(cls) -> Self:
        """A context of work that no call asked for: no deadline, a new trace."""
        trace = TraceContext.root()
        return cls(trace=trace, request_id=trace.trace_id)


class ContextSource(Protocol):
    """A context, or what it can be read out of once somebody wants to know."""

    @property
    def deadline(self) -> float | None:
        """As in the context."""

    def read(self) -> CallContext:
        """The context; always the same one."""


CURRENT: ContextVar[ContextSource | None] = ContextVar("consulmesh_call", default=None)


def current() -> CallContext:
    """The context of the call being served; a fresh one outside any."""
    source = CURRENT.get()
    return CallContext.fresh() if source is None else source.read()


class use:  # noqa: N801 - reads as a function: `with use(context):`
    """Makes a context the current one for the block."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: CallContext) -> None:
        self._context = context
        self._token: Token[ContextSource | None] | None = None

    def __enter__(self) -> CallContext:
        self._token = CURRENT.set(self._context)
        return self._context

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            CURRENT.reset(self._token)
            self._token = None


def remaining() -> float | None:
    """Seconds until the current deadline, 0.0 once it is over; None without one."""
    source = CURRENT.get()
    if source is None or source.deadline is None:
        return None
    return max(0.0, source.deadline - time.monotonic())


def within(seconds: float) -> use:
    """Narrows the current deadline for the block; it never moves a deadline back."""
    context = current()
    limit = time.monotonic() + seconds
    if context.deadline is not None:
        limit = min(limit, context.deadline)
    return use(replace(context, deadline=limit))
