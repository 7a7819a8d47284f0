from collections.abc import Iterator

import pytest

from tests.fuzz.attack import Attack
from tests.fuzz.process import started


@pytest.fixture(scope="session")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """All services, in a process of their own, with something in them."""
    with started(tmp_path_factory.mktemp("fuzz")) as process:
        attack = Attack(process)
        attack.prepare()
        yield attack
