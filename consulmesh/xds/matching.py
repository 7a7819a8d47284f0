"""Which calls a route of a service-router is about, in xDS terms (gRFC A28)."""

import re
from typing import Any, Final

from consulmesh.xds.chain import Json
from consulmesh.xds.messages import HeaderMatcher, RouteMatch

_PATHS: Final = {"PathExact": "path", "PathPrefix": "prefix", "PathRegex": "safe_regex"}
_CONDITIONS: Final = {"CaseInsensitive", "Methods", "Header"}
_STRINGS: Final = {
    "Exact": "exact",
    "Prefix": "prefix",
    "Suffix": "suffix",
    "Contains": "contains",
    "Regex": "safe_regex",
}
_NOT_RE2: Final = re.compile(
    r"\\([^afnrtvdDsSwWA\W_]|[^\x00-\x7f])"  # back references, escapes that mean something else
    r"|\(\?(?!:|[ims]+[:)]|P<)"  # looking around, comments, conditions
    r"|[*+?}]\+"  # possessive quantifiers
    r"|\{,|\{(\d*,)?\d{4}"  # other repetitions, or too many
)
"""What Python understands and RE2 does not, or not so: gRPC core would refuse the listener."""


class UnmatchableError(Exception):
    """A condition that no gRPC call fulfils, or that gRPC core cannot look at."""


def every_call() -> Any:
    """Return the match of all methods."""
    return RouteMatch(prefix="")


def route_match(definition: Json) -> Any:
    """Return the match of a route's `Definition`; raises UnmatchableError with the reason.

    A condition is never left out: its route would get calls that are not meant for it.
    """
    http = {key: value for key, value in _http(definition).items() if value}
    if unknown := http.keys() - _PATHS.keys() - _CONDITIONS:
        raise UnmatchableError(f"{min(unknown)} is nothing that a gRPC call has")
    if "POST" not in http.get("Methods", ("POST",)):
        raise UnmatchableError("gRPC calls are all POST")
    match = _path(http)
    match.headers.extend(_header(header) for header in http.get("Header", ()))
    return match


def described(definition: Json) -> str:
    """Return a match in words, for warnings."""
    conditions = (f"{key}={value}" for key, value in _http(definition).items())
    return ", ".join(conditions) or "of every call"


def _http(definition: Json) -> Json:
    return (definition.get("Match") or {}).get("HTTP") or {}


def _path(http: Json) -> Any:
    condition = next((key for key in _PATHS if key in http), None)
    if condition is None or http[condition] == "/":
        return every_call()
    value = _regex(http[condition]) if condition == "PathRegex" else http[condition]
    match = RouteMatch(**{_PATHS[condition]: value})
    if http.get("CaseInsensitive") and condition != "PathRegex":
        match.case_sensitive.value = False
    return match


def _header(header: Json) -> Any:
    name = header["Name"].lower()
    if name.endswith("-bin"):
        raise UnmatchableError(f"{name}: gRPC core does not look at binary metadata")
    conditions = {k: v for k, v in header.items() if v and k not in {"Name", "Invert"}}
    match = HeaderMatcher(name=name, invert_match=bool(header.get("Invert")))
    for condition, value in conditions.items():
        if condition == "Present":
            match.present_match = True
        elif field := _STRINGS.get(condition):
            is_regex = condition == "Regex"
            match.string_match.MergeFrom(_string(field, _regex(value) if is_regex else value))
        else:
            raise UnmatchableError(f"{name}: {condition} is unknown")
    if not conditions:
        raise UnmatchableError(f"{name}: no condition")
    return match


def _string(field: str, value: object) -> Any:
    return HeaderMatcher(string_match={field: value}).string_match


def _regex(text: str) -> dict[str, str]:
    """Return a regular expression as xDS has it, if both RE2 and Python understand it."""
    try:
        re.compile(text)
    except re.error as error:
        raise UnmatchableError(f"{text!r} is no regular expression: {error}") from None
    if _NOT_RE2.search(text):
        raise UnmatchableError(f"{text!r} may mean something else to RE2")
    return {"regex": text}
