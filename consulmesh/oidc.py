"""The keys of any OpenID provider, found by its discovery document (OpenID Connect Discovery 1.0).

Nothing that a token says decides where keys come from: the issuer is configured, the provider
must call itself the same, and names its JWK set.
"""

import asyncio
import ipaddress
import json
import math
import random
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import aiohttp
import structlog
from jwt import PyJWK
from prometheus_client import Gauge

from consulmesh.errors import Unavailable
from consulmesh.keys import KeySet, names, read_keys

_LARGEST: Final = 256 * 1024  # bytes of a document; sets of providers have a few thousand
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
# One that is packed could grow without bounds while it is unpacked.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}

_READ: Final = Gauge(
    "oidc_keys_read_timestamp_seconds",
    "When the provider last gave its keys; the last good ones count for as long as it does not.",
    ("issuer",),
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a provider is asked, and for how long."""

    refresh: timedelta = timedelta(minutes=5)  # from good keys to the next look
    first_retry: timedelta = timedelta(seconds=1)  # after a failure; then twice as long each time
    last_retry: timedelta = timedelta(seconds=30)
    gap: timedelta = timedelta(seconds=3)  # at least, until a token makes us ask again
    patience: timedelta = timedelta(seconds=5)  # for the provider's answers
    wait: timedelta = timedelta(seconds=1)  # of a token whose key is being asked for


DEFAULT_PACE: Final = Pace()


class ProviderError(Exception):
    """The provider could not be asked, or said what cannot be believed."""


class OidcKeys:
    """The keys of an issuer, as its provider shows them; `run` must run.

    The last good keys count until others come. Only `run` asks the provider, so one question is
    under way at most, however many tokens wait for its answer.

    All mutable state: the keys, None before the first; whether the provider is being asked, the
    end of the pause after that, failures in a row; and the events between tokens and `run`.
    """

    def __init__(
        self, issuer: str, algorithms: AbstractSet[str], pace: Pace = DEFAULT_PACE
    ) -> None:
        self._issuer = issuer
        self._algorithms = algorithms
        self._pace = pace
        self._keys: KeySet | None = None
        self._asking = False
        self._paused_until = -math.inf  # on the loop's clock
        self._failures = 0
        self._wanted = asyncio.Event()
        self._answered = asyncio.Event()

    def __repr__(self) -> str:
        keys = "none yet" if self._keys is None else names(self._keys)
        return f"OidcKeys({self._issuer!r}, keys={keys}, failures={self._failures})"

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key; for one that is not known the provider is asked, and waited for a moment.

        Raises Unavailable before the first keys came.
        """
        key = self._known(kid, algorithm)
        if key is None and self._may_ask():
            await self._news()
            key = self._known(kid, algorithm)
        if self._keys is None:
            raise Unavailable(
                "Tokens cannot be checked at present.", reason="TOKEN_KEYS_UNAVAILABLE"
            )
        return key

    async def run(self) -> None:
        """Ask the provider now, before its keys grow old, and when a token names another one."""
        async with aiohttp.ClientSession(headers=_HEADERS, auto_decompress=False) as session:
            while True:
                pause = await self._refresh(session)
                try:
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                except TimeoutError:
                    continue  # it is time anyway

    def _known(self, kid: str, algorithm: str) -> PyJWK | None:
        return None if self._keys is None else self._keys.get((kid, algorithm))

    def _may_ask(self) -> bool:
        return self._asking or asyncio.get_running_loop().time() >= self._paused_until

    async def _news(self) -> None:
        """Until the provider was asked, but not for long."""
        if not self._asking:
            self._wanted.set()
        answered = self._answered
        try:
            async with asyncio.timeout(self._pace.wait.total_seconds()):
                await answered.wait()
        except TimeoutError:
            _log.debug("oidc_keys_late", issuer=self._issuer)

    async def _refresh(self, session: aiohttp.ClientSession) -> float:
        """Ask once; gives the seconds until the next time."""
        self._wanted.clear()
        self._asking = True
        try:
            async with asyncio.timeout(self._pace.patience.total_seconds()):
                raw = await _jwk_set(session, self._issuer)
            self._take(read_keys(raw, self._algorithms))
        except Exception as error:  # noqa: BLE001 - whatever a provider sends, this process goes on
            self._failed(error)
        finally:
            self._asking = False
            self._paused_until = asyncio.get_running_loop().time() + self._pace.gap.total_seconds()
            self._answered.set()
            self._answered = asyncio.Event()
        return self._pause() * random.uniform(0.9, 1.1)  # noqa: S311 - so that processes spread

    def _take(self, keys: KeySet) -> None:
        if self._failures or self._keys is None or keys.keys() != self._keys.keys():
            known = names(keys)
            # believed all the same: a provider may have taken its last key back
            say = _log.info if known else _log.warning
            say("oidc_keys_read", issuer=self._issuer, keys=known)
        self._keys = keys
        self._failures = 0
        _READ.labels(self._issuer).set_to_current_time()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.warning(
                "oidc_keys_not_read",
                issuer=self._issuer,
                error=f"{type(error).__name__}: {error}",
                last_good=self._keys is not None,
            )

    def _pause(self) -> float:
        if not self._failures:
            return self._pace.refresh.total_seconds()
        first, last = self._pace.first_retry, self._pace.last_retry
        return min(last, first * math.ldexp(1, min(self._failures - 1, 10))).total_seconds()


def issuer_url(text: str) -> str:
    """The issuer's URL as it stands: https, or http to this machine; raises ValueError."""
    parts = urlsplit(text)
    if not _is_safe(parts, local=True) or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no https URL without query and fragment")
    return text


async def _jwk_set(session: aiohttp.ClientSession, issuer: str) -> bytes:
    document = _object(await _get(session, issuer.rstrip("/") + _WELL_KNOWN))
    if document.get("issuer") != issuer:
        # a provider that speaks for another one could let anybody in (OIDC Discovery §4.3)
        raise ProviderError(f"it calls itself {document.get('issuer')!r:.200}")
    uri = document.get("jwks_uri")
    local = urlsplit(issuer).scheme == "http"
    if not isinstance(uri, str) or not _is_safe(urlsplit(uri), local=local):
        raise ProviderError(f"jwks_uri {uri!r:.200} is no https URL")
    return await _get(session, uri)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != HTTPStatus.OK:
            raise ProviderError(f"{url}: status {response.status}")
        try:
            await response.content.readexactly(_LARGEST + 1)
        except asyncio.IncompleteReadError as whole:
            return whole.partial
    raise ProviderError(f"{url}: more than {_LARGEST} bytes")


def _object(raw: bytes) -> dict[str, Any]:
    document = json.loads(raw)
    if not isinstance(document, dict):
        raise ProviderError("its configuration is no JSON object")
    return document


def _is_safe(parts: SplitResult, *, local: bool) -> bool:
    if not parts.hostname or parts.username is not None:
        return False
    return parts.scheme == "https" or (
        local and parts.scheme == "http" and _is_loopback(parts.hostname)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
