"""The server of a simulated process: the pipeline and the handlers of a real one, no HTTP/2."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, Never

import grpc
from grpc import aio

from consulmesh import handlers
from consulmesh.logs import AccessRecord
from consulmesh.metrics import rpc_metrics
from consulmesh.pipeline import Pipeline
from consulmesh.policies import Metadata
from consulmesh.translation import Translation
from tests.simulation.exchange import Exchange, Outcome
from tests.simulation.loop import Process, VirtualLoop

_ABORTED: Final = "aborted by the handler"


class SimulatedServer:
    """Serves the exchanges that reach its process. What services use of `MeshServer`.

    State: the handlers that were added, and the tasks of the calls that are served.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        process: Process,
        *,
        service: str,
        status_codes: Mapping[type[Exception], grpc.StatusCode],
    ) -> None:
        self.service = service
        self.process = process
        self._loop = loop
        self._pipeline = Pipeline(
            translation=Translation(status_codes, domain=service),
            instance=f"{process.name}/0.0.0",
            admission=None,
            authorization=None,
            access_log=_unlogged,
            metrics=rpc_metrics(),
        )
        self._handlers: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[object]) -> None:
        """Handlers are found by their registered names."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Put the pipeline around each handler."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._handlers[path] = handlers.wrap(self._pipeline, path, handler)

    def accept(self, exchange: Exchange) -> asyncio.Task[None]:
        """Serve an exchange in a task of its own, until its deadline."""
        task = self._loop.create_task(self._serve(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        timeout = exchange.request.timeout
        if timeout is not None:
            deadline = self._loop.call_later(timeout, task.cancel)
            task.add_done_callback(lambda _: deadline.cancel())
        return task

    async def stop(self, grace: float) -> None:
        """Drain, then let the other calls finish for `grace` seconds, and cancel the rest."""
        self._pipeline.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, exchange: Exchange) -> None:
        peer = _Peer(self._loop, exchange)
        handler = self._handlers.get(exchange.request.method)
        if handler is None:
            exchange.finish(Outcome(code=grpc.StatusCode.UNIMPLEMENTED))
            return
        try:
            message = await self._handle(handler, exchange, peer)
        except aio.AbortError:
            exchange.finish(peer.outcome())
        except asyncio.CancelledError:
            exchange.finish(Outcome(code=grpc.StatusCode.CANCELLED))
            raise
        else:
            exchange.finish(peer.outcome(message))

    @staticmethod
    async def _handle(handler: Any, exchange: Exchange, peer: "_Peer") -> bytes | None:
        if not handler.response_streaming:
            message: bytes = await handler.unary_unary(exchange.request.message, peer)
            return message
        peer.encode = handler.response_serializer
        await handler.unary_stream(exchange.request.message, peer)
        return None


class _Peer:
    """gRPC's servicer context, as far as the pipeline and the services use it."""

    def __init__(self, loop: VirtualLoop, exchange: Exchange) -> None:
        self.encode: Any = bytes
        self._loop = loop
        self._exchange = exchange
        timeout = exchange.request.timeout
        self._deadline = None if timeout is None else loop.time() + timeout
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailers: Metadata = ()

    def outcome(self, message: bytes | None = None) -> Outcome:
        """The status as it was set."""
        return Outcome(
            code=self._code or grpc.StatusCode.OK,
            details=self._details,
            trailers=self._trailers,
            message=message,
        )

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Metadata) -> Never:
        """End the call with a status, and raise."""
        self._code, self._details, self._trailers = code, details, trailing
        raise aio.AbortError(_ABORTED)

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send the headers: they say nothing here."""

    async def write(self, message: Any) -> None:
        """Send a message of a stream."""
        self._exchange.send_back(self.encode(message))

    def invocation_metadata(self) -> Metadata:
        """What the client sent."""
        return self._exchange.request.metadata

    def time_remaining(self) -> float | None:
        """Seconds; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def trailing_metadata(self) -> Metadata:
        """What was set last."""
        return self._trailers

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what is sent with the status."""
        self._trailers = metadata

    def code(self) -> grpc.StatusCode | None:
        """What the handler set, if it did."""
        return self._code

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """Nothing was proved."""
        return {}


def _unlogged(_record: AccessRecord) -> None:
    """The trace has what matters of a call."""
