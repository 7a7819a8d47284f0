"""Slots give processes of one service small stable numbers."""

import subprocess
import sys
from pathlib import Path

import pytest

from consulmesh.slots import Slot, SlotTakenError

HOLD = """
import sys
from pathlib import Path
from consulmesh.slots import Slot
slot = Slot.take(Path(sys.argv[1]), "booking")
print(slot.instance_id, flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that takes a slot and holds it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    """The id that a holder printed."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_lowest_free_slot_is_taken(tmp_path: Path) -> None:
    """Slots count from 1 for every service; one that is given back is the next to be taken."""
    first, second = Slot.take(tmp_path, "booking"), Slot.take(tmp_path, "booking")
    other = Slot.take(tmp_path, "pricing")
    first.close()
    third = Slot.take(tmp_path, "booking")
    found = [slot.instance_id for slot in (second, other, third)]
    for slot in (first, second, other, third):
        slot.close()

    assert found == ["booking-2", "pricing-1", "booking-1"]
    assert (second.number, third.number) == (2, 1)


def test_a_killed_process_gives_its_slot_back(tmp_path: Path) -> None:
    """The kernel does it, however the process ends; the next one has the same id."""
    with holder(tmp_path) as process:
        theirs = first_line(process)
        with Slot.take(tmp_path, "booking") as ours:
            beside = ours.instance_id
        process.kill()
        process.wait()
        with Slot.take(tmp_path, "booking") as ours:
            after = ours.instance_id

    assert (theirs, beside, after) == ("booking-1", "booking-2", "booking-1")


def test_an_id_that_is_held_is_refused(tmp_path: Path) -> None:
    """Two live processes cannot be one instance; the error says who it is."""
    with Slot.take(tmp_path, "booking"), pytest.raises(SlotTakenError, match="booking-1 is held"):
        Slot.take(tmp_path, "booking", "booking-1")


@pytest.mark.parametrize(
    ("instance_id", "number"), [("booking-7", 7), ("blue", 0), ("pricing-3", 0)]
)
def test_an_own_id_has_the_number_it_ends_with(
    tmp_path: Path, instance_id: str, number: int
) -> None:
    """An id of the service's own form is a slot like any other."""
    with Slot.take(tmp_path / "new" / "folder", "booking", instance_id) as slot:
        taken = slot.instance_id, slot.number

    assert taken == (instance_id, number)


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """What has been given back is not given back again."""
    slot = Slot.take(tmp_path, "booking")
    slot.close()
    slot.close()

    assert repr(slot) == "Slot('booking-1', held=False)"
