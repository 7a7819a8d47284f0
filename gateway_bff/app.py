"""The application: routes, the edge around them, and every exception's way to a problem.

`create_app` makes independent applications: all state is in what it is given, and in `app.state`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import grpc
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from consulmesh.errors import PermissionDenied, Unauthenticated, Unavailable
from gateway_bff import __version__, failures, openapi
from gateway_bff.admission import Load, PerAddress
from gateway_bff.cache.answers import Answers
from gateway_bff.cache.changes import Changes
from gateway_bff.cache.repeats import RepeatSearches
from gateway_bff.connection import ClientGone
from gateway_bff.edge import Edge
from gateway_bff.live.sources import Live
from gateway_bff.problems import Problem
from gateway_bff.quotas import Quotas
from gateway_bff.routes import (
    airports,
    bookings,
    calendar,
    flights,
    itineraries,
    live,
    mesh,
    operations,
    quotes,
    reference,
    round_trips,
    system,
)
from gateway_bff.settings import Settings
from gateway_bff.sse import OpenStreams
from gateway_bff.telemetry import CacheMetrics, HttpMetrics, LiveMetrics, LoadMetrics, QuotaMetrics
from gateway_bff.upstreams import Upstreams

# The edge has it. FastAPI's own looks into the environment thrice a request for who wants it.
_NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False)
_ROUTERS = (
    itineraries,
    round_trips,
    calendar,
    airports,
    flights,
    live,
    quotes,
    bookings,
    operations,
    mesh,
    system,
    reference,
)


ROUTES: Final[Sequence[BaseRoute]] = [
    route for module in _ROUTERS for route in module.router.routes
]
"""All there are, flat: of an included router, each request would be matched twice."""


def create_app(upstreams: Upstreams, settings: Settings, *, registry: CollectorRegistry) -> FastAPI:
    """The public API over these upstreams. Its metrics go to `registry`, which `/metrics` shows.

    `app.state.live` has jobs, which the process must run for live streams and the cache to work.
    """
    app = FastAPI(
        title=openapi.NAME,
        summary=openapi.SUMMARY,
        version=__version__,
        routes=list(ROUTES),
        redirect_slashes=False,
        openapi_url=None,  # routes of our own, in `reference`
        telemetry=_NO_TELEMETRY,
    )
    app.mount(reference.PARTS_PATH, reference.PARTS)
    app.state.upstreams = upstreams
    app.state.settings = settings
    app.state.registry = registry
    app.state.streams = OpenStreams()
    changes = Changes()
    app.state.live = live = Live.of(upstreams, LiveMetrics(registry), changes)
    app.state.answers = Answers(changes, live.lags, CacheMetrics(registry))
    app.state.quotas = quotas = Quotas(
        settings.limits, QuotaMetrics(registry), settings.quota_store
    )
    app.state.draining = False
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]  # FastAPI's own way
    app.add_middleware(RepeatSearches, answers=app.state.answers)
    app.add_middleware(PerAddress, quotas=quotas, settings=settings)
    app.add_middleware(Load, terms=settings.queue, metrics=LoadMetrics(registry))
    app.add_middleware(Edge, metrics=HttpMetrics(registry), settings=settings)
    _answer_exceptions(app)
    _answer_what_is_not_there(app)
    return app


def _answer_exceptions(app: FastAPI) -> None:
    """Registers the way of each exception to its problem; the edge does the rest."""

    @app.exception_handler(grpc.aio.AioRpcError)
    async def _of_call(request: Request, error: grpc.aio.AioRpcError) -> Response:
        names = getattr(request.scope.get("route"), "fields", {})
        return failures.of_call(error, names).response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _of_validation(request: Request, error: RequestValidationError) -> Response:
        return failures.of_validation(error).response(request.url.path)

    @app.exception_handler(Unauthenticated)
    async def _of_identity(request: Request, error: Unauthenticated) -> Response:
        return failures.of_identity(error).response(request.url.path)

    @app.exception_handler(Unavailable)
    async def _of_absence(request: Request, _: Unavailable) -> Response:
        return failures.of_absence().response(request.url.path)

    @app.exception_handler(PermissionDenied)
    async def _of_permission(request: Request, _: PermissionDenied) -> Response:
        return Problem("FORBIDDEN").response(request.url.path)

    @app.exception_handler(ClientGone)
    async def _of_nobody(request: Request, _: ClientGone) -> Response:
        return Problem("CLIENT_CLOSED_REQUEST").response(request.url.path)


def _answer_what_is_not_there(app: FastAPI) -> None:
    """Registers the way of problems, and of what the framework finds nothing for."""

    @app.exception_handler(HTTPException)
    async def _of_http(request: Request, error: HTTPException) -> Response:
        problem = failures.of_http(error)
        if not isinstance(error, Problem) and problem.code == "NOT_FOUND":
            problem = _not_found(app.routes, request)
        if problem.code != "METHOD_NOT_ALLOWED":
            return problem.response(request.url.path)
        allow = {"Allow": ", ".join(_allowed(app.routes, request))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=allow)
        return Problem(problem.code, headers=allow).response(request.url.path)


def _not_found(routes: Iterable[BaseRoute], request: Request) -> Problem:
    """Nothing is guessed, and so nothing redirected; but a slash too many is easily overlooked."""
    path: str = request.scope["path"].rstrip("/")
    meant = {**request.scope, "path": path}
    if path != request.scope["path"] and any(
        isinstance(route, Route) and route.matches(meant)[0] is not Match.NONE for route in routes
    ):
        return Problem("NOT_FOUND", f"There is nothing here. {path} has no slash at its end.")
    return Problem("NOT_FOUND")


def _allowed(routes: Iterable[BaseRoute], request: Request) -> list[str]:
    """The methods of every route at the request's path; the framework only names the first's."""
    methods = {"OPTIONS"}
    for route in routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)
