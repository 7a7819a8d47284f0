"""Base64url without padding (RFC 4648 §5): how opaque values travel in URLs and headers."""

from base64 import b64decode, urlsafe_b64encode


def encode(raw: bytes) -> str:
    """The text of these bytes."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """The bytes of this text; raises ValueError on what is not base64url."""
    return b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
