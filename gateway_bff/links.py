"""Links to the next page of a list (RFC 8288), beside the token in its body."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from starlette.types import Scope

from gateway_bff import openapi

HEADERS: Final = {
    "Link": openapi.header(
        "The next page, where there is one; relative (RFC 8288)",
        '</v1/bookings?page_token=eyJvIjoiSkZLIn0>; rel="next"',
    )
}
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_TOKEN: Final = "page_token"  # noqa: S105 - the name of a parameter


def next_page(scope: Scope, token: str) -> Mapping[str, str]:
    """The header that links to the page of this token, with the request's other parameters."""
    if not token:
        return _NONE
    return {"Link": f'<{_page(scope["path"], scope["query_string"])}{quote(token)}>; rel="next"'}


@lru_cache(maxsize=1024)
def _page(path: str, query: bytes) -> str:
    """The target but for its token, which comes last."""
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    others = [(name, value) for name, value in given if name != _TOKEN]
    return f"{path}?{urlencode([*others, (_TOKEN, '')])}"
