"""The timetable and its fares: loaded by the first system of a test run, and given to the others.

Most of a system's first start is loading flights and making fares of them. Whoever has them already
starts as a system that was stopped does; search reads its own copy from them all the same.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

OWNERS: Final = ("pricing", "schedule")  # in this order: pricing has read no more than is there


class LoadedTimetable:
    """The SQLite databases of a system that had just come up, once there was one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def give(self, run: Path) -> None:
        """Put them where a system that has never started will look for its own."""
        if not all(file.exists() for file in map(self._kept, OWNERS)):
            return
        data = run / "data"
        data.mkdir(parents=True)
        for name in OWNERS:
            shutil.copy(self._kept(name), data)

    def keep(self, run: Path) -> None:
        """Keep those of a system that is up and that nobody has used, unless they are there."""
        for name in OWNERS:
            if self._kept(name).exists():
                continue
            source = run / "data" / f"{name}.db"
            with (
                closing(sqlite3.connect(source)) as live,
                closing(sqlite3.connect(self._kept(name))) as copy,
            ):
                live.backup(copy)

    def _kept(self, name: str) -> Path:
        return self._folder / f"{name}.db"


@pytest.fixture(scope="session")
def loaded_timetable(tmp_path_factory: pytest.TempPathFactory) -> LoadedTimetable:
    """What the systems of a test run share."""
    return LoadedTimetable(tmp_path_factory.mktemp("timetable"))
