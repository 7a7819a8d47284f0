import subprocess
import sys

import pytest

import eventstream


def test_every_public_name_is_there() -> None:
    """A name that is imported late is imported all the same."""
    found = {name: getattr(eventstream, name) for name in eventstream.__all__}

    assert sorted(found) == sorted(eventstream._MODULE_OF)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="'eventstream' has no attribute 'Broker'"):
        getattr(eventstream, "Broker")  # noqa: B009 - a type checker would refuse the plain way


def test_a_consumer_with_a_store_of_its_own_does_without_sqlalchemy() -> None:
    """It costs 16 MB and a fifth of a second, in each instance of search."""
    program = "import flight_search.__main__, sys; sys.exit('sqlalchemy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)

    assert done.returncode == 0
