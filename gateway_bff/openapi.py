"""The OpenAPI document: every operation with its problems, in their own media type."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway_bff.problems import CODES, MEDIA_TYPE, TITLES
from gateway_bff.schemas import LivePrices, Problem, Removed, Reset, Stale

_REFERENCE = "#/components/schemas/{model}"
_ANYWHERE = (400, 429, 500, 503, 504)
_LATER = (429, 503)
_WAIT = {
    "Retry-After": {
        "description": "Seconds to wait before another try",
        "schema": {"type": "integer", "minimum": 1},
    }
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """The problem responses of an operation: these, and those that any of them may give."""
    responses: Responses = {
        status: {
            "description": _description(status),
            "content": _content(),
            **({"headers": _WAIT} if status in _LATER else {}),
        }
        for status in sorted({*statuses, *_ANYWHERE})
    }
    return responses | {"default": {"description": "Any other problem", "content": _content()}}


def _description(status: int) -> str:
    return ", ".join(f"`{code}` ({title})" for code, title in TITLES[status].items())


def _content() -> dict[str, Any]:
    return {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model=Problem.__name__)}}}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of this application; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        made["components"]["schemas"] |= _problem_schemas() | _event_schemas()
        app.openapi_schema = made
    return app.openapi_schema


def _event_schemas() -> dict[str, Any]:
    """What events of live streams hold; OpenAPI 3.1 can't say it of a stream itself."""
    shown: dict[str, Any] = {}
    for model in (LivePrices, Removed, Reset, Stale):
        schema = model.model_json_schema(ref_template=_REFERENCE)
        shown |= {**schema.pop("$defs", {}), model.__name__: schema}
    return shown


def _problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template=_REFERENCE)
    nested = schema.pop("$defs", {})
    schema["properties"]["code"]["enum"] = sorted(CODES)
    return {**nested, Problem.__name__: schema}
