"""The clients in other languages: built once, then kept below `.tools/interop/`.

A build is kept under the digest of its sources, so that a changed client is built anew. What is
kept needs no network, and no Go.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tools.binaries import OLDEST_GO, TOOLS, build_environment, go_on_path

HERE: Final = Path(__file__).parent
KEPT: Final = TOOLS / "interop"
BUILD_SECONDS: Final = 900  # Go compiles all of xDS, 7 min were seen on two cores with other work
LOOK_UP_SECONDS: Final = 60
UNOPTIMIZED: Final = "-gcflags=all=-N -l -dwarf=false"  # a quarter less to do for the compiler
OLDEST_NODE: Final = 18


class MissingError(Exception):
    """A client can't be built here, for what the message says."""


class Language(Protocol):
    """How the client of a language is built and started."""

    folder: str
    sources: tuple[str, ...]

    def build(self, folder: Path) -> None:
        """Build in a folder that has the sources. Raises MissingError, RuntimeError."""

    def command(self, folder: Path) -> list[str]:
        """Return how the client in a folder is started. Raises MissingError."""


class Go:
    """A program of its own."""

    folder = "go"
    sources = ("go.mod", "go.sum", "client.go")

    def build(self, folder: Path) -> None:
        """Compile, in caches that are removed afterwards: they are large and of no further use."""
        own = str(TOOLS / "go" / "bin" / "go")
        if (go := go_on_path() or shutil.which(own)) is None:
            raise MissingError(f"Go {'.'.join(map(str, OLDEST_GO))} or newer is not on PATH")
        with tempfile.TemporaryDirectory(dir=KEPT) as caches:
            build = _Build("Go's module proxy", build_environment(Path(caches)))
            build.look_up(go, "list", "-m", "google.golang.org/grpc@latest")
            flags = ("-trimpath", "-modcacherw", "-ldflags=-s -w", UNOPTIMIZED, "-o", "client", ".")
            build.run(folder, go, "build", *flags)

    def command(self, folder: Path) -> list[str]:
        """Return the program's path."""
        return [str(folder / "client")]


class Node:
    """A script beside its packages."""

    folder = "node"
    sources = (".npmrc", "package.json", "package-lock.json", "client.js")

    def build(self, folder: Path) -> None:
        """Install the packages of the lock file."""
        if (npm := shutil.which("npm")) is None:
            raise MissingError("npm is not on PATH")
        build = _Build("npm's registry", os.environ)
        build.look_up(npm, "view", "@grpc/grpc-js", "version")
        build.run(folder, npm, "ci", "--no-audit", "--no-fund")

    def command(self, folder: Path) -> list[str]:
        """Return the script with its interpreter."""
        node = shutil.which("node")
        if node is None or _node_version(node) < OLDEST_NODE:
            raise MissingError(f"Node {OLDEST_NODE} or newer is not on PATH")
        return [node, str(folder / "client.js")]


def client(language: Language) -> list[str]:
    """Return how a language's client is started; build it if that was not done yet."""
    sources = [HERE / language.folder / name for name in language.sources]
    digest = hashlib.blake2b(b"\0".join(map(Path.read_bytes, sources)), digest_size=8).hexdigest()
    kept = KEPT / f"{language.folder}-{digest}"
    command = language.command(kept)
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as work:
            folder = Path(work) / language.folder
            folder.mkdir()
            for source in sources:
                shutil.copy(source, folder)
            language.build(folder)
            if not kept.exists():  # another run may have been faster
                folder.rename(kept)
    return command


def _node_version(node: str) -> int:
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"v(\d+)\.", said.stdout)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class _Build:
    source: str
    environment: Mapping[str, str]

    def look_up(self, *command: str) -> None:
        """Ask for something that is there wherever the source of modules is within reach."""
        try:
            done = self._done(KEPT, command, LOOK_UP_SECONDS)
        except subprocess.TimeoutExpired:
            raise MissingError(f"{self.source} does not answer") from None
        if done.returncode:
            raise MissingError(f"{self.source} is out of reach: {done.stderr.strip()[:500]}")

    def run(self, folder: Path, *command: str) -> None:
        """Do a step; what fails is told by its last words."""
        done = self._done(folder, command, BUILD_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")

    def _done(
        self, folder: Path, command: Sequence[str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
