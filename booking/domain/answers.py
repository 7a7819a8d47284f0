"""How a participant's answer to a step can differ from yes.

Only what its contract names is a refusal. Everything else leaves the outcome open, and the step,
which is idempotent, is asked again.
"""
# ruff: noqa: N818 - answers, not errors

from booking.domain.booking import Rejection


class Answer(Exception):
    """Any answer but yes."""


class Refused(Answer):
    """Definitely no: it was not done and, asked again, will not be."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.reason}: {rejection.message}")
        self.rejection = rejection


class Unanswered(Answer):
    """Done or not done, nobody knows."""


class Superseded(Answer):
    """Another instance has taken this saga: it is no longer ours to touch."""
