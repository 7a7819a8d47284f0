"""A small OpenID provider over HTTP: discovery, keys that rotate, the code flow with PKCE."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from yarl import URL

from consulmesh.testing.ports import free_port

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT = "flights-app"
REDIRECT = "http://127.0.0.1/callback"

_MAKERS: dict[str, Callable[[], Any]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A key pair of the provider."""

    kid: str
    algorithm: str
    private: Any

    @classmethod
    def made(cls, algorithm: str) -> Self:
        """A new one."""
        return cls(kid=secrets.token_hex(4), algorithm=algorithm, private=_MAKERS[algorithm]())

    def jwk(self) -> dict[str, Any]:
        """The public half."""
        kind: Any = get_default_algorithms()[self.algorithm]
        shown: dict[str, Any] = kind.to_jwk(self.private.public_key(), as_dict=True)
        return {**shown, "kid": self.kid, "use": "sig", "alg": self.algorithm}


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a code was given for."""

    subject: str
    client: str
    redirect: str
    challenge: str


class OidcProvider:
    """The provider. `asked` counts requests by path; `faults` answer in place of a path."""

    def __init__(self, algorithm: str = "ES256", audience: str = "flightmesh") -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}/realms/travel"
        self.audience = audience
        self.keys = [SigningKey.made(algorithm)]
        self.roles: Sequence[str] = ("customer",)
        self.says: dict[str, Any] = {}
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, Answer] = {}
        self.answered = asyncio.Condition()
        self._codes: dict[str, Grant] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """It answers for the block, each time at the same address."""
        app = web.Application(middlewares=[self._counted])
        realm = "/realms/travel"
        app.router.add_get(f"{realm}/.well-known/openid-configuration", self._configuration)
        app.router.add_get(f"{realm}/jwks", self._jwks)
        app.router.add_get(f"{realm}/authorize", self._authorize)
        app.router.add_post(f"{realm}/token", self._token)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            yield self
        finally:
            await runner.cleanup()

    def rotate(self, algorithm: str | None = None) -> SigningKey:
        """Sign with a new key from now on; the old ones stay in the set."""
        key = SigningKey.made(algorithm or self.keys[0].algorithm)
        self.keys.insert(0, key)
        return key

    def sign(
        self,
        subject: str = "ann",
        key: SigningKey | None = None,
        *,
        typ: str | None = "at+jwt",
        **claims: Any,
    ) -> str:
        """An access token (RFC 9068) by the newest key, or by any other one."""
        key = key or self.keys[0]
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "roles": list(self.roles),
            "iat": now,
            "exp": now + 60,
        }
        return jwt.encode(
            usual | claims,
            key.private,
            algorithm=key.algorithm,
            headers={"kid": key.kid, "typ": typ},
        )

    async def asked_for_keys(self, times: int) -> None:
        """Until the keys were asked for so many times, and the last answer was on its way."""
        async with self.answered:
            await self.answered.wait_for(lambda: self.asked["jwks"] >= times)

    @web.middleware
    async def _counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        self.asked[name] += 1
        try:
            return await self.faults.get(name, handler)(request)
        finally:
            async with self.answered:
                self.answered.notify_all()

    async def _configuration(self, _request: web.Request) -> web.Response:
        document = {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "code_challenge_methods_supported": ["S256"],
        }
        return web.json_response(document | self.says)

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.jwk() for key in self.keys]})

    async def _authorize(self, request: web.Request) -> web.Response:
        """Anybody who says so is `login_hint`: how people prove it is no matter here."""
        asked = request.query
        if (asked["response_type"], asked["code_challenge_method"]) != ("code", "S256"):
            return web.json_response({"error": "invalid_request"}, status=400)
        code = secrets.token_urlsafe()
        self._codes[code] = Grant(
            subject=asked["login_hint"],
            client=asked["client_id"],
            redirect=asked["redirect_uri"],
            challenge=asked["code_challenge"],
        )
        target = URL(asked["redirect_uri"]).with_query(code=code, state=asked["state"])
        raise web.HTTPFound(str(target))

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        grant = self._codes.pop(str(form["code"]), None)  # a code is good for one try
        asked = (form["client_id"], form["redirect_uri"], challenge(str(form["code_verifier"])))
        if grant is None or asked != (grant.client, grant.redirect, grant.challenge):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = self.sign(grant.subject, client_id=grant.client)
        return web.json_response(
            {"access_token": token, "token_type": "Bearer", "expires_in": 60},
            headers={"Cache-Control": "no-store"},
        )


class Client:
    """An app that knows nothing but its own id and the issuer."""

    def __init__(self, session: aiohttp.ClientSession, issuer: str) -> None:
        self._session = session
        self._issuer = issuer

    async def code(self, subject: str, verifier: str) -> str:
        """What the provider gives for a login, in the redirection back to the app."""
        state = secrets.token_urlsafe()
        query = {
            "response_type": "code",
            "client_id": CLIENT,
            "redirect_uri": REDIRECT,
            "scope": "openid",
            "state": state,
            "code_challenge": challenge(verifier),
            "code_challenge_method": "S256",
            "login_hint": subject,
        }
        url = (await self._configuration())["authorization_endpoint"]
        async with self._session.get(url, params=query, allow_redirects=False) as response:
            back = URL(response.headers["Location"])
        assert back.query["state"] == state
        return back.query["code"]

    async def token(self, code: str, verifier: str) -> tuple[int, dict[str, Any]]:
        """What the provider gives for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT,
            "client_id": CLIENT,
            "code_verifier": verifier,
        }
        url = (await self._configuration())["token_endpoint"]
        async with self._session.post(url, data=form) as response:
            return response.status, await response.json()

    async def _configuration(self) -> dict[str, Any]:
        url = f"{self._issuer}/.well-known/openid-configuration"
        async with self._session.get(url) as response:
            found: dict[str, Any] = await response.json()
            return found


def challenge(verifier: str) -> str:
    """The S256 challenge of a PKCE verifier (RFC 7636 §4.2)."""
    return b64(sha256(verifier.encode()).digest())


def b64(raw: bytes | dict[str, Any]) -> str:
    """A part of a token."""
    content = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
