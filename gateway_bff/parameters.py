"""Parameters: those of paths, and those of queries, by a model.

FastAPI's own `Query` models cost about as much as the gRPC call that follows. This reads the same
model from the same parameters, with the same errors, and documents them the same.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, get_origin

from fastapi import Path
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from starlette.requests import Request

from gateway_bff.json_schema import REFERENCE, Schema, untitled, without_null

FlightId = Annotated[str, Path(description="A flight.", examples=["flt_abcdefgh23456723"])]
QuoteId = Annotated[str, Path(description="A quote.", examples=["quo_abcdefghijklmnopqrstuvwxyz"])]
BookingId = Annotated[
    str, Path(description="A booking.", examples=["bkg_abcdefghijklmnopqrstuvwxyz"])
]
Origin = Annotated[str, Path(description="IATA code of an airport.", examples=["JFK"])]
Destination = Annotated[str, Path(description="IATA code of an airport.", examples=["LAX"])]

_Model = TypeVar("_Model", bound=BaseModel)


def parameters(model: type[_Model]) -> Callable[[Request], Awaitable[_Model]]:
    """A dependency: the request's query parameters as this model.

    Members that are lists take every value of a parameter, the others the last one.
    """
    lists = [name for name, field in model.model_fields.items() if _is_list(field)]

    async def read(request: Request) -> _Model:
        given = request.query_params
        several = {name: given.getlist(name) for name in lists if name in given}
        try:
            return model.model_validate({**given, **several})
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            wrong = [{**each, "loc": ("query", *each["loc"])} for each in found]
            raise RequestValidationError(wrong) from None

    return read


def _is_list(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is list


def documented(model: type[BaseModel], *headers: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI shows of them; `headers` are parameters of their own."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    required = schema.get("required", ())
    shown = [
        _parameter(name, without_null(untitled(member)), required=name in required)
        for name, member in schema["properties"].items()
    ]
    return {"parameters": [*shown, *headers]}


def _parameter(name: str, member: Schema, *, required: bool) -> Schema:
    described = {"description": member.pop("description")} if "description" in member else {}
    return {"name": name, "in": "query", "required": required, "schema": member, **described}
