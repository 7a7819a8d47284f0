"""The HTTP server: uvicorn in the process's own event loop, with limits it does not have itself.

Signals are the mesh's. A request's headers have bounded time and size; errors before there is a
request are problems too.
"""

import asyncio
import socket
from asyncio import TimerHandle, Transport
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from consulmesh import ConfigError
from gateway_bff import security
from gateway_bff.admission import RECEIVED, Held
from gateway_bff.problems import MEDIA_TYPE, Problem, invalid
from gateway_bff.settings import Settings

_BACKLOG = 4096  # connections; the kernel has its own bound, net.core.somaxconn
_HEAD_LIMIT = 64 * 1024  # bytes that may arrive before the headers are complete
_TARGET_LIMIT = 8 * 1024  # bytes; RFC 9112 §3 asks for 8,000
_FIELDS_LIMIT = 100  # headers


@asynccontextmanager
async def listening(
    app: ASGIApp, *, host: str, port: int, settings: Settings, grace: timedelta
) -> AsyncIterator[int]:
    """Serves `app` for the block; gives the port it got (`port` 0 takes any).

    At the end no connection is accepted any more, and requests have `grace` to finish. Raises
    ConfigError when the port is taken.
    """
    with _bound(host, port) as listener:
        server = _Server(_Config(app, settings, grace))
        task = asyncio.create_task(server.serve(sockets=[listener]), name="http-server")
        await server.listening.wait()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(f"MESH_PORT: {host}:{port}: {error.strerror}") from error
    # connections have it from here; asyncio sets it only where a socket names its protocol
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, settings: Settings, grace: timedelta) -> None:
        self.settings = settings
        self.held = Held(settings)
        super().__init__(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,  # what it says goes where all of the standard library's logging goes
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),  # nobody else is believed
            forwarded_allow_ips=settings.trusted_proxies,
            backlog=_BACKLOG,
            timeout_keep_alive=round(settings.keep_alive.total_seconds()),
            timeout_graceful_shutdown=max(1, round(grace.total_seconds())),
        )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the mesh, which drains before this server stops."""
        yield


class _Protocol(HttpToolsProtocol):
    """One connection. uvicorn waits for headers forever and collects any amount of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: TimerHandle | None = None
        self._head_bytes = 0
        self._in_body = False
        self._wrong: Problem | None = None
        self._held: Held = self.config.held  # type: ignore[attr-defined]  # it is our _Config
        self._peer = ""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._expect_head()
        self._peer = self.client[0] if self.client else ""
        if not self._held.take(self._peer):
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.give_back(self._peer)
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is None and self._is_idle():
            # the rest of a body that nobody reads, or nothing: neither may go on forever
            self._expect_head()
        if self._head is not None and not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_LIMIT:
                self._refuse(Problem("HEADERS_TOO_LARGE"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        self._in_body = True
        self._wrong = self._too_much()
        if self._wrong is not None:
            raise ValueError(self._wrong.code)  # the parser ends there, and asks for a 400
        if self._is_idle():  # else it waits for the answer before its own, on this connection
            self.scope[RECEIVED] = monotonic()  # type: ignore[typeddict-unknown-key]  # ours
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or too much of it."""
        self._refuse(self._wrong or invalid("", "MALFORMED", "This is not a request of HTTP/1.1."))

    def _too_much(self) -> Problem | None:
        """Why a head that came in one piece is refused, if so."""
        if len(self.url) > _TARGET_LIMIT:
            return Problem("URI_TOO_LONG", f"At most {_TARGET_LIMIT} bytes.")
        if len(self.headers) > _FIELDS_LIMIT:
            return Problem("HEADERS_TOO_LARGE", f"At most {_FIELDS_LIMIT} headers.")
        if sum(len(name) + len(value) for name, value in self.headers) > _HEAD_LIMIT:
            return Problem("HEADERS_TOO_LARGE", f"At most {_HEAD_LIMIT} bytes.")
        return None

    def _is_idle(self) -> bool:
        cycle: object = self.cycle  # None before the first request, whatever uvicorn's type says
        return cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self._head_is_here()
        patience = self.config.settings.header_patience.total_seconds()  # type: ignore[attr-defined]  # it is our _Config
        self._head = self.loop.call_later(patience, self._give_up)

    def _head_is_here(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
            self._head_bytes = 0
        self._in_body = False

    def _give_up(self) -> None:
        """A connection that never sent a byte is just closed."""
        if self._head_bytes:
            self._refuse(Problem("REQUEST_TIMEOUT"))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answers a request that never became one, and closes the connection."""
        self._head_is_here()
        if self.transport.is_closing():
            return
        body = problem.document("")
        fields = [
            *self.server_state.default_headers,
            *security.OF_DATA,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[problem.status_code] + head + b"\r\n" + body)
        self.transport.close()
