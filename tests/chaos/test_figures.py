"""What the fault rows say of themselves."""

from tests.chaos import figures
from tests.chaos.figures import at_most, figure


def test_a_figure_is_told_once() -> None:
    """What was told of rows is handed over once, in order."""
    figure("S0", "one")
    figure("S0", "two")

    assert figures.untold() == ["S0: one", "S0: two"]
    assert figures.untold() == []


def test_no_failure_is_a_bound() -> None:
    """Nothing that failed in 300 trials says that at most one in a hundred does."""
    assert at_most(300) == "0 of 300, so <= 0.01 at 95 %"
