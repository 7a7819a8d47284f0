"""Identifiers of bookings: long unguessable ones for programs, short ones for people."""

import secrets
from base64 import b32encode

_REFERENCE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # without 0 O, 1 I L
_REFERENCE_LENGTH = 6


def new_booking_id() -> str:
    """`bkg_` and 26 lower-case base32 characters: 128 random bits."""
    return "bkg_" + b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def new_reference() -> str:
    """Six characters that can be read aloud and typed again; not unique by itself."""
    return "".join(secrets.choice(_REFERENCE_ALPHABET) for _ in range(_REFERENCE_LENGTH))
