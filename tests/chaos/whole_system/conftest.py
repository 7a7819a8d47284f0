from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.chaos.figures import LONG
from tests.chaos.whole_system.system import WholeSystem, whole_system
from tests.databases import ENGINES

_ENGINES: Final = ENGINES if LONG else ("sqlite",)


@pytest.fixture(scope="package", params=_ENGINES)
async def system(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WholeSystem]:
    """One system for all rows: what one leaves behind, the next one is judged by too."""
    folder = tmp_path_factory.mktemp(request.param)
    async with whole_system(folder, request.param) as started:
        yield started
