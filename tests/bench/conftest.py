from pathlib import Path

import pytest

from bench.checker import Urls
from tests.bench.plants import Planted
from tests.bench.world import World, make


@pytest.fixture(scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world in which all is right, on SQLite; not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    return await make(urls_in(folder), folder)


@pytest.fixture
def planted(world: World, tmp_path: Path) -> Planted:
    """A copy of it."""
    return Planted(world, tmp_path)


def urls_in(folder: Path) -> Urls:
    """Databases in files of a folder."""
    return Urls(
        **{name: f"sqlite:///{folder}/{name}.db" for name in ("booking", "schedule", "pricing")}
    )
