"""The kind of route that the public API is made of.

A request of such a route has, in this order: a user where it needs one, its count where it changes
something, a body of bounded size in JSON, its share of time from the one table of budgets, and the
calls it caused cancelled when its client goes away.
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from consulmesh.context import Criticality, current, use, within
from consulmesh.errors import PermissionDenied
from consulmesh.users import User
from gateway_bff.body import buffered
from gateway_bff.connection import Connected
from gateway_bff.negotiation import qualities
from gateway_bff.problems import Problem, invalid
from gateway_bff.quotas import Quotas, of_address, of_user
from gateway_bff.settings import Settings
from gateway_bff.upstreams import Upstreams

_SAFE = frozenset({"GET", "HEAD"})
_NO_ENCODING = re.compile(rb"%(?![0-9A-Fa-f]{2})")

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """Anybody's route; its name is its entry in the table of budgets."""

    criticality: ClassVar[Criticality] = Criticality.SHEDDABLE_PLUS
    repeatable: ClassVar[AbstractSet[str]] = frozenset()
    """Query parameters that may come more than once."""
    fields: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Names of request fields in the protos that are other parameters in this route alone."""

    def get_route_handler(self) -> _Handler:
        """FastAPI's handler in the frame that each request gets."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            user = await self.admit(request)
            if request.method not in _SAFE:
                quotas: Quotas = request.app.state.quotas
                client = of_user(user) if user else of_address(request.scope)
                await quotas.charge(self.name, client, request.scope)
            settings: Settings = request.app.state.settings
            _reject_undecodable_query(request.scope["query_string"])
            _reject_repeated_parameters(request, self.repeatable)
            request = await self._with_body(request, settings)
            with (
                use(replace(current(), criticality=self.criticality)),
                within(settings.budgets[self.name]),
                Connected(request.receive, after=settings.watch_after),
            ):
                return await handler(request)

        return handle

    async def admit(self, request: Request) -> User | None:
        """The user where one is needed; raises what keeps this request out."""
        del request
        return None

    async def _with_body(self, request: Request, settings: Settings) -> Request:
        if request.method == "GET":
            return request
        read = await buffered(request, settings.body_limit, settings.body_patience)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            detail = "The request body must have no content coding."
            raise Problem("UNSUPPORTED_MEDIA_TYPE", detail, headers={"Accept-Encoding": "identity"})
        if self.body_field and await read.body() and not _is_json(request):
            raise Problem("UNSUPPORTED_MEDIA_TYPE")
        return read


class RoleRoute(Route):
    """A route for those who have a token with a role."""

    role: ClassVar[str]
    criticality = Criticality.CRITICAL

    async def admit(self, request: Request) -> User | None:
        """Verifies the token before anything of the request is read."""
        upstreams: Upstreams = request.app.state.upstreams
        user = await upstreams.users.verify(current().token)
        if self.role not in user.roles:
            raise PermissionDenied
        return user


class CustomerRoute(RoleRoute):
    """A customer's."""

    role = "customer"


class OperatorRoute(RoleRoute):
    """An operator's."""

    role = "operator"


class QuoteRoute(Route):
    """A route for those who are about to book."""

    criticality = Criticality.CRITICAL


class JourneyRoute(Route):
    """A route for those who look for flights, perhaps of several carriers."""

    criticality = Criticality.SHEDDABLE
    repeatable = frozenset({"carrier"})


class CalendarRoute(JourneyRoute):
    """A route for those who look for the best day of a month."""

    fields = MappingProxyType({"departure_date": "month"})


class LivePricesRoute(Route):
    """A route for those who watch several flights."""

    repeatable = frozenset({"flight_id"})


class EventStreamRoute(JourneyRoute):
    """A route for those who prefer an event stream to JSON, at the path of another route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As any route, but only where the Accept header asks for an event stream."""
        match, child = super().matches(scope)
        if match is Match.NONE or not prefers_events(scope):
            return Match.NONE, {}
        return match, child


def prefers_events(scope: Scope) -> bool:
    """True when text/event-stream is accepted, and at least as gladly as JSON."""
    accepted: dict[str, float] = {}
    for name, value in scope["headers"]:
        if name == b"accept":
            accepted |= qualities(value.decode("latin-1"))
    wanted = accepted.get("text/event-stream", 0.0)
    return wanted > 0 and wanted >= accepted.get("application/json", 0.0)


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _reject_undecodable_query(query: bytes) -> None:
    """What is no percent-encoding of UTF-8 would be read as something that nobody meant."""
    if b"%" not in query:
        return
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        broken = True
    else:
        broken = _NO_ENCODING.search(query) is not None
    if broken:
        raise invalid("", "MALFORMED", "The query is not percent-encoded UTF-8.")


def _reject_repeated_parameters(request: Request, repeatable: AbstractSet[str]) -> None:
    """Of a parameter that comes twice, two readers may believe two different values."""
    parameters = request.query_params
    if len(parameters.multi_items()) == len(parameters):
        return
    seen: set[str] = set()
    for name, _ in parameters.multi_items():
        if name in seen and name not in repeatable:
            raise invalid(name, "REPEATED", "The parameter is there more than once.")
        seen.add(name)
