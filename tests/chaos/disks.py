"""A small disk that really runs full."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

_CHUNKS: Final = (1 << 16, 1 << 10, 1)  # bytes: down to the last one


class Disk:
    """A file system of its own, mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Take all room that is left."""
        with self._filler.open("wb", buffering=0) as filler:
            for size in _CHUNKS:
                with suppress(OSError):
                    while filler.write(bytes(size)):
                        pass

    def make_room(self) -> None:
        """Give it back."""
        self._filler.unlink()


@contextmanager
def small_disk(mebibytes: int, owner: str | None = None) -> Iterator[Disk]:
    """Mount one for the block, for a system user; skips the test where that is not allowed."""
    path = Path(tempfile.mkdtemp(prefix="mesh-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        path.rmdir()
        pytest.skip("this user can't mount a file system to fill")
    try:
        if owner is not None:
            shutil.chown(path, owner)
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()
