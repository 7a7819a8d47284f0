"""Scripts of other origins (WHATWG Fetch §3.3): allowed by configuration, by default none.

No credentials of the browser: users are told by their token, which a script sends itself.
"""

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

_METHODS: Final = ("GET", "HEAD", "POST", "PUT")
_ALLOWED: Final = (
    "Authorization",
    "baggage",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Min-Position",
    "Prefer",
    "traceparent",
    "X-Request-Id",
)
_EXPOSED: Final = (
    "Cache-Status",
    "ETag",
    "Freshness",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Search-Position",
    "traceparent",
    "X-Request-Id",
)
_REMEMBERED: Final = 7_200  # seconds, the most that any browser does


def across(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, for scripts of these origins too; `*` are all."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_ALLOWED,
        expose_headers=_EXPOSED,
        max_age=_REMEMBERED,
    )
