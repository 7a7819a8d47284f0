"""What the routes have in common: what they are given, and how they answer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway_bff.cache.answers import Answers
from gateway_bff.cache.conditional import conditional, etag
from gateway_bff.coding import SMALLEST, accepts_gzip, gzipped
from gateway_bff.live.sources import Live
from gateway_bff.settings import Settings
from gateway_bff.sse import OpenStreams
from gateway_bff.upstreams import Upstreams

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_ACCEPT_ENCODING: Final = "Accept-Encoding"


async def _upstreams(request: Request) -> Upstreams:
    upstreams: Upstreams = request.app.state.upstreams
    return upstreams


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _streams(request: Request) -> OpenStreams:
    streams: OpenStreams = request.app.state.streams
    return streams


async def _live(request: Request) -> Live:
    live: Live = request.app.state.live
    return live


async def _answers(request: Request) -> Answers:
    answers: Answers = request.app.state.answers
    return answers


TheAnswers = Annotated[Answers, Depends(_answers)]
TheLive = Annotated[Live, Depends(_live)]
TheUpstreams = Annotated[Upstreams, Depends(_upstreams)]
TheSettings = Annotated[Settings, Depends(_settings)]
TheStreams = Annotated[OpenStreams, Depends(_streams)]


def revalidated(request: Request, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """An answer to be kept and asked for again each time: 304 where the client has just that."""
    validated = {
        "Vary": _ACCEPT_ENCODING,
        "Cache-Control": "no-cache",
        "ETag": etag(body),
        **headers,
    }
    asked = request.headers
    return conditional(
        asked.get("if-none-match", ""), asked.get(_ACCEPT_ENCODING, ""), body, validated
    )


class Json(Response):
    """An answer in JSON. What belongs to one user or one moment is not for caches to keep."""

    media_type = "application/json"

    def __init__(
        self,
        content: bytes | Mapping[str, Any],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        super().__init__(body, status, {"Cache-Control": "no-store", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, in a coding that the client takes."""
        if len(self.body) >= SMALLEST:
            self.headers["Vary"] = _ACCEPT_ENCODING
            if accepts_gzip(Headers(scope=scope).get(_ACCEPT_ENCODING, "")):
                self.body = gzipped(bytes(self.body))
                self.headers["Content-Encoding"] = "gzip"
                self.headers["Content-Length"] = str(len(self.body))
        await super().__call__(scope, receive, send)
