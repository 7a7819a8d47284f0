"""Routes: which call goes to which cluster, and which may be tried again (gRFC A28, A44)."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from consulmesh.xds.messages import RetryPolicy, Route, RouteAction, RouteMatch

NO_RETRY_HEADER: Final = "mesh-no-retry"
"""A call that carries it is tried once: the caller's retry budget is empty."""

ATTEMPTS: Final = 3
RETRY_ON: Final = "unavailable,cancelled"
"""UNAVAILABLE (AIP-194), and CANCELLED: the answer of a server that stops to a call that reaches it
in that moment. A client's own cancellation ends all attempts and is never retried."""

_BACK_OFF: Final = {
    "base_interval": timedelta(milliseconds=25),
    "max_interval": timedelta(milliseconds=250),
}
_ANY_VALUE: Final = {"name": NO_RETRY_HEADER, "present_match": True}


def every_call() -> Any:
    """Return the match of all methods."""
    return RouteMatch(prefix="")


def to_cluster(name: str) -> Any:
    """Return the action that sends a call to one cluster, once."""
    return RouteAction(cluster=name)


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
    if match.WhichOneof("path_specifier") == "path":
        return bool(match.path == method)
    return method.startswith(match.prefix)


def _with_header(match: Any) -> Any:
    narrowed = RouteMatch(headers=[_ANY_VALUE])
    narrowed.MergeFrom(match)
    return narrowed


def _narrowed(match: Any, method: str) -> Any:
    narrowed = RouteMatch()
    narrowed.CopyFrom(match)
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
