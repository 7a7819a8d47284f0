"""Which of the listed instances may be called, and which absent ones are still believed in."""

from datetime import timedelta
from typing import Any

import pytest

from consulmesh.instances import Believed, Listed, Status

NEVER = float("-inf")


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time it shows."""
        return self.now


def entry(
    number: int = 1,
    *checks: tuple[str, str],
    address: str = "10.0.0.1",
    port: int | None = None,
    **service: Any,
) -> Listed:
    """An element of a health answer; checks are (status, output)."""
    return Listed.of(
        {
            "Node": {"Address": "10.9.9.9"},
            "Service": {
                "ID": f"x-{number}",
                "Address": address,
                "Port": port or 5000 + number,
                "Meta": {"version": "1.2.3"},
                "Weights": {"Passing": 10, "Warning": 1},
                **service,
            },
            "Checks": [
                {"CheckID": f"check-{i}", "Status": status, "Output": output}
                for i, (status, output) in enumerate(checks)
            ],
        }
    )


def believed(clock: Clock) -> Believed:
    """The set of one target, with a window of 10 s."""
    return Believed(timedelta(seconds=10), clock)


def ids(instances: Any) -> list[str]:
    """Their ids, in order."""
    return [instance.id for instance in instances]


@pytest.mark.parametrize(
    ("checks", "status", "weight", "usable"),
    [
        ([], Status.PASSING, 10, True),
        ([("passing", "ok"), ("passing", "ok")], Status.PASSING, 10, True),
        ([("passing", "ok"), ("warning", "slow")], Status.WARNING, 1, True),
        ([("warning", "slow"), ("critical", "gone")], Status.CRITICAL, 10, False),
        ([("maintenance", "")], Status.CRITICAL, 10, False),
    ],
)
def test_the_worst_check_decides(
    checks: list[tuple[str, str]], status: Status, weight: int, *, usable: bool
) -> None:
    """Warning instances are called with their own weight, critical ones not at all."""
    listed = entry(1, *checks)

    assert (listed.instance.status, listed.instance.weight) == (status, weight)
    assert listed.usable is usable


def test_a_weight_of_zero_means_no_calls() -> None:
    """An operator may say that an instance with a warning gets nothing."""
    listed = entry(1, ("warning", "slow"), Weights={"Passing": 1, "Warning": 0})

    assert not listed.usable


def test_an_empty_address_is_the_nodes() -> None:
    """A service may be registered without an address of its own."""
    assert entry(1, address="").instance.endpoint == ("10.9.9.9", 5001)


def test_missing_parts_have_defaults() -> None:
    """Services that others registered may have neither Meta nor weights."""
    instance = entry(1, Meta=None, Weights=None).instance

    assert (instance.version, instance.meta, instance.weight) == ("", {}, 1)


def test_a_single_deregistration_takes_effect_at_once() -> None:
    """While Consul answers without interruption its list is the truth."""
    target = believed(Clock())
    before = target.update([entry(1), entry(2)], NEVER)
    after = target.update([entry(2)], NEVER)
    last = target.update([], NEVER)

    assert ids(before) == ["x-1", "x-2"]
    assert ids(after) == ["x-2"]
    assert ids(last) == []


def test_after_an_interruption_absent_instances_stay_for_the_window() -> None:
    """An agent that forgot everything is told again by the instances; callers keep them."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1), entry(2)], NEVER)
    clock.now += 60
    resumed = clock.now
    empty = target.update([], resumed)
    clock.now += 4
    one = target.update([entry(1)], resumed)
    remaining = target.uncertain_for([entry(1)])
    clock.now += 6.1
    over = target.update([entry(1)], resumed)

    assert ids(empty) == ids(one) == ["x-1", "x-2"]
    assert remaining == pytest.approx(6)
    assert ids(over) == ["x-1"]
    assert target.uncertain_for([entry(1)]) is None


def test_a_window_that_ends_right_after_an_update_is_not_forgotten() -> None:
    """Whoever was kept is looked at again, however short before the end that was."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1), entry(2)], NEVER)
    kept = target.update([entry(1)], clock.now)
    clock.now += 10  # between `update` and the question
    remaining = target.uncertain_for([entry(1)])
    after = target.update([entry(1)], NEVER)

    assert ids(kept) == ["x-1", "x-2"]
    assert remaining == 0
    assert ids(after) == ["x-1"]


def test_after_an_interruption_what_is_listed_as_bad_is_out() -> None:
    """Absence is doubted, a reason is not."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1), entry(2)], NEVER)
    after = target.update([entry(1, ("critical", "refused")), entry(2)], clock.now)

    assert ids(after) == ["x-2"]


def test_after_an_interruption_the_unproven_stay_if_they_were_believed_in() -> None:
    """A restarted agent lists every instance as critical until it has probed it."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1)], NEVER)
    after = target.update([entry(1, ("critical", "")), entry(2, ("critical", ""))], clock.now)

    assert ids(after) == ["x-1"]


def test_an_unproven_instance_is_out_without_an_interruption() -> None:
    """A new instance gets no calls before its first probe."""
    assert ids(believed(Clock()).update([entry(1, ("critical", ""))], NEVER)) == []


def test_maintenance_is_a_reason_though_it_has_no_output() -> None:
    """What an operator says is never doubted."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1)], NEVER)
    checks = [{"CheckID": "_service_maintenance:x-1", "Status": "critical", "Output": ""}]
    service = {"ID": "x-1", "Address": "10.0.0.1", "Port": 5001}
    listed = Listed.of({"Node": {}, "Service": service, "Checks": checks})

    assert ids(target.update([listed], clock.now)) == []


def test_a_kept_instance_yields_to_whoever_has_its_id_or_address() -> None:
    """A restarted process has the old id at a new port, or a new id at the old port."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1), entry(2)], NEVER)
    after = target.update([entry(1, port=6001), entry(3, port=5002)], clock.now)

    assert [(i.id, i.port) for i in after] == [("x-3", 5002), ("x-1", 6001)]


def test_a_list_of_several_that_is_emptied_at_one_stroke_is_doubted() -> None:
    """All at once is what a lost state looks like; the window is not prolonged by repetition."""
    clock = Clock()
    target = believed(clock)
    target.update([entry(1), entry(2)], NEVER)
    emptied = target.update([], NEVER)
    clock.now += 9
    still = target.update([], NEVER)
    clock.now += 1.1
    over = target.update([], NEVER)

    assert ids(emptied) == ids(still) == ["x-1", "x-2"]
    assert ids(over) == []


def test_an_address_is_listed_once() -> None:
    """Two registrations of one address, as after a crash and a reused port, are one endpoint."""
    instances = believed(Clock()).update([entry(1, port=5000), entry(2, port=5000)], NEVER)

    assert len(instances) == 1
