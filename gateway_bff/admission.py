"""Who gets in: what the gateway has time for, and what one address may ask for, in all and at once.

Pure ASGI, before anything of a request is looked at but its method and path. What is refused here
has cost neither a token's signature nor a call.
"""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import _TrustedHosts

from consulmesh.admission import QueueTerms, StandingQueue
from consulmesh.context import Criticality
from consulmesh.errors import Overloaded
from gateway_bff.problems import Problem
from gateway_bff.quotas import REQUESTS, Quotas, of_address, of_host
from gateway_bff.settings import Settings
from gateway_bff.telemetry import LoadMetrics

_PUBLIC: Final = "/v1/"
_RETRY_AFTER: Final = 1  # seconds
AT_ONCE: Final = "at_once"
RECEIVED: Final = "flightmesh.received"
"""In the scope: when the request's headers had arrived (time.monotonic)."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_STEPS: Final = 4  # of a request that has one call to make
_OF_BOOKINGS: Final = ("/v1/bookings", "/v1/quotes/", "/v1/operations/", "/v1/mesh")


class Load:
    """ASGI middleware: sheds what comes when the event loop is behind, searches first.

    A request waits for the loop between its headers and here, and about as long before each of the
    steps that follow; in all it may wait for as long as the terms say.
    """

    def __init__(self, app: ASGIApp, *, terms: QueueTerms | None, metrics: LoadMetrics) -> None:
        self._app = app
        self._queue = None if terms is None else StandingQueue(_of_a_step(terms))
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._queue is not None and (received := scope.get(RECEIVED)) is not None:
            now = time.monotonic()
            waited = now - received
            self._queue.left(waited, now)
            if self._queue.refuses(criticality := _criticality(scope), waited, now):
                self._metrics.refused(criticality)
                wait = str(round(Overloaded.retry_after.total_seconds()))
                problem = Problem("OVERLOADED", headers={"Retry-After": wait})
                await problem.response(scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _of_a_step(terms: QueueTerms) -> QueueTerms:
    return replace(terms, target=terms.target / _STEPS)


def _criticality(scope: Scope) -> Criticality:
    """Near what the route has, of which nothing is known yet: reading is the first to go."""
    path: str = scope["path"]
    if not path.startswith(_PUBLIC):
        return Criticality.CRITICAL_PLUS
    if scope["method"] in _SAFE and not path.startswith(_OF_BOOKINGS):
        return Criticality.SHEDDABLE
    return Criticality.CRITICAL


class Held:
    """The connections of each address; proxies that are trusted may have any number.

    State: `_connections`, those that are open, by address.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.connections
        self._trusted = _TrustedHosts(settings.trusted_proxies)
        self._connections: Counter[str] = Counter()

    def take(self, host: str) -> bool:
        """One more; whether it may stay. Whatever became of it, it is given back."""
        client = of_host(host)
        self._connections[client] += 1
        return not self._most or self._connections[client] <= self._most or host in self._trusted

    def give_back(self, host: str) -> None:
        """It is closed."""
        client = of_host(host)
        self._connections[client] -= 1
        if not self._connections[client]:
            del self._connections[client]


class PerAddress:
    """ASGI middleware.

    Who is above the limit of requests waits for that answer: a client that asks again at once would
    get thousands a second, each of which costs the others. Those who wait count as being served.

    State: `_at_once`, the requests that are being served, streams too, by address.
    """

    def __init__(self, app: ASGIApp, *, quotas: Quotas, settings: Settings) -> None:
        self._app = app
        self._quotas = quotas
        self._most = settings.at_once
        self._pause = settings.refusal_pause.total_seconds()
        self._at_once: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_PUBLIC):
            await self._app(scope, receive, send)
            return
        client = of_address(scope)
        self._at_once[client] += 1  # before anything is awaited, or many would find room at once
        try:
            if (refusal := await self._refusal(client, scope)) is None:
                await self._app(scope, receive, send)
            else:
                await refusal.response(scope["path"])(scope, receive, send)
        finally:
            self._at_once[client] -= 1
            if not self._at_once[client]:
                del self._at_once[client]

    async def _refusal(self, client: str, scope: Scope) -> Problem | None:
        if self._most and self._at_once[client] > self._most:
            detail = f"At most {self._most} requests at once, streams too."
            return self._quotas.refusal(AT_ONCE, _RETRY_AFTER, detail)
        try:
            await self._quotas.charge(REQUESTS, client, scope)
        except Problem as problem:
            await asyncio.sleep(self._pause)
            return problem
        return None
