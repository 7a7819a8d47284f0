"""What belongs to a call and travels with it: deadline, trace, request id, criticality, identity.

The current context is a context variable: it is inherited by tasks that a handler starts, and must
not be inherited by background jobs, which are started in a fresh `contextvars` context.
"""

import random
import time
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import TracebackType
from typing import Self

_HEX = "0123456789abcdef"
_PARTS = 3  # of a traceparent after its version: trace, span and flags
_LENGTHS = (2, 32, 16, 2)
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_SAMPLED = frozenset(f"{flags:02x}" for flags in range(1, 256, 2))
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
        return cls(f"{_random_bits(128):032x}", f"{_random_bits(64):016x}")

    @classmethod
    def parse(cls, traceparent: str | None) -> Self:
        """The caller's position; a new root when there is none or it is not well-formed."""
        if traceparent is None:
            return cls.root()
        version, _, rest = traceparent.partition("-")
        parts = rest.split("-")
        if not _well_formed(version, parts):
            return cls.root()
        return cls(parts[0], parts[1], parts[2] in _SAMPLED)

    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Self:
        """A new span of the same trace."""
        return type(self)(self.trace_id, f"{_random_bits(64):016x}", self.sampled)


def _well_formed(version: str, parts: list[str]) -> bool:
    """Later versions may add parts; what they have in common with the first is read."""
    if len(parts) < _PARTS or (len(parts) > _PARTS and version == "00") or version == "ff":
        return False
    trace_id, span_id, flags = parts[:_PARTS]
    if (len(version), len(trace_id), len(span_id), len(flags)) != _LENGTHS:
        return False
    # str.strip leaves nothing exactly when each character is one of those given
    return (
        trace_id != _NO_TRACE
        and span_id != _NO_SPAN
        and not (version + trace_id + span_id + flags).strip(_HEX)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """One call as a server sees it, and as the calls that it makes inherit it."""

    deadline: float | None = None  # time.monotonic()
    trace: TraceContext = field(default_factory=TraceContext.root)
    request_id: str
    criticality: Criticality = Criticality.CRITICAL
    token: str | None = field(default=None, repr=False)  # the end user's bearer token
    caller: str | None = None  # the calling service as it names itself: proves nothing

    @classmethod
    def fresh(cls) -> Self:
        """A context of work that no call asked for: no deadline, a new trace."""
        trace = TraceContext.root()
        return cls(trace=trace, request_id=trace.trace_id)


CURRENT: ContextVar[CallContext | None] = ContextVar("consulmesh_call", default=None)


def current() -> CallContext:
    """The context of the call being served; a fresh one outside any."""
    return CURRENT.get() or CallContext.fresh()


class use:  # noqa: N801 - reads as a function: `with use(context):`
    """Makes a context the current one for the block."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: CallContext) -> None:
        self._context = context
        self._token: Token[CallContext | None] | None = None

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
    context = CURRENT.get()
    if context is None or context.deadline is None:
        return None
    return max(0.0, context.deadline - time.monotonic())


def within(seconds: float) -> use:
    """Narrows the current deadline for the block; it never moves a deadline back."""
    context = current()
    limit = time.monotonic() + seconds
    if context.deadline is not None:
        limit = min(limit, context.deadline)
    return use(replace(context, deadline=limit))
