"""Answers that a client may have already, and in which coding it gets those that it has not.

ETags are strong, so each coding of a body has its own (RFC 9110 §8.8.3.3). A client is only told
that it has what it would take: a shared cache may ask for a client that takes no gzip.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from starlette.responses import Response

from gateway_bff.coding import SMALLEST, accepts_gzip, gzipped

_NAME: Final = "gateway-bff"
_NOT_MODIFIED: Final = 304
_OF_GZIP: Final = '-gzip"'


def etag(body: bytes) -> str:
    """The strong validator of a body without a coding."""
    return f'"{blake2b(body, digest_size=16).hexdigest()}"'


def answer_headers(validator: str, fresh: Mapping[str, str], status: str) -> dict[str, str]:
    """The headers of an answer: how fresh it is, and what the cache did (RFC 9211)."""
    return {
        "Vary": "Accept, Accept-Encoding",
        "Cache-Control": "no-cache",  # to be kept, and asked for again each time
        "Cache-Status": f"{_NAME}; {status}",
        "ETag": validator,
        **fresh,
    }


def conditional(
    if_none_match: str,
    accept_encoding: str,
    body: bytes,
    headers: Mapping[str, str],
    gzip: Callable[[bytes], bytes] = gzipped,
) -> Response:
    """The answer in a coding that the client takes, or 304 where the client has just that one.

    `headers` have the ETag of the body without a coding; `gzip` is asked for the other one where
    it has to be sent.
    """
    validator = headers["ETag"]
    coded = len(body) >= SMALLEST and accepts_gzip(accept_encoding)
    if if_none_match or coded:
        validators = (validator.removesuffix('"') + _OF_GZIP, validator) if coded else (validator,)
        if held := _held(if_none_match, validators):
            return Response(status_code=_NOT_MODIFIED, headers={**headers, "ETag": held})
        if coded:
            body = gzip(body)
            headers = {**headers, "ETag": validators[0], "Content-Encoding": "gzip"}
    return Response(body, headers=headers, media_type="application/json")


def _held(if_none_match: str, validators: Sequence[str]) -> str | None:
    """The first that the client has, by weak comparison, as the field asks for."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    if "*" in tags:
        return validators[0]
    return next((validator for validator in validators if validator in tags), None)
