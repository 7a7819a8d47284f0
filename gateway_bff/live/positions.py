"""Positions in an owner's history as ids of events: opaque, the same at every gateway."""

from google.protobuf.message import DecodeError

from gateway_bff import base64url
from streams.v1.stream_pb2 import Cursor

_LONGEST = 256  # characters


def encode(position: Cursor) -> bytes:
    """The position as an id."""
    return base64url.encode(position.SerializeToString(deterministic=True)).encode("ascii")


def decode(text: str) -> Cursor:
    """The position of an id; raises ValueError on what `encode` can't have written."""
    if len(text) > _LONGEST:
        raise ValueError("too long")
    try:
        position = Cursor.FromString(base64url.decode(text))
    except DecodeError as error:
        raise ValueError("not a position") from error
    if not position.epoch or position.seq < 0 or encode(position).decode("ascii") != text:
        raise ValueError("not a position")
    return position
