"""The outermost layer: pure ASGI, one object per request.

Each request gets a call context (trace, request id, the user's token) that the mesh's channels
carry on, and leaves a metric and a line in the log; each answer gets the headers that all have.
What nobody below caught ends here.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consulmesh.context import CallContext, use
from consulmesh.logs import AccessRecord, access
from consulmesh.propagation import AUTHORIZATION, BAGGAGE, REQUEST_ID, TRACEPARENT, extract
from gateway_bff import quotas, security
from gateway_bff.cors import across
from gateway_bff.problems import Problem, invalid
from gateway_bff.settings import Settings
from gateway_bff.telemetry import HttpMetrics

# What a client may say about its call. How much it matters and who calls is not for it to say.
_PROPAGATED = {
    TRACEPARENT.encode(): TRACEPARENT,
    REQUEST_ID.encode(): REQUEST_ID,
    AUTHORIZATION.encode(): AUTHORIZATION,
    BAGGAGE.encode(): BAGGAGE,
}

# Of two of these, two readers may believe two different ones (RFC 9110 §5.3, RFC 9112 §3.2).
_ONCE = frozenset({b"host", b"authorization", b"idempotency-key", b"content-type"})
_LOOKED_AT = _ONCE | _PROPAGATED.keys()
_VERSIONS = frozenset({"1.1", "1.0"})

# Asked every few seconds by machines: worth a line only when it fails.
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
_ERRORS = 400
_LAST = (b"connection", b"close")
BODILESS = "flightmesh.bodiless"
"""In the scope where nobody will see the body, so that a stream need not begin."""

_log = structlog.get_logger()


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics, settings: Settings) -> None:
        # around all that answers, crashes and what is refused too: a script has to see why
        self._app = across(app, settings.cors_origins)
        self._crashed = across(_crashed, settings.cors_origins)
        self._metrics = metrics
        self._always_tls = bool(settings.hsts)
        self._of_tls = security.transport(settings.hsts or security.HSTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tls = self._always_tls or scope["scheme"] == "https"
        exchange = _Exchange(scope, send, self._of_tls if tls else ())
        with self._metrics.active.track_inprogress(), use(exchange.context):
            try:
                if (problem := exchange.malformed) is not None:
                    response = problem.response(scope["path"])
                    await response(exchange.scope, receive, exchange.send)
                else:
                    await self._app(exchange.scope, receive, exchange.send)
            except Exception:  # noqa: BLE001 - the edge is where a defect becomes an answer
                _log.exception("request_crashed", path=scope["path"])
                await exchange.fail(self._crashed, receive)
            finally:
                exchange.record(self._metrics)


class _Exchange:
    """A request and what is known of its response."""

    __slots__ = (
        "_begun",
        "_method",
        "_send",
        "_status",
        "_transport",
        "context",
        "malformed",
        "scope",
    )

    def __init__(self, scope: Scope, send: Send, transport: security.Headers) -> None:
        self._begun = time.perf_counter()
        self._method: str = scope["method"]
        self._send = send
        self._status = 0
        self._transport = transport
        found = [field for field in scope["headers"] if field[0] in _LOOKED_AT]
        self.context = _context(found)
        self.malformed = _malformed(scope, found)
        # HEAD is GET without the body (RFC 9110 §9.3.2), which the HTTP server leaves out
        self.scope = {**scope, "method": "GET", BODILESS: True} if self._method == "HEAD" else scope

    async def send(self, message: Message) -> None:
        """Sends on, with our headers on the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            trace = self.context.trace.traceparent().encode("ascii")
            request_id = self.context.request_id.encode("ascii")
            headers = ((b"x-request-id", request_id), (b"traceparent", trace))
            message["headers"] = [
                *message["headers"],
                *headers,
                *self.scope.get(quotas.HEADERS, ()),
                *self.scope.get(security.HEADERS, security.OF_DATA),
                *self._transport,
            ]
            if self.scope["app"].state.draining:
                message["headers"].append(_LAST)
        await self._send(message)

    async def fail(self, crashed: ASGIApp, receive: Receive) -> None:
        """Answers for a crash. A response that has begun is cut off instead, by the HTTP server."""
        if not self._status:
            await crashed(self.scope, receive, self.send)

    def record(self, metrics: HttpMetrics) -> None:
        """Leaves the metric and the line in the log."""
        seconds = time.perf_counter() - self._begun
        route = getattr(self.scope.get("route"), "path", "")
        metrics.served(self._method, route, self._status, seconds)
        if route in _QUIET and self._status < _ERRORS:
            return
        access(
            AccessRecord(
                time=time.time(),
                # not the path itself: whoever knows a quote's id may use the quote
                method=f"{self._method} {route or self.scope['path']}",
                code=str(self._status),
                seconds=seconds,
                context=self.context,
            )
        )


async def _crashed(scope: Scope, receive: Receive, send: Send) -> None:
    await Problem("INTERNAL").response(scope["path"])(scope, receive, send)


def _malformed(scope: Scope, found: Sequence[tuple[bytes, bytes]]) -> Problem | None:
    """Why a request is none that can be answered; `found` are the headers that are looked at."""
    if scope["http_version"] not in _VERSIONS:
        return invalid("", "MALFORMED", "This is not a request of HTTP/1.1.")
    names = {name for name, _ in found}
    if len(names) < len(found):
        seen = Counter(name for name, _ in found if name in _ONCE)
        for name, times in seen.items():
            if times > 1:
                return invalid(name.decode(), "REPEATED", "The header is there more than once.")
    if b"host" not in names and scope["http_version"] == "1.1":
        return invalid("host", "REQUIRED", "HTTP/1.1 requires a Host header.")
    return None


def _context(headers: Iterable[tuple[bytes, bytes]]) -> CallContext:
    said = [(_PROPAGATED[k], v.decode("latin-1")) for k, v in headers if k in _PROPAGATED]
    return extract(said, None)
