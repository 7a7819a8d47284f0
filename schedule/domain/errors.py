"""Why a request is refused. The class names, spelled in capitals, are the reasons of the API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class Refusal(Exception):  # noqa: N818 - the names are the API's reasons
    """Nothing was changed. `metadata` goes to the caller beside the message."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.metadata: Mapping[str, str] = metadata


class NotFound(Refusal):
    """What the request names does not exist."""


class FlightNotFound(NotFound):
    """No such flight is in the timetable."""


class HoldNotFound(NotFound):
    """Nothing was ever held for that booking."""


class NotPossible(Refusal):
    """The state of what the request names does not allow it."""


class FlightCancelled(NotPossible):
    """The flight does not fly."""


class FlightDeparted(NotPossible):
    """The flight has left."""


class SeatsUnavailable(NotPossible):
    """A segment has fewer seats than asked for; no segment was held."""


class HoldReleased(NotPossible):
    """The seats of that booking were given back for good."""


class HoldExpired(NotPossible):
    """The hold ran out before it was confirmed."""


class StaleEpoch(NotPossible):
    """A newer saga has spoken for that booking."""


class EtagMismatch(Refusal):
    """The flight has changed since the caller looked at it."""


class RequestIdReused(Refusal):
    """The same request id came before, with other content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One field of a request that can't be taken."""

    field: str
    reason: str
    description: str


class Invalid(Refusal):
    """The request contradicts what is known; `violations` name the fields."""

    reason = "VALIDATION_FAILED"

    def __init__(self, *violations: Violation) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations: Sequence[Violation] = violations
