"""What browsers may do with an answer: headers of every one of them.

An answer is data: whoever opens it as a page gets one that loads nothing and fits in no frame.
"""

from typing import Final

Headers = tuple[tuple[bytes, bytes], ...]

HEADERS: Final = "flightmesh.security"
"""In the scope, where a route leaves those of an answer that is not data."""
HSTS: Final = "max-age=31536000"
"""What an answer over TLS says where nothing else is configured (RFC 6797)."""


def headers(policy: str) -> Headers:
    """The headers of an answer with this Content-Security-Policy."""
    return (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"content-security-policy", policy.encode("ascii")),
    )


OF_DATA: Final = headers("default-src 'none'; frame-ancestors 'none'")


def transport(hsts: str) -> Headers:
    """The header that keeps browsers to TLS."""
    return ((b"strict-transport-security", hsts.encode("ascii")),)
