"""Another client of the server under attack."""

import threading
import time
from collections import Counter
from typing import Any, Final, Self

import grpc

from tests.fuzz.attack import PATIENCE

_PAUSE: Final = 0.003  # seconds


class Neighbour:
    """Calls over and over, one call after the other, for the block.

    State: how its calls ended, and how long they took, in seconds.
    """

    def __init__(self, call: Any, request: bytes) -> None:
        self.codes: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._call = call
        self._request = request
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def p99(self) -> float:
        """Of the times of its calls."""
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    def _work(self) -> None:
        while not self.seconds or not self._over.wait(_PAUSE):
            started = time.perf_counter()
            try:
                self._call(self._request, timeout=PATIENCE)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                said: Any = error
                code = said.code()
            self.seconds.append(time.perf_counter() - started)
            self.codes[code.name] += 1
