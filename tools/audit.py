"""What is known of the packages that run.

`python -m tools.audit` asks for advisories on what requirements.lock pins, and ends with 0 when
there is none, 1 when there is, 3 when not every package could be looked up: nothing is then known
of the others. With `--sbom FILE` it writes a software bill of materials (CycloneDX, JSON) of the
same packages.

Both are others' tools, pinned in tools/audit.lock and kept apart in .tools/audit: what they need is
no part of the system, nor of what tests it.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tools.binaries import ROOT, TOOLS, one_at_a_time

LOCK: Final = ROOT / "requirements.lock"
OWN_LOCK: Final = ROOT / "tools" / "audit.lock"
HOME: Final = TOOLS / "audit"
FOUND: Final = 1
NOT_LOOKED: Final = 3

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was said: how many packages were looked up, which were not, and what is wrong."""

    looked_up: int
    unknown: Sequence[str]
    advisories: Sequence[str]

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Read pip-audit's JSON. It calls a package that it could not look up no vulnerability."""
        packages = document["dependencies"]
        return cls(
            looked_up=sum("skip_reason" not in each for each in packages),
            unknown=[each["name"] for each in packages if "skip_reason" in each],
            advisories=[
                f"{each['name']} {each['version']}: {flaw['id']}"
                f" (fixed in {', '.join(flaw['fix_versions']) or 'no release'})"
                for each in packages
                for flaw in each.get("vulns", ())
            ],
        )

    @property
    def status(self) -> int:
        """The exit status: a flaw that is known counts more than one that may be."""
        if self.advisories:
            return FOUND
        return NOT_LOOKED if self.unknown or not self.looked_up else 0

    def lines(self) -> list[str]:
        """What to tell."""
        said = [*self.advisories]
        if not self.looked_up:
            return [*said, "COULD NOT LOOK: no source of advisories answers; nothing is known"]
        if self.unknown:
            said.append(f"COULD NOT LOOK UP {len(self.unknown)}: {', '.join(self.unknown)}")
        return [*said, f"{self.looked_up} packages looked up, {len(self.advisories)} advisories"]


def installed(home: Path = HOME) -> Path:
    """The folder of the tools' programs, installed once for each lock."""
    mark = home / ".lock"
    digest = hashlib.sha256(OWN_LOCK.read_bytes()).hexdigest()
    with one_at_a_time():
        if not (mark.exists() and mark.read_text(encoding="utf-8") == digest):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
            quietly = "--disable-pip-version-check"
            subprocess.run([*pip, quietly, "--require-hashes", "-r", str(OWN_LOCK)], check=True)
            mark.write_text(digest, encoding="utf-8")
    return home / "bin"


def audit(programs: Path, run: Run = subprocess.run) -> Audit:
    """Ask for advisories; where the source breaks off, nothing was looked up."""
    command = [str(programs / "pip-audit"), "--progress-spinner", "off", "--format", "json"]
    pinned = ["--disable-pip", "--require-hashes", "--requirement", str(LOCK)]
    done = run([*command, *pinned], capture_output=True, text=True, check=False)
    try:
        return Audit.read(json.loads(done.stdout))
    except (ValueError, LookupError):
        sys.stderr.write(done.stderr[-500:])
        return Audit(looked_up=0, unknown=(), advisories=())


def bill(programs: Path, to: Path) -> None:
    """Write the bill of materials, the same bytes for the same lock."""
    to.parent.mkdir(parents=True, exist_ok=True)
    command = [str(programs / "cyclonedx-py"), "requirements", "--output-reproducible"]
    of = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-format", "JSON"]
    subprocess.run([*command, *of, "--output-file", str(to), str(LOCK)], check=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Advisories on, or a bill of, what is pinned.")
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="write a bill of materials")
    given = parser.parse_args()
    if given.sbom:
        bill(installed(), given.sbom)
        print(given.sbom)
        return
    found = audit(installed())
    print(*found.lines(), sep="\n")
    sys.exit(found.status)


if __name__ == "__main__":
    main()
