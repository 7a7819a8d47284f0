"""Routes: which call goes to which cluster, and which may be tried again (gRFC A28, A44)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from consulmesh.propagation import NO_RETRY
from consulmesh.xds.chain import Json, Warn
from consulmesh.xds.messages import RetryPolicy, Route, RouteAction, RouteMatch

ATTEMPTS: Final = 3
RETRY_ON: Final = "unavailable,cancelled"
"""UNAVAILABLE (AIP-194), and CANCELLED: the answer of a server that stops to a call that reaches it
in that moment. A client's own cancellation ends all attempts and is never retried."""

_CONDITIONS: Final = {
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
}
_UNAVAILABLE: Final = {429, 502, 503, 504}
"""The HTTP status codes that gRPC takes for UNAVAILABLE (its http-grpc-status-mapping)."""
_BACK_OFF: Final = {
    "base_interval": timedelta(milliseconds=25),
    "max_interval": timedelta(milliseconds=250),
}
_ANY_VALUE: Final = {"name": NO_RETRY, "present_match": True}


def to_clusters(weights: Mapping[str, int]) -> Any:
    """Return the action that sends each call once, to clusters by their weights."""
    if len(weights) == 1:
        return RouteAction(cluster=next(iter(weights)))
    clusters = [{"name": name, "weight": {"value": share}} for name, share in weights.items()]
    return RouteAction(weighted_clusters={"clusters": clusters})


def retry_policy(destination: Json, warn: Warn) -> Any:
    """Return the retries of a service-router's `Destination`, None where it asks for none.

    A number of retries does nothing without a condition.
    """
    wanted = [str(condition) for condition in destination.get("RetryOn") or ()]
    codes = set(destination.get("RetryOnStatusCodes") or ())
    if destination.get("RetryOnConnectFailure") or codes & _UNAVAILABLE:
        wanted.append("unavailable")
    for condition in (*wanted, *sorted(codes - _UNAVAILABLE)):
        if condition not in _CONDITIONS:
            warn(f"retry on {condition} is nothing that gRPC core does")
    conditions = sorted(_CONDITIONS.intersection(wanted))
    if not conditions:
        if destination.get("NumRetries"):
            warn("NumRetries has no effect without a condition to retry on")
        return None
    return RetryPolicy(
        retry_on=",".join(conditions),
        num_retries={"value": destination.get("NumRetries") or 1},
        retry_back_off=_BACK_OFF,
    )


def routes(match: Any, action: Any, retryable: Sequence[str]) -> Iterator[Any]:
    """Yield the routes of one match, first hit first, so that retryable methods are retried.

    An action that has a retry policy of its own keeps it for all its methods; otherwise each of the
    retryable methods (full paths) that the match can reach gets ours, and no other method any.
    """
    if action.HasField("retry_policy"):
        yield Route(match=_with_header(match), route=_once(action))
        yield Route(match=match, route=action)
        return
    reached = [method for method in retryable if _reaches(match, method)]
    if reached:
        yield Route(match=_with_header(match), route=action)
    for method in reached:
        yield Route(match=_narrowed(match, method), route=_retried(action))
    yield Route(match=match, route=action)


def _reaches(match: Any, method: str) -> bool:
    kind = match.WhichOneof("path_specifier")
    if kind == "safe_regex":
        return re.fullmatch(match.safe_regex.regex, method) is not None
    path: str = getattr(match, kind)
    if match.HasField("case_sensitive"):
        path, method = path.lower(), method.lower()
    return method == path if kind == "path" else method.startswith(path)


def _with_header(match: Any) -> Any:
    narrowed = RouteMatch(headers=[_ANY_VALUE])
    narrowed.MergeFrom(match)
    return narrowed


def _narrowed(match: Any, method: str) -> Any:
    narrowed = RouteMatch()
    narrowed.CopyFrom(match)
    narrowed.ClearField("case_sensitive")
    narrowed.path = method
    return narrowed


def _once(action: Any) -> Any:
    single = RouteAction()
    single.CopyFrom(action)
    single.ClearField("retry_policy")
    return single


def _retried(action: Any) -> Any:
    retried = RouteAction()
    retried.CopyFrom(action)
    retried.retry_policy.CopyFrom(
        RetryPolicy(
            retry_on=RETRY_ON,
            num_retries={"value": ATTEMPTS - 1},
            retry_back_off=_BACK_OFF,
        )
    )
    return retried
