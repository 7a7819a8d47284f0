"""A gRPC server of the mesh: the pipeline around each handler, health, reflection, drain.

The generated `add_…Servicer_to_server` works on it as on any server of grpc.aio.
"""

# ruff: noqa: D102 - the methods without a docstring are those of gRPC's interface

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import grpc
import structlog
from grpc import aio
from grpc_channelz.v1 import channelz
from grpc_health.v1 import (  # type: ignore[import-untyped]  # it has no stubs
    health,
    health_pb2,
    health_pb2_grpc,
)
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no stubs
    reflection,
)

from consulmesh import handlers, load, logs
from consulmesh.logs import AccessRecord
from consulmesh.metrics import RpcMetrics, rpc_metrics
from consulmesh.pipeline import READER_PATIENCE, Pipeline
from consulmesh.policies import Admission, Authorization
from consulmesh.translation import Translation
from consulmesh.xds.client_status import (
    ClientStatusServicer,
    add_ClientStatusServicer_to_server,
)

_Handlers = Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]

SERVER_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.so_reuseport", 0),  # a second process on the port is an error, not a second server
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # of one connection: beyond 1,000 calls that wait to be taken up, core cancels anybody's
    ("grpc.max_concurrent_streams", 1_000),
    # clients ping every 10 s, also when they have no call
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # a client that went away without a word, or whose TCP alone still answers: noticed within 40 s
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
)
_LAST_WORDS_SECONDS: Final = 1.0
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

_log = structlog.get_logger()


class MeshServer(aio.Server):
    """Serves as `service`; `instance` ("<id>/<version>") is sent with each answer.

    Health says NOT_SERVING until `set_serving`. `status_codes` maps the service's own errors. A
    stream whose client takes no message for `reader_patience` ends with RESOURCE_EXHAUSTED
    (SLOW_READER).
    """

    def __init__(
        self,
        service: str,
        *,
        instance: str,
        status_codes: Mapping[type[Exception], grpc.StatusCode],
        admission: Admission | None = None,
        authorization: Authorization | None = None,
        access_log: Callable[[AccessRecord], None] = logs.access,
        metrics: RpcMetrics | None = None,
        options: Sequence[tuple[str, Any]] = (),
        reader_patience: timedelta = READER_PATIENCE,
    ) -> None:
        self._service = service
        # of two options with one name core takes the first
        self._server = aio.server(options=tuple({**dict(SERVER_OPTIONS), **dict(options)}.items()))
        self._pipeline = Pipeline(
            translation=Translation(status_codes, domain=service),
            instance=instance,
            admission=admission,
            authorization=authorization,
            access_log=access_log,
            metrics=metrics or rpc_metrics(),
            reader_patience=reader_patience,
        )
        self._health = health.aio.HealthServicer()
        self._checked: aio.Server | None = None
        self._proto_services: list[str] = []
        self._started = False

    def __repr__(self) -> str:
        return f"<MeshServer {self._service} in_flight={self.in_flight}>"

    @property
    def proto_services(self) -> tuple[str, ...]:
        """Full names of the services that were added; the first is what a check may ask for."""
        return tuple(self._proto_services)

    @property
    def in_flight(self) -> int:
        """Calls that are being served."""
        return self._pipeline.in_flight

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        self._server.add_generic_rpc_handlers(
            [_Generic(handler, self._pipeline) for handler in generic_rpc_handlers]
        )

    def add_registered_method_handlers(self, service_name: str, method_handlers: _Handlers) -> None:
        wrapped = {
            name: handlers.wrap(self._pipeline, f"/{service_name}/{name}", handler)
            for name, handler in method_handlers.items()
        }
        self._server.add_registered_method_handlers(service_name, wrapped)
        self._proto_services.append(service_name)

    def add_insecure_port(self, address: str) -> int:
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, server_credentials)

    def add_health_port(self, address: str) -> int:
        """Lets whoever checks ask for health alone, in plain text, where calls are encrypted."""
        self._checked = aio.server(options=SERVER_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._checked)
        return self._checked.add_insecure_port(address)

    async def start(self) -> None:
        """Begins to answer; health says NOT_SERVING."""
        if not self._started:
            self._started = True
            await self.set_serving(serving=False)
            self._add_own_services()
        await self._server.start()
        if self._checked is not None:
            await self._checked.start()

    async def set_serving(self, *, serving: bool) -> None:
        """Sets the health of the server and of each of its services; final once draining."""
        for name in ("", *self._proto_services):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def leave(self) -> None:
        """Sets health to NOT_SERVING for good; calls are served as before."""
        await self._health.enter_graceful_shutdown()

    def begin_drain(self) -> None:
        """Ends streams without a deadline with UNAVAILABLE (DRAINING), and refuses new ones."""
        self._pipeline.drain()

    async def stop(self, grace: float | None) -> None:
        """Drains, then lets the other calls finish for `grace` seconds, and cancels the rest."""
        self.begin_drain()
        await self._server.stop(grace)
        if self._checked is not None:
            await self._checked.stop(None)
        # gRPC does not wait for what handlers do after their call is over (grpc/grpc#37239)
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._pipeline.empty()
        except TimeoutError:
            _log.warning("handlers_left_running", count=self.in_flight)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - gRPC's signature
        return await self._server.wait_for_termination(timeout)

    def _add_own_services(self) -> None:
        own = [*self._proto_services]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self)
        self.add_registered_method_handlers(load.SERVICE, load.method_handlers(self._pipeline.load))
        channelz.add_channelz_servicer(self)  # type: ignore[no-untyped-call]  # it has no types
        add_ClientStatusServicer_to_server(ClientStatusServicer(), self)
        served = [*self._proto_services, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(served, self)
        self._proto_services = own
        # asked last: whoever gets here found no handler
        self._server.add_generic_rpc_handlers([_Unknown(self._pipeline)])


class _Generic(grpc.GenericRpcHandler):
    """Wraps handlers that are found by name; gRPC asks it for methods that are not registered."""

    def __init__(self, handler: grpc.GenericRpcHandler, pipeline: Pipeline) -> None:
        self._handler = handler
        self._pipeline = pipeline

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        found = self._handler.service(handler_call_details)
        if found is None:
            return None
        return handlers.wrap(self._pipeline, handler_call_details.method, found)


class _Unknown(grpc.GenericRpcHandler):
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return handlers.unknown(self._pipeline, handler_call_details.method)
