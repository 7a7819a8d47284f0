"""The reference: the OpenAPI document, and a page that shows it to people.

The page is Swagger UI. Its parts are the gateway's too, so that nobody else's code runs beside
bearer tokens; it may load them and the document, nothing else.
"""

import re
from base64 import b64encode
from hashlib import sha256
from typing import Final

import orjson
from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from gateway_bff import security
from gateway_bff.reply import revalidated

_DOCUMENT: Final = "/openapi.json"
PARTS_PATH: Final = "/docs/static"
PARTS: Final = StaticFiles(packages=[("fastapi_offline", "static")])
_INLINE: Final = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_PAGE: Final = bytes(
    get_swagger_ui_html(
        openapi_url=_DOCUMENT,
        title="flightmesh",
        swagger_js_url=f"{PARTS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{PARTS_PATH}/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body
)
_SCRIPTS: Final = " ".join(
    f"'sha256-{b64encode(sha256(script).digest()).decode('ascii')}'"
    for script in _INLINE.findall(_PAGE)
)
_HEADERS: Final = security.headers(
    f"default-src 'none'; script-src 'self' {_SCRIPTS}; "
    "style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(tags=["system"])


@router.get(_DOCUMENT, include_in_schema=False)
async def document(request: Request) -> Response:
    """Show the OpenAPI document."""
    app: FastAPI = request.app
    return revalidated(request, orjson.dumps(app.openapi()))


@router.get("/docs", include_in_schema=False)
async def page(request: Request) -> Response:
    """Show the page."""
    request.scope[security.HEADERS] = _HEADERS
    return HTMLResponse(_PAGE)
