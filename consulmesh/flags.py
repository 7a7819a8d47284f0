"""Feature flags: the fields of a dataclass, kept as Consul's key-value store has them.

A flag is declared by a field with its type and default, and set by an operator at
`flags/<service>/<name>`, the name with dashes:

    @dataclass(slots=True, kw_only=True)
    class Switches:
        two_stops: bool = True

    switches = mesh.flags(Switches())      # consul kv put flags/flight-search/two-stops false

Reading one is reading an attribute. What declares and reads flags needs to know nothing of Consul.
Without Consul the defaults hold, and what was read before it went away. A key that is deleted means
the default again; a value of another type is told once and changes nothing.
"""

import base64
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any, Final, get_type_hints

import structlog

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.watch import Change, Watch

FOLDER: Final = "flags"
_BOOLEANS: Final = {"true": True, "false": False}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")

log = structlog.get_logger()


class Flags:
    """Follows the flags of one service into an object, all of a change in one turn of the loop.

    Made where the event loop runs, followed until `aclose`. Raises TypeError for a declaration
    that is no dataclass instance, or has a field whose type no text can be.

    All mutable state: the fields of the object, and which values were told to be unusable.
    """

    def __init__(self, consul: ConsulApi, service: str, declared: object) -> None:
        self._declared = declared
        self._parsers = {name: _parser(name, kind) for name, kind in _fields(declared).items()}
        self._defaults = {name: getattr(declared, name) for name in self._parsers}
        self._prefix = f"{FOLDER}/{service}/"
        self._told: dict[str, bytes] = {}
        self._watch = Watch(consul, Query.keys(self._prefix), self._changed)
        self._watch.start()

    def __repr__(self) -> str:
        return f"Flags({self._declared!r})"

    async def aclose(self) -> None:
        """Follow no more; what was read stays. May be called twice."""
        await self._watch.aclose()

    def _changed(self, change: Change) -> None:
        values = dict(self._values(change.data or ()))
        self._told = {key: value for key, value in self._told.items() if values.get(key) == value}
        for key in values.keys() - {_key(name) for name in self._parsers}:
            self._tell(key, values[key], "no flag has this name")
        for name, default in self._defaults.items():
            raw = values.get(_key(name))
            self._set(name, default if raw is None else self._read(name, raw))

    def _values(self, entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, bytes]]:
        """The raw values by key; Consul has none for a folder, and null for an empty one."""
        for entry in entries:
            if key := entry["Key"].removeprefix(self._prefix):
                yield key, base64.b64decode(entry["Value"] or "")

    def _read(self, name: str, raw: bytes) -> Any:
        """The value of a flag; that of before where this one makes no sense."""
        try:
            return self._parsers[name](raw.decode().strip())
        except ValueError as error:  # UnicodeDecodeError is one
            self._tell(_key(name), raw, str(error))
            return getattr(self._declared, name)

    def _set(self, name: str, value: Any) -> None:
        before = getattr(self._declared, name)
        if value != before:
            setattr(self._declared, name, value)
            log.info("flag_changed", flag=_key(name), value=value, before=before)

    def _tell(self, key: str, raw: bytes, reason: str) -> None:
        if self._told.get(key) != raw:
            self._told[key] = raw
            shown = raw[:100].decode(errors="replace")
            log.warning("flag_unusable", flag=key, value=shown, reason=reason)


def _key(name: str) -> str:
    return name.replace("_", "-")


def _fields(declared: object) -> Mapping[str, Any]:
    if not dataclasses.is_dataclass(declared) or isinstance(declared, type):
        raise TypeError(f"{declared!r} is no instance of a dataclass")
    if declared.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # typeshed hides it
        raise TypeError(f"{type(declared).__name__} is frozen: its fields are to change")
    kinds = get_type_hints(type(declared))
    return {field.name: kinds[field.name] for field in dataclasses.fields(declared)}


def _parser(name: str, kind: Any) -> Callable[[str], Any]:
    """What reads values of a type; each raises ValueError with what was expected."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return partial(_member, kind)
    if kind in _PARSERS:
        return _PARSERS[kind]
    raise TypeError(f"{name}: a flag is bool, int, float, str or an Enum, not {kind}")


def _boolean(text: str) -> bool:
    if (value := _BOOLEANS.get(text.lower())) is None:
        raise ValueError("neither true nor false")
    return value


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError("not an integer")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("not a number") from None
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _member(kind: type[Enum], text: str) -> Enum:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"none of {', '.join(str(member.value) for member in kind)}") from None


_PARSERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    bool: _boolean,
    int: _integer,
    float: _number,
    str: str,
}
