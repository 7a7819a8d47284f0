import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import Connection, inspect

from eventstream import Database

ROOT = Path(__file__).parents[2]
ENV = """\
from eventstream.migrate import run_env
from sqlalchemy import MetaData
run_env(MetaData())
"""
REVISION = """\
from alembic import op
import sqlalchemy as sa

revision = "{revision}"
down_revision = {down}


def upgrade():
    op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))
    {then}
"""
OPEN = """
import asyncio, sys
from eventstream import Database

async def main(url, migrations):
    async with Database.open(url, migrations=migrations):
        print("alembic" in sys.modules)

asyncio.run(main(*sys.argv[1:]))
"""


class Package:
    """A package with a folder of migrations, on the import path of this test."""

    def __init__(self, path: Path, name: str) -> None:
        self.migrations = f"{name}:migrations"
        self._versions = path / name / "migrations" / "versions"
        self._versions.mkdir(parents=True)
        (path / name / "__init__.py").touch()
        (self._versions.parent / "env.py").write_text(ENV)

    def add(self, revision: str, down: str | None, table: str, then: str = "") -> None:
        """Add a migration that creates a table."""
        text = REVISION.format(revision=revision, down=repr(down), table=table, then=then)
        (self._versions / f"{revision}.py").write_text(dedent(text))

    def drop(self, revision: str) -> None:
        """Take a migration back, as an older release does."""
        (self._versions / f"{revision}.py").unlink()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Return a package whose first migration creates the table `one`."""
    monkeypatch.syspath_prepend(tmp_path)
    package = Package(tmp_path, f"migrating_{abs(hash(str(tmp_path)))}")
    package.add("0001", None, "one")
    return package


async def tables(db: Database) -> set[str]:
    """Return the names of all tables."""

    def query(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    return await db.read(query) - {"alembic_version"}


def process(
    tmp_path: Path, url: str, migrations: str, failpoint: str = ""
) -> "subprocess.Popen[str]":
    """Start a process that opens the database."""
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, url, migrations],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/gen:{tmp_path}", "MESH_FAILPOINT": failpoint},
    )


async def test_a_database_is_brought_to_the_newest_revision(url: str, package: Package) -> None:
    """Opening runs what is due, on a new file and on one of an older release."""
    async with Database.open(url, migrations=package.migrations) as db:
        first = await tables(db)
    package.add("0002", "0001", "two")
    async with Database.open(url, migrations=package.migrations) as db:
        second = await tables(db)

    assert first == {"one"}
    assert second == {"one", "two"}


async def test_a_migration_that_fails_leaves_the_schema_that_was(
    url: str, package: Package
) -> None:
    """All migrations that are due are one transaction, table definitions included."""
    package.add("0002", "0001", "two")
    package.add("0003", "0002", "three", then="raise LookupError('broken')")
    with pytest.raises(LookupError, match="broken"):
        async with Database.open(url, migrations=package.migrations):
            pass
    async with Database.open(url) as db:
        left = await tables(db)

    assert left == set()


async def test_a_database_that_is_ahead_is_left_alone(url: str, package: Package) -> None:
    """A release that was rolled back opens the newer database."""
    package.add("0002", "0001", "two")
    async with Database.open(url, migrations=package.migrations):
        pass
    package.drop("0002")
    async with Database.open(url, migrations=package.migrations) as db:
        left = await tables(db)

    assert left == {"one", "two"}


async def test_of_processes_that_start_together_one_migrates(
    tmp_path: Path, url: str, package: Package
) -> None:
    """All of them get a migrated database and none fails; a later one does not import Alembic."""
    together = [process(tmp_path, url, package.migrations) for _ in range(3)]
    outputs = [(await asyncio.to_thread(p.communicate))[0] for p in together]
    later = process(tmp_path, url, package.migrations)
    output, _ = await asyncio.to_thread(later.communicate)

    assert [p.returncode for p in together] == [0, 0, 0]
    assert any(out.splitlines()[-1] == "True" for out in outputs)
    assert output.splitlines()[-1] == "False"


@pytest.mark.parametrize("point", ["before", "written", "after"])
async def test_a_process_killed_while_it_migrates_leaves_no_half_schema(
    tmp_path: Path, url: str, package: Package, point: str
) -> None:
    """Whether or not it was durable, the next process has the whole schema."""
    package.add("0002", "0001", "two")
    killed = process(tmp_path, url, package.migrations, f"migrate.upgrade:{point}")
    await asyncio.to_thread(killed.communicate)
    async with Database.open(url) as db:
        left = await tables(db)
    async with Database.open(url, migrations=package.migrations) as db:
        whole = await tables(db)

    assert killed.returncode == -signal.SIGKILL
    assert left == ({"one", "two"} if point == "after" else set())
    assert whole == {"one", "two"}


async def test_two_newest_revisions_are_refused(url: str, package: Package) -> None:
    """A folder whose history forks says so before anything is changed."""
    package.add("0002", "0001", "two")
    package.add("0003", "0001", "three")
    with pytest.raises(ValueError, match="2 newest"):
        async with Database.open(url, migrations=package.migrations):
            pass
