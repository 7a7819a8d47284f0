"""The four services as the gateway sees them: real servers over HTTP/2 that say what a test wants.

An answer is a message, an exception, or a function of the request; a streamed one a list of them,
or a function of the request that generates messages.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from consulmesh.context import CallContext, current
from consulmesh.errors import Violation
from consulmesh.topology import Topology
from flights.booking.v1 import booking_pb2, booking_pb2_grpc
from flights.pricing.v1 import pricing_pb2, pricing_pb2_grpc
from flights.schedule.v1 import schedule_pb2, schedule_pb2_grpc
from flights.search.v1 import search_pb2, search_pb2_grpc

Answer = Any


class RefusalError(Exception):
    """An error that a service answers with; its class decides the status code."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        violations: Sequence[Violation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.violations = violations
        self.retry_after = retry_after


_CLASSES: Mapping[grpc.StatusCode, type[RefusalError]] = {
    code: type(f"{code.name}RefusalError", (RefusalError,), {}) for code in grpc.StatusCode
}
STATUS_CODES: Mapping[type[Exception], grpc.StatusCode] = {
    kind: code for code, kind in _CLASSES.items()
}


def refusal(
    code: grpc.StatusCode,
    reason: str,
    message: str = "It is so.",
    *,
    violations: Sequence[Violation] = (),
    retry_after: timedelta | None = None,
) -> RefusalError:
    """An error with this status."""
    return _CLASSES[code](message, reason=reason, violations=violations, retry_after=retry_after)


@dataclass
class FakeService:
    """One service. `requests` and `contexts` are those of the calls so far, in order."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    contexts: list[CallContext] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def reset(self) -> None:
        """Forget what was said and asked."""
        self.__init__()  # type: ignore[misc]  # dataclass fields have no other way to their defaults

    def servicer(self, descriptor: ServiceDescriptor) -> Any:
        """An object with a method for each RPC."""
        methods = {
            method.name: self._stream(method) if method.server_streaming else self._unary(method)
            for method in descriptor.methods
        }
        return type(f"Fake{descriptor.name}", (), methods)()

    def _unary(self, method: MethodDescriptor) -> Callable[..., Any]:
        async def answer(_servicer: object, request: Message, _context: object) -> Any:
            with self._seen(request):
                return await _said(self.answers[method.name], request)

        return answer

    def _stream(self, method: MethodDescriptor) -> Callable[..., Any]:
        async def answer(
            _servicer: object, request: Message, _context: object
        ) -> AsyncIterator[Any]:
            with self._seen(request):
                answers = self.answers[method.name]
                if callable(answers):
                    async with aclosing(answers(request)) as messages:
                        async for message in messages:
                            yield message
                    return
                for each in answers:
                    yield await _said(each, request)

        return answer

    def _seen(self, request: Message) -> "_Seen":
        self.requests.append(request)
        self.contexts.append(current())
        self.started.set()
        return _Seen(self.cancelled)


class _Seen:
    """Notices that the call it surrounds was cancelled."""

    def __init__(self, cancelled: asyncio.Event) -> None:
        self._cancelled = cancelled

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError | GeneratorExit):
            self._cancelled.set()


async def _said(answer: Answer, request: Message) -> Any:
    if isinstance(answer, Exception):
        raise answer
    if callable(answer):
        said = answer(request)
        return await said if inspect.isawaitable(said) else said
    return answer


async def forever(_request: Message) -> None:
    """An answer that does not come."""
    await asyncio.Event().wait()


@dataclass
class Fakes:
    """All four."""

    search: FakeService = field(default_factory=FakeService)
    schedule: FakeService = field(default_factory=FakeService)
    pricing: FakeService = field(default_factory=FakeService)
    booking: FakeService = field(default_factory=FakeService)
    mesh: Answer = None

    async def topology(self) -> Topology:
        """What Consul shows: `mesh`, or nothing."""
        said: Topology = await _said(self.mesh or Topology(services=(), edges=()), Empty())
        return said

    def reset(self) -> None:
        """Forget what was said and asked."""
        for fake in (self.search, self.schedule, self.pricing, self.booking):
            fake.reset()
        self.mesh = None

    def add_to(self, server: Any) -> None:
        """Serve all four on one server."""
        for fake, module, stubs in (
            (self.search, search_pb2, search_pb2_grpc),
            (self.schedule, schedule_pb2, schedule_pb2_grpc),
            (self.pricing, pricing_pb2, pricing_pb2_grpc),
            (self.booking, booking_pb2, booking_pb2_grpc),
        ):
            (descriptor,) = module.DESCRIPTOR.services_by_name.values()
            add = getattr(stubs, f"add_{descriptor.name}Servicer_to_server")
            add(fake.servicer(descriptor), server)
