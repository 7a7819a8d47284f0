"""Registration and administration at Consul, by py-consul."""

from datetime import timedelta
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from consul.std import Consul


class Administration:
    """Opens a py-consul client that takes its address and token from us alone.

    py-consul lets CONSUL_HTTP_TOKEN override an explicit token, and requests lets proxy variables
    and .netrc change where a request goes. Neither may happen behind a configuration. The
    client's calls block: from a coroutine, make them in a thread.
    """

    def __init__(
        self, url: str, token: str | None, timeout: timedelta, roots: Path | None = None
    ) -> None:
        self._address = urlsplit(url)
        self._token = token
        self._timeout = timeout
        self._roots = roots
        self._client: Consul | None = None

    def __enter__(self) -> Consul:
        host = str(self._address.hostname)
        self._client = Consul(
            f"[{host}]" if ":" in host else host,
            self._address.port,
            scheme=self._address.scheme,
            connections_timeout=self._timeout.total_seconds(),
            verify=str(self._roots) if self._roots else True,
        )
        self._client.token = self._token
        self._client.http.session.trust_env = False
        return self._client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.http.session.close()  # py-consul's own close() leaves its sockets open
