"""Who gets in: what one address may ask for, in all and at once.

Pure ASGI, before anything of a request is looked at but its path. What is refused here has cost
neither a token's signature nor a call.
"""

from collections import Counter
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway_bff.problems import Problem
from gateway_bff.quotas import REQUESTS, Quotas, of_address
from gateway_bff.settings import Settings

_PUBLIC: Final = "/v1/"
_RETRY_AFTER: Final = 1  # seconds
AT_ONCE: Final = "at_once"


class PerAddress:
    """ASGI middleware.

    State: `_at_once`, the requests that are being served, streams too, by address.
    """

    def __init__(self, app: ASGIApp, *, quotas: Quotas, settings: Settings) -> None:
        self._app = app
        self._quotas = quotas
        self._most = settings.at_once
        self._at_once: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(_PUBLIC):
            await self._app(scope, receive, send)
            return
        client = of_address(scope)
        self._at_once[client] += 1  # before anything is awaited, or many would find room at once
        try:
            try:
                self._check(client)
                await self._quotas.charge(REQUESTS, client, scope)
            except Problem as problem:
                await problem.response(scope["path"])(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._at_once[client] -= 1
            if not self._at_once[client]:
                del self._at_once[client]

    def _check(self, client: str) -> None:
        if self._most and self._at_once[client] > self._most:
            detail = f"At most {self._most} requests at once, streams too."
            raise self._quotas.refusal(AT_ONCE, _RETRY_AFTER, detail)
