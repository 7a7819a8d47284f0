import pytest

from consulmesh.config import ConfigError
from eventstream import Database
from eventstream.backend import backend_of


async def test_a_database_of_another_kind_is_refused() -> None:
    """The error names the kind, and the two that there are."""
    with pytest.raises(ConfigError, match="'mysql': a database is sqlite or postgresql"):
        async with Database.open("mysql://localhost/booking"):
            pass


def test_a_server_without_a_database_is_refused() -> None:
    """It would be whichever the user has."""
    with pytest.raises(ConfigError, match="does not name the database"):
        backend_of("postgresql://localhost")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    """A stream would end with the process."""
    with pytest.raises(ConfigError, match="needs a file"):
        backend_of(url)
