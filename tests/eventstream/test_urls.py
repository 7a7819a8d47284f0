from pathlib import Path

from eventstream import database_url


def test_without_a_server_the_database_is_a_file_of_the_state_folder(tmp_path: Path) -> None:
    """The default is one SQLite file per service below the state folder."""
    assert database_url({}, "booking", tmp_path) == f"sqlite:///{tmp_path}/data/booking.db"


def test_with_a_server_the_service_has_the_database_of_its_name_there() -> None:
    """DATABASE_URL names the server; its own database name is replaced, its password kept."""
    environ = {"DATABASE_URL": "postgresql+psycopg://mesh:s3cret@db:5432/postgres?sslmode=require"}

    url = database_url(environ, "booking", Path("unused"))

    assert url == "postgresql+psycopg://mesh:s3cret@db:5432/booking?sslmode=require"


def test_a_server_on_a_unix_socket_is_named_without_a_host() -> None:
    """Its folder stands in the query, and stays there."""
    environ = {"DATABASE_URL": "postgresql://postgres@/postgres?host=/run/postgres"}

    url = database_url(environ, "booking", Path("unused"))

    assert url == "postgresql://postgres@/booking?host=%2Frun%2Fpostgres"
