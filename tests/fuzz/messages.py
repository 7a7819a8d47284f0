"""Requests made from descriptors: whole ones, examples with a few fields changed, broken octets.

A field's value is one that is known under its name (an id that there is), or one at an edge of its
type, or any. What a message of Python cannot hold (unknown fields, text that is no UTF-8, another
wire type, two members of a oneof) is appended to the octets.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

Known = Mapping[str, Sequence[Any]]
"""Values that mean something to a service, by the name of their field."""
Draw = Any

DEPTH: Final = 5  # of messages within messages
MANY: Final = (150, 1_100, 20_000)  # entries of a list that is longer than any list should be
LARGEST: Final = 2 << 20  # octets of such a list: half of what a server takes

TEXTS: Final = (
    "",
    "\0",
    "a\0b",
    " ",
    "\n\r\t\x1b[2J\x7f",
    "\u202egnirts\u202c\u200f",
    "\ufeff\u200b\u2028\ufffe\uffff",
    "é",
    "e\u0301" * 40,
    "e" + "\u0301\u0316" * 10_000,
    "😀" * 30,
    "\U0010ffff",
    "ß" * 255,
    "²",
    "٣" * 6,
    "x" * 64,
    "x" * 65,
    "x" * 256,
    "9" * 64,
    "-1",
    "9" * 5_000,
    "x" * 100_000,
    "%00%0a'\";--",
    "' OR 1=1 --",
    "../../../../etc/passwd",
    "=" * 9,
    "AAAA",
    "_-__",
    "NaN",
    "*",
)
_EDGES: Final = (
    *range(-2, 4),
    *(9, 10, 12, 13, 23, 24, 28, 29, 31, 32, 59, 60, 99, 100, 101, 365, 500, 501, 1_000),
    *(9_999, 10_000, 999_999_999, 1_000_000_000, 10**9 + 1, 253_402_300_799, 253_402_300_800),
    *(-62_135_596_800, -62_135_596_801, 315_576_000_000, 315_576_000_001, -315_576_000_001),
)
_REALS: Final = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324)
_BITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def _integers(kind: int) -> st.SearchStrategy[int]:
    least, most = _BITS[kind]
    powers = [sign * 2**bits + by for sign in (1, -1) for bits in (31, 32, 63) for by in (-1, 0, 1)]
    edges = [edge for edge in (*_EDGES, *powers, least, most) if least <= edge <= most]
    return st.sampled_from(edges) | st.integers(least, most)


_SCALARS: Final[Mapping[int, st.SearchStrategy[Any]]] = {
    **{kind: _integers(kind) for kind in _BITS},
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from(_REALS) | st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(_REALS) | st.floats(),
    FieldDescriptor.CPPTYPE_STRING: st.sampled_from(TEXTS) | st.text(max_size=100),
}


def known(examples: Iterable[Message]) -> Known:
    """The values of the fields of examples, and within them."""
    found: dict[str, list[Any]] = defaultdict(list)
    for example in examples:
        for message, field in _set_fields(example):
            if field.message_type is None:
                values = getattr(message, field.name)
                found[field.name] += values if field.is_repeated else [values]
    return found


def requests(
    kind: type[Message], examples: Sequence[Message], values: Known
) -> st.SearchStrategy[bytes]:
    """Octets that are, or nearly are, or are far from a message of a kind."""
    whole = made(kind, values)
    if examples:
        changed = mutated(examples, values)
        whole = st.one_of(changed, changed, changed, whole)
    octets = whole.map(lambda message: message.SerializePartialToString())
    return st.one_of(octets, octets, octets, broken(kind, octets), st.binary(max_size=300))


@st.composite
def made(draw: Draw, kind: type[Message], values: Known) -> Message:
    """A message with any of its fields."""
    message = kind()
    _fill(draw, message, values, DEPTH)
    return message


@st.composite
def mutated(draw: Draw, examples: Sequence[Message], values: Known) -> Message:
    """An example with up to three of its fields, or of those within it, changed or taken away."""
    message = type(examples[0])()
    message.CopyFrom(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(0, 3))):
        places = [*_all_fields(message)]
        if not places:
            break
        place, field = places[draw(st.integers(0, len(places) - 1))]
        place.ClearField(field.name)
        if draw(st.integers(0, 5)):
            _set(draw, place, field, values, DEPTH - 2)
    return message


@st.composite
def broken(draw: Draw, kind: type[Message], whole: st.SearchStrategy[bytes]) -> bytes:
    """The octets of a message, cut, flipped, doubled, or with something appended."""
    octets: bytes = draw(whole)
    match draw(st.integers(0, 3)):
        case 0 if octets:
            return octets[: draw(st.integers(0, len(octets) - 1))]
        case 1 if octets:
            at, bit = draw(st.integers(0, len(octets) - 1)), draw(st.integers(0, 7))
            return octets[:at] + bytes([octets[at] ^ 1 << bit]) + octets[at + 1 :]
        case 2:
            appended: bytes = draw(whole)
        case _:
            appended = draw(st.sampled_from([*_odd(kind)]))
    return octets + appended


def _odd(kind: type[Message]) -> Iterable[bytes]:
    """Fields as no message of Python writes them."""
    yield varint(100_000 << 3) + b"\x01"  # fields that the message does not know
    yield varint(100_000 << 3 | 2) + varint(5) + b"hello"
    yield (varint(2_000 << 3 | 5) + bytes(4)) * 2_000
    for depth in (50, 99, 101, 5_000):
        yield varint(77 << 3 | 3) * depth + varint(77 << 3 | 4) * depth  # groups within groups
    yield varint(77 << 3 | 3)  # a group without an end
    yield b"\x00\x01"  # a field of number 0
    yield b"\xff" * 11  # a number without an end
    for field in kind.DESCRIPTOR.fields:
        for wire_type in (0, 1, 2, 5):
            yield varint(field.number << 3 | wire_type) + b"\x01" * 9
        tag = varint(field.number << 3 | 2)
        yield tag + varint(3) + b"\xed\xa0\x80"  # half a surrogate pair, which is no UTF-8
        yield tag + varint(2) + b"\xff\xfe"
        yield tag + varint(2**31 - 1)
        nested = b""
        for _ in range(150):
            nested = tag + varint(len(nested)) + nested
        yield nested
    for oneof in kind.DESCRIPTOR.oneofs:
        yield b"".join(
            varint(field.number << 3 | 2) + b"\0"
            for field in oneof.fields
            if field.message_type is not None
        )


def varint(number: int) -> bytes:
    """A number of protobuf's wire format."""
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def _fill(draw: Draw, message: Message, values: Known, depth: int) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    wanted = draw(st.sets(st.integers(0, len(fields) - 1), max_size=8))
    for number in sorted(wanted):
        _set(draw, message, fields[number], values, depth)


def _set(draw: Draw, message: Message, field: FieldDescriptor, values: Known, depth: int) -> None:
    if field.is_repeated:
        _extend(draw, message, field, values, depth)
    elif field.message_type is not None:
        within = getattr(message, field.name)
        within.SetInParent()
        if depth:
            _fill(draw, within, values, depth - 1)
    else:
        setattr(message, field.name, draw(_scalar(field, values)))


def _extend(
    draw: Draw, message: Message, field: FieldDescriptor, values: Known, depth: int
) -> None:
    entries = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key = draw(_scalar(kind.fields_by_name["key"], values))
        value = kind.fields_by_name["value"]
        if value.message_type is None:
            entries[key] = draw(_scalar(value, values))
        elif depth:
            _fill(draw, entries[key], values, depth - 1)
        return
    for _ in range(draw(st.integers(0, 3))):
        if kind is None:
            entries.append(draw(_scalar(field, values)))
        elif depth:
            _fill(draw, entries.add(), values, depth - 1)
    if len(entries) == 1 and not draw(st.integers(0, 9)):
        copies = min(draw(st.sampled_from(MANY)), LARGEST // (2 + _size(entries[0])))
        entries.extend([entries[0]] * copies)


def _size(entry: Any) -> int:
    """About as many octets as an entry of a list takes."""
    if isinstance(entry, Message):
        return entry.ByteSize()
    return 4 * len(entry) if isinstance(entry, str | bytes) else 10


def _scalar(field: FieldDescriptor, values: Known) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        scalars: st.SearchStrategy[Any] = st.binary(max_size=100)
    else:
        scalars = _SCALARS[field.cpp_type]
    if field.enum_type is not None:
        scalars |= st.sampled_from([value.number for value in field.enum_type.values])
    if some := values.get(field.name):
        scalars = st.sampled_from(some) | scalars
    return scalars


def _set_fields(message: Message) -> Iterable[tuple[Message, Any]]:
    for place, field in _all_fields(message):
        if field.is_repeated or not field.has_presence or place.HasField(field.name):
            yield place, field


def _all_fields(message: Message) -> Iterable[tuple[Message, Any]]:
    """Each field that there can be, of a message and of those that are set within it."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for entry in getattr(message, field.name):
                yield from _all_fields(entry)
        elif message.HasField(field.name):
            yield from _all_fields(getattr(message, field.name))
