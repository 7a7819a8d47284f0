"""Prints the figures of the fault rows, whatever pytest captures."""

from collections.abc import Iterator

import pytest

from tests.chaos import figures


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if (lines := figures.untold()) and capture is not None:
        with capture.global_and_fixture_disabled():
            print(*("", *lines), sep="\n", flush=True)
