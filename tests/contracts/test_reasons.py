"""What the protos say that a service refuses, against the errors that it has."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import booking.servicer
import flight_search.servicer
import pricing.servicer
import schedule.servicer
from consulmesh.translation import Translation
from flight_search.domain import InvalidQueryError
from tools.proto import image

Codes = Mapping[type[Exception], grpc.StatusCode]

SERVICES: dict[str, Codes] = {
    "booking": booking.servicer.STATUS_CODES,
    "flight_search": flight_search.servicer.STATUS_CODES,
    "pricing": pricing.servicer.STATUS_CODES,
    "schedule": schedule.servicer.STATUS_CODES,
}
FILES = {name: f"flights/{name.removeprefix('flight_')}/v1" for name in SERVICES}
ANYWHERE = {"VALIDATION_FAILED", "TOKEN_MISSING", "TOKEN_INVALID"}
BY_FIELD = {"request_id": "REQUEST_ID_REUSED", "page_token": "INVALID_PAGE_TOKEN"}
"""Reasons that a field of a request brings with it, whatever the RPC."""
OTHER_DATABASES = {"CONCURRENT_CHANGE"}
"""What SQLite never says."""
ABOUT_THE_REQUEST = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}
REASON = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
RPCS = (6, 2)  # the path of service.method in a FileDescriptorProto: 6, n, 2, m


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """The project's proto files, with their comments."""
    file = tmp_path_factory.mktemp("protos") / "image.binpb"
    image(Path(file))
    return list(FileDescriptorSet.FromString(file.read_bytes()).file)


def said(proto: FileDescriptorProto) -> set[str]:
    """The reasons that the comments of its RPCs name."""
    comments = [
        location.leading_comments
        for location in proto.source_code_info.location
        if tuple(location.path[::2]) == RPCS
    ]
    found = {reason for comment in comments for reason in REASON.findall(comment)}
    return found - {code.name for code in grpc.StatusCode}


def by_field(proto: FileDescriptorProto) -> set[str]:
    """The reasons that fields of its messages bring with them."""
    fields = {field.name for message in proto.message_type for field in message.field}
    return {reason for name, reason in BY_FIELD.items() if name in fields}


def leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    """The errors that are raised: those that are no family of others."""
    subclasses = kind.__subclasses__()
    if not subclasses:
        yield kind
    for each in subclasses:
        yield from leaves(each)


def raised(package: str) -> set[str]:
    """The reasons of a service's own errors that are about the request."""
    translation = Translation(SERVICES[package], domain=package)
    own = (leaf for kind in SERVICES[package] for leaf in leaves(kind))
    answers = [
        translation.answer(kind.__new__(kind)).status
        for kind in own
        if kind.__module__.startswith(f"{package}.") and kind is not InvalidQueryError
    ]
    found = {status.reason for status in answers if status.code in ABOUT_THE_REQUEST}
    return found | (set(InvalidQueryError.TELLING) if package == "flight_search" else set())


@pytest.mark.parametrize("package", SERVICES)
def test_the_reasons_of_the_contract_are_those_of_the_code(
    package: str, protos: list[FileDescriptorProto]
) -> None:
    """Every reason that an RPC's comment names has its error, and every error is named."""
    (proto,) = (each for each in protos if each.name.startswith(FILES[package]))
    documented, own = said(proto) | by_field(proto), raised(package)

    assert documented - ANYWHERE - own - by_field(proto) == set()
    assert own - ANYWHERE - documented - OTHER_DATABASES == set()
    assert own
