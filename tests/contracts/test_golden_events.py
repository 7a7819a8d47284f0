"""Events of every release, and today's code."""

from typing import Any, Final

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.contracts.golden_events import EVENTS, Golden, kept, said, written
from tools.proto import PROTOS

GOLDEN: Final = list(kept())
NEWEST: Final = max(
    (golden.release for golden in GOLDEN),
    key=lambda release: [int(part) for part in release.split(".")],
)
BASELINE: Final = PROTOS / "baseline.binpb"  # the contracts of the last release

every_golden = pytest.mark.parametrize(
    "golden", GOLDEN, ids=lambda golden: f"{golden.release}-{golden.kind}-{golden.case}"
)


def contains(whole: Any, part: Any) -> bool:
    """Whether everything that `part` says is in `whole`, which may say more."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(name in whole and contains(whole[name], part[name]) for name in part)
    if isinstance(whole, list) and isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    return bool(whole == part)


@pytest.fixture(scope="module")
def released() -> DescriptorPool:
    """The messages as the last release knows them."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(BASELINE.read_bytes()).file:
        pool.Add(file)
    return pool


def known(message: Message) -> Message:
    """A copy without fields that today's contracts do not have."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    return copy


@every_golden
def test_an_event_of_any_release_is_read_as_it_was_meant(golden: Golden) -> None:
    """The same values, and nothing that would be dropped."""
    event = golden.read()

    assert said(event) == golden.said
    assert known(event).ByteSize() == event.ByteSize()


@every_golden
def test_todays_events_say_all_that_a_reader_of_a_release_expects(golden: Golden) -> None:
    """What was written of these values then is written of them today; more may be."""
    today = said(written()[golden.kind, golden.case])

    assert contains(today, golden.said)


@pytest.mark.parametrize(("kind", "case"), list(written()))
def test_the_last_release_reads_todays_events(
    released: DescriptorPool, kind: str, case: str
) -> None:
    """It sees the same values in the fields that it knows, and passes over the others."""
    event = written()[kind, case]
    old = GetMessageClass(released.FindMessageTypeByName(kind)).FromString(
        event.SerializeToString()
    )
    old.DiscardUnknownFields()

    assert contains(said(event), said(old))
    assert said(old)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.DESCRIPTOR.name)
def test_the_newest_release_keeps_every_kind_of_change(event: type[Message]) -> None:
    """Each field of the oneof; a kind that has none is not tested above."""
    (change,) = event.DESCRIPTOR.oneofs
    kinds = {
        golden.read().WhichOneof(change.name)
        for golden in GOLDEN
        if golden.release == NEWEST and golden.kind == event.DESCRIPTOR.full_name
    }

    assert kinds == {field.name for field in change.fields}


def test_every_case_is_kept() -> None:
    """A case that is written today is among those of the newest release."""
    golden = {(each.kind, each.case) for each in GOLDEN if each.release == NEWEST}

    assert golden == set(written())
