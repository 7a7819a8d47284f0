"""Why a question has no answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing wrong with one field of a request."""

    field: str
    reason: str
    description: str


class InvalidQueryError(Exception):
    """A question that has no answer; `violations` says everything that is wrong with it."""

    TELLING = ("UNKNOWN_AIRPORT", "DATE_OUT_OF_RANGE", "INVALID_PAGE_TOKEN")

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @property
    def reason(self) -> str:
        """The first violation with a reason of its own, else VALIDATION_FAILED."""
        reasons = (violation.reason for violation in self.violations)
        return next((reason for reason in reasons if reason in self.TELLING), "VALIDATION_FAILED")


class PositionNotReachedError(Exception):
    """The read model did not get as far as the caller asked while it was worth waiting."""

    reason = "POSITION_NOT_REACHED"


class OtherShardError(Exception):
    """The day belongs to another shard: this one knows too little of it to answer."""

    reason = "OTHER_SHARD"

    def __init__(self, day: date, number: int, count: int) -> None:
        super().__init__(f"shard {number} of {count} answers for {day}")
        self.metadata = {"shard": str(number), "shards": str(count)}


def invalid(field: str, reason: str, description: str) -> InvalidQueryError:
    """One thing wrong with one field."""
    return InvalidQueryError([Violation(field=field, reason=reason, description=description)])
