"""Regenerate gen/ from protos/, or check that it is fresh: `python -m tools.proto [--check]`."""

import argparse
import filecmp
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
SITE = Path(
    sysconfig.get_path("purelib")
)  # google/type and google/rpc, of googleapis-common-protos
WELL_KNOWN = SITE / "grpc_tools" / "_proto"


def sources() -> list[Path]:
    """Every proto file of the project, in a stable order."""
    return sorted(PROTOS.rglob("*.proto"))


def run_protoc(*arguments: str) -> None:
    """Run protoc with the project's import roots; exits on its errors, which it prints."""
    os.environ["PATH"] = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
    if code := protoc.main(["protoc", f"-I{PROTOS}", f"-I{SITE}", f"-I{WELL_KNOWN}", *arguments]):
        sys.exit(code)


def generate(into: Path) -> None:
    """Write messages for every file, and stubs for those that define a service."""
    files = sources()
    services = [f for f in files if "\nservice " in f.read_text()]
    run_protoc(f"--python_out={into}", f"--mypy_out=quiet:{into}", *map(str, files))
    run_protoc(
        f"--grpc_python_out={into}", f"--mypy_grpc_out=quiet,only_async:{into}", *map(str, services)
    )


def image(to: Path) -> None:
    """Write a descriptor set of the project and all it imports, for buf and for descriptors."""
    run_protoc(
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={to}",
        *map(str, sources()),
    )


def differences(left: Path, right: Path) -> list[str]:
    """Files that are missing on one side or not equal, as paths relative to the roots."""
    names = {p.relative_to(root) for root in (left, right) for p in root.rglob("*.py*")}
    return sorted(
        str(name)
        for name in names
        if "__pycache__" not in name.parts
        and not (
            (left / name).is_file()
            and (right / name).is_file()
            and filecmp.cmp(left / name, right / name, shallow=False)
        )
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether gen/ is fresh")
    parser.add_argument("--image", type=Path, help="also write the descriptor set to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        stale = differences(fresh, GEN)
        if not options.check and stale:
            shutil.rmtree(GEN, ignore_errors=True)
            shutil.copytree(fresh, GEN)
    if options.image:
        image(options.image)
    if options.check and stale:
        sys.exit("gen/ is stale, run `make proto`: " + ", ".join(stale))
    print("gen/ is fresh" if not stale else f"gen/ regenerated: {len(stale)} files changed")


if __name__ == "__main__":
    main()
