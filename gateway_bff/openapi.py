"""The OpenAPI document: every operation with its problems, in their own media type.

It is made for generators of clients too: operations have short names of their own, everything that
goes in or out has an example, and what clients act on in headers is there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.routing import BaseRoute

from gateway_bff import __version__
from gateway_bff.json_schema import REFERENCE, Schema, example, untitled
from gateway_bff.problems import CODES, MEDIA_TYPE, TITLES
from gateway_bff.schemas import Done, Live, LivePrices, Problem, Removed, Reset, Stale

NAME: Final = "flightmesh"
SUMMARY: Final = "Flights: search, quote, book"
_DESCRIPTION: Final = f"""\
Search flights, have one quoted, book what was quoted, and watch prices and flights as they change.

- Every error is a problem document (RFC 9457, `{MEDIA_TYPE}`): branch on its `code`, and take one
  that you don't know by its status. A 429 or 503 says when to come back (`Retry-After`).
- What changes something takes an `Idempotency-Key`: send it again with the same request, and
  nothing happens twice.
- Money is a decimal string. Instants are RFC 3339, at airports with the offset there.
- Lists have pages: send `next_page_token` back as `page_token`; it is missing on the last page.
- Answers get new members over time: ignore those that you don't know.
"""
_TAGS: Final = (
    {"name": "search", "description": "Find itineraries, round trips, good days and airports."},
    {"name": "flights", "description": "Flights as they are now."},
    {"name": "live", "description": "Prices and flights as server-sent events that resume."},
    {"name": "quotes", "description": "Prices that hold for a while. Who knows an id may use it."},
    {"name": "bookings", "description": "Book, look and give back: own bookings only."},
    {"name": "operations", "description": "What operators change, and the mesh they see."},
)
_ANYWHERE: Final = (400, 414, 429, 500, 503, 504)
_BESIDES: Final = (Problem, Done, LivePrices, Removed, Reset, Stale, Live)
"""What no route names as its answer."""
_EVENTS: Final = "x-events"
"""Beside the schema of an event stream: by an event's name, the schema of its data."""
EVENT_STREAM: Final = "text/event-stream"


def header(description: str, sample: Any, **schema: Any) -> dict[str, Any]:
    """A header of a response; a string unless said otherwise."""
    return {"description": description, "schema": {"type": "string", **schema}, "example": sample}


ETAG: Final = {
    "ETag": header("For If-None-Match: 304 where the answer is the same", '"8f1c5a0e9d27b634"')
}
LOCATION: Final = {"Location": header("Where it can be looked at", "/v1/bookings/bkg_abcdefgh")}
WAIT: Final = {
    "Retry-After": header("Seconds to wait before another try", 1, type="integer", minimum=1)
}
_HEADERS_OF: Final[Mapping[int, Mapping[str, Any]]] = {
    401: {"WWW-Authenticate": header("What is wanted (RFC 6750)", "Bearer")},
    429: WAIT,
    503: WAIT,
}
_EVERYWHERE: Final = {
    "RateLimit": header(
        "What is left of limits that apply: `r` more until `t` seconds from now",
        '"requests";r=199;t=1',
    ),
    "RateLimit-Policy": header(
        "The limits that apply: `q` in `w` seconds", '"requests";q=1200;w=60'
    ),
    "X-Request-Id": header("The request's id: the one that was sent, or a new one", "7f9c24e8"),
}
IF_NONE_MATCH: Final[dict[str, Any]] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of an answer: 304 where it would be the same.",
    "schema": {"type": "string", "examples": ['"8f1c5a0e9d27b634"']},
}

Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """The problem responses of an operation: these, and those that any of them may give."""
    responses: Responses = {
        status: {
            "description": _description(status),
            "content": _content(_samples(status)),
            **({"headers": _HEADERS_OF[status]} if status in _HEADERS_OF else {}),
        }
        for status in sorted({*statuses, *_ANYWHERE})
    }
    return responses | {
        "default": {"description": "Any other problem", "content": _content(_samples(405))}
    }


def revalidated(model: type[BaseModel], headers: Mapping[str, Any] | None = None) -> Responses:
    """An answer that is asked for again by its ETag."""
    sent = {**ETAG, **(headers or {})}
    return {
        200: {"model": model, "headers": sent},
        304: {"description": "As it was when it had this ETag", "headers": sent},
    }


def event_stream(events: Mapping[str, type[BaseModel]], sample: str) -> dict[str, Any]:
    """The content of a stream with these events; `sample` is what one looks like on the wire."""
    data = {name: {"$ref": _reference(model)} for name, model in events.items()}
    return {EVENT_STREAM: {"schema": {"type": "string"}, "example": sample, _EVENTS: data}}


def _description(status: int) -> str:
    return ", ".join(f"`{code}` ({title})" for code, title in TITLES[status].items())


def _content(samples: Schema) -> Schema:
    return {MEDIA_TYPE: {"schema": {"$ref": _reference(Problem)}, "examples": samples}}


def _samples(status: int) -> Schema:
    """A problem for each code of a status."""
    return {
        code: {
            "summary": title,
            "value": {
                "type": CODES[code].type,
                "title": title,
                "status": status,
                "detail": f"{title}.",
                "instance": "/v1/…",
                "code": code,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            },
        }
        for code, title in TITLES[status].items()
    }


def _reference(model: type[BaseModel]) -> str:
    return REFERENCE.format(model=model.__name__)


def document(app: FastAPI) -> Schema:
    """The document of this application; made once."""
    if app.openapi_schema is None:
        app.openapi_schema = made(app.routes)
    return app.openapi_schema


def made(routes: Sequence[BaseRoute]) -> Schema:
    """The document of these routes."""
    found = get_openapi(
        title=NAME,
        version=__version__,
        summary=SUMMARY,
        description=_DESCRIPTION,
        routes=routes,
        tags=[dict(tag) for tag in _TAGS],
        servers=[{"url": "/", "description": "Where this document comes from"}],
        contact={"name": NAME, "url": "https://flightmesh.dev"},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = found["components"]
    for model in _BESIDES:
        schema = model.model_json_schema(ref_template=REFERENCE)
        components["schemas"] |= {**schema.pop("$defs", {}), model.__name__: schema}
    # not an enum: a client must live with codes that are newer than it
    components["schemas"]["Problem"]["properties"]["code"]["x-extensible-enum"] = sorted(CODES)
    components["schemas"] = {
        name: untitled(schema) for name, schema in sorted(components["schemas"].items())
    }
    components["headers"] = _EVERYWHERE
    components["responses"] = {}
    for operation in _operations(found):
        _complete(operation, components)
    return found


def _operations(found: Schema) -> Iterator[Schema]:
    for methods in found["paths"].values():
        yield from methods.values()


def _complete(operation: Schema, components: Schema) -> None:
    """Give an operation its examples, and the headers that every answer has.

    Problems of one status are the same everywhere: they stand among the components once.
    """
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = untitled(parameter["schema"])
    everywhere = {name: {"$ref": f"#/components/headers/{name}"} for name in _EVERYWHERE}
    for response in operation["responses"].values():
        response["headers"] = {**response.get("headers", {}), **everywhere}
    for message in (operation.get("requestBody", {}), *operation["responses"].values()):
        content = message.get("content", {}).get("application/json")
        if content is not None:
            content["example"] = example(content["schema"], components["schemas"])
    for status, response in operation["responses"].items():
        if MEDIA_TYPE in response.get("content", {}):
            name = f"Problem{status}".replace("default", "")
            components["responses"][name] = response
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
