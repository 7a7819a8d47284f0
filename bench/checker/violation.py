"""What the judge says of one broken promise."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: `I1` to `I9`, what is wrong, and the ids to look for."""

    invariant: str
    what: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what} [{', '.join(self.ids)}]"
