"""What `import consulmesh` gives, and what it costs."""

import subprocess
import sys

import pytest

import consulmesh


@pytest.mark.parametrize("name", consulmesh.__all__)
def test_the_package_has_what_it_names(name: str) -> None:
    """Each name leads to an object that says it is called so."""
    assert getattr(consulmesh, name).__name__ == name


def test_a_name_that_the_package_does_not_have_is_refused() -> None:
    """As any module does."""
    with pytest.raises(AttributeError, match="'consulmesh' has no attribute 'Meshes'"):
        consulmesh.Meshes  # type: ignore[attr-defined]  # noqa: B018 - it is asked for


@pytest.mark.parametrize("module", ["consulmesh", "consulmesh.operators", "tools.programs"])
def test_a_command_does_not_wait_for_what_it_does_not_use(module: str) -> None:
    """Neither gRPC nor aiohttp, which take longer to import than most commands to run."""
    asked = f"import sys, {module}; print({{'grpc', 'aiohttp', 'sqlalchemy'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
