"""JSON Schema of models, as readers of the OpenAPI document have it."""

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]
REFERENCE: Final = "#/components/schemas/{model}"
_NULL: Final = {"type": "null"}


def never_null(schema: Schema) -> None:
    """Make members that may be missing what they are when they are there."""
    for name, member in schema.get("properties", {}).items():
        schema["properties"][name] = without_null(member)


def without_null(member: Schema) -> Schema:
    """A member whose value None only says that it is not there."""
    if _NULL not in member.get("anyOf", ()):
        return member
    (kind,) = (each for each in member["anyOf"] if each != _NULL)
    rest = {key: value for key, value in member.items() if key not in {"anyOf", "default"}}
    return {**kind, **rest}


def untitled(schema: Any) -> Any:
    """The schema without the titles that only repeat the names of members."""
    if isinstance(schema, list):
        return [untitled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _members(value) if key == "properties" else untitled(value)
        for key, value in schema.items()
        if key != "title"
    }


def _members(properties: Mapping[str, Any]) -> Schema:
    return {name: untitled(member) for name, member in properties.items()}


def example(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    """What something of this schema looks like, by the examples in it.

    An optional member is shown where it has an example of its own. Raises KeyError where a value
    has neither an example nor anything that says what it may be.
    """
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return example(schema["anyOf"][0], schemas)
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            return {
                name: example(member, schemas)
                for name, member in schema.get("properties", {}).items()
                if name in required or "examples" in member
            }
        case "array":
            return [example(schema["items"], schemas)]
        case _:
            return schema["const"] if "const" in schema else schema["enum"][0]
