"""What one OpenAPI document takes from the clients of another.

Clients send what the old document let them send, and read by what it promised: each request of
then must be one now, and each answer of now must be one of then. New operations, optional
parameters, members and statuses break nobody. A new value of an enum in an answer does: generated
clients have a closed type for it. Descriptions and examples are not looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Schema = Mapping[str, Any]

_LOWEST: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_HIGHEST: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_SAME: Final = ("pattern", "format", "uniqueItems", "if", "then", "else")
_SHAPES: Final = ("type", "enum", "const", "properties", "required", "additionalProperties")
_KEYWORDS: Final = frozenset(
    {
        *("$ref", "anyOf", "items", "title", "description", "examples", "default"),
        *("x-extensible-enum", *_LOWEST, *_HIGHEST, *_SAME, *_SHAPES),
    }
)
_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")


def breaks(old: Schema, new: Schema) -> list[str]:
    """A line for everything that is taken away.

    Raises ValueError where a schema says what this can't compare.
    """
    return sorted(set(_operations(_Side(old), _Side(new))))


@dataclass(frozen=True, slots=True)
class _Side:
    """A document, whose references can be followed."""

    document: Schema

    def found(self, thing: Schema) -> Schema:
        """What is meant: what is referred to, with what stands beside the reference."""
        while "$ref" in thing:
            target: Any = self.document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            thing = {**target, **{key: thing[key] for key in thing.keys() - {"$ref"}}}
        return thing


def _operations(old: _Side, new: _Side) -> Iterator[str]:
    for path, methods in old.document["paths"].items():
        for method, was in methods.items():
            now = new.document["paths"].get(path, {}).get(method)
            place = f"{method.upper()} {path}"
            if now is None:
                yield f"{place}: gone"
                continue
            if was["operationId"] != now["operationId"]:
                yield f"{place}: operationId was {was['operationId']}, is {now['operationId']}"
            if frozenset() not in _security(now) and not _security(was) <= _security(now):
                yield f"{place}: other credentials are needed"
            yield from _parameters(place, (old, was), (new, now))
            yield from _body(place, (old, was), (new, now))
            yield from _responses(place, (old, was), (new, now))


def _security(operation: Schema) -> set[frozenset[str]]:
    """The ways to be let in; the empty one is to be anybody."""
    return {frozenset(each) for each in operation.get("security") or [{}]}


def _parameters(place: str, was: tuple[_Side, Schema], now: tuple[_Side, Schema]) -> Iterator[str]:
    (old, before), (new, after) = was, now
    known, left = _named(old, before), _named(new, after)
    for key, parameter in known.items():
        if key not in left:
            yield f"{place}: {key}: gone"
            continue
        if left[key].get("required") and not parameter.get("required"):
            yield f"{place}: {key}: required now"
        yield from _asked(f"{place}: {key}", (old, parameter), (new, left[key]))
    for key in left.keys() - known.keys():
        if left[key].get("required"):
            yield f"{place}: {key}: new and required"


def _named(side: _Side, operation: Schema) -> dict[str, Schema]:
    found = map(side.found, operation.get("parameters", ()))
    return {f"{each['in']} {each['name']}": each for each in found}


def _body(place: str, was: tuple[_Side, Schema], now: tuple[_Side, Schema]) -> Iterator[str]:
    (old, before), (new, after) = was, now
    body, left = before.get("requestBody", {}), after.get("requestBody", {})
    if left.get("required") and not body.get("required"):
        yield f"{place}: body: required now"
    for media_type, content in body.get("content", {}).items():
        there = left.get("content", {}).get(media_type)
        if there is None:
            yield f"{place}: body: {media_type}: gone"
        else:
            yield from _asked(f"{place}: body", (old, content), (new, there))


def _asked(place: str, was: tuple[_Side, Schema], now: tuple[_Side, Schema]) -> Iterator[str]:
    (old, before), (new, after) = was, now
    comparison = _Comparison(writer=old, reader=new, answers=False)
    yield from comparison.fits(place, before["schema"], after["schema"])


def _responses(place: str, was: tuple[_Side, Schema], now: tuple[_Side, Schema]) -> Iterator[str]:
    (old, before), (new, after) = was, now
    for status, response in before["responses"].items():
        at = f"{place}: {status}"
        if status not in after["responses"]:
            yield f"{at}: gone"
            continue
        then, there = old.found(response), new.found(after["responses"][status])
        for name in then.get("headers", {}).keys() - there.get("headers", {}).keys():
            yield f"{at}: header {name}: gone"
        for media_type, content in then.get("content", {}).items():
            left = there.get("content", {}).get(media_type)
            if left is None:
                yield f"{at}: {media_type}: gone"
            else:
                yield from _answered(at, (old, content), (new, left))


def _answered(place: str, was: tuple[_Side, Schema], now: tuple[_Side, Schema]) -> Iterator[str]:
    (old, before), (new, after) = was, now
    comparison = _Comparison(writer=new, reader=old, answers=True)
    yield from comparison.fits(place, after["schema"], before["schema"])
    events = after.get("x-events", {})
    for name, data in before.get("x-events", {}).items():
        if name in events:
            yield from comparison.fits(f"{place}: event {name}", events[name], data)
        else:
            yield f"{place}: event {name}: gone"


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Whether what one side writes is what the other side reads."""

    writer: _Side
    reader: _Side
    answers: bool

    def fits(
        self,
        place: str,
        written: Schema,
        read: Schema,
        within: frozenset[tuple[str, str]] = frozenset(),
    ) -> Iterator[str]:
        """Everything that may be written and can't be read; `within` are schemas around it."""
        names = (written.get("$ref", ""), read.get("$ref", ""))
        if all(names):
            if names in within:
                return
            within |= {names}
        written, read = self.writer.found(written), self.reader.found(read)
        if unknown := (written.keys() | read.keys()) - _KEYWORDS:
            raise ValueError(f"{place}: can't compare {sorted(unknown)}")
        if "anyOf" in written or "anyOf" in read:
            yield from self._alternatives(place, written, read, within)
            return
        if not _types(written) <= _types(read):
            yield f"{place}: type was {self._change(_types(written), _types(read))}"
            return
        yield from self._values(place, written, read)
        yield from self._members(place, written, read, within)
        if "items" in written and "items" in read:
            yield from self.fits(f"{place}[]", written["items"], read["items"], within)
        elif "items" in read:
            yield f"{place}[]: anything was written, {read['items']} is read"

    def _alternatives(
        self, place: str, written: Schema, read: Schema, within: frozenset[tuple[str, str]]
    ) -> Iterator[str]:
        for each in written.get("anyOf", [written]):
            readings = read.get("anyOf", [read])
            if all(any(self.fits(place, each, one, within)) for one in readings):
                yield f"{place}: not all of its kinds are left"

    def _values(self, place: str, written: Schema, read: Schema) -> Iterator[str]:
        possible, known = _values(written), _values(read)
        if known is not None and (possible is None or not possible <= known):
            yield f"{place}: values were {self._change(possible, known)}"
        for keyword in (*_LOWEST, *_HIGHEST):
            bound, limit = written.get(keyword), read.get(keyword)
            if limit is None:
                continue
            beyond = bound is None or (bound < limit if keyword in _LOWEST else bound > limit)
            if beyond:
                yield f"{place}: {keyword} was {self._change(bound, limit)}"
        for keyword in _SAME:
            if keyword in read and written.get(keyword) != read[keyword]:
                yield f"{place}: {keyword} was {self._change(written.get(keyword), read[keyword])}"
        if not self.answers and written.get("default") != read.get("default"):
            change = self._change(written.get("default"), read.get("default"))
            yield f"{place}: default was {change}"

    def _members(
        self, place: str, written: Schema, read: Schema, within: frozenset[tuple[str, str]]
    ) -> Iterator[str]:
        members, known = written.get("properties", {}), read.get("properties", {})
        for name in set(read.get("required", ())) - set(written.get("required", ())):
            yield f"{place}.{name}: {'not always there' if self.answers else 'required'} now"
        if self.answers:
            yield from (f"{place}.{name}: gone" for name in known.keys() - members.keys())
        elif read.get("additionalProperties") is False:
            yield from (f"{place}.{name}: gone" for name in members.keys() - known.keys())
            if written.get("additionalProperties") is not False and "object" in _types(written):
                yield f"{place}: other members are refused now"
        for name in members.keys() & known.keys():
            yield from self.fits(f"{place}.{name}", members[name], known[name], within)

    def _change(self, written: object, read: object) -> str:
        was, now = (read, written) if self.answers else (written, read)
        return f"{_shown(was)}, is {_shown(now)}"


def _types(schema: Schema) -> set[str]:
    said = schema.get("type", list(_TYPES))
    types = {said} if isinstance(said, str) else set(said)
    return types | {"integer"} if "number" in types else types


def _values(schema: Schema) -> set[Any] | None:
    if "const" in schema:
        return {schema["const"]}
    return set(schema["enum"]) if "enum" in schema else None


def _shown(value: object) -> str:
    return str(sorted(map(str, value))) if isinstance(value, set) else str(value)
