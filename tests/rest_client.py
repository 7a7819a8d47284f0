"""A typed client of the public API as anybody can have it: generated from docs/openapi.json."""

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self

from tools import openapi

PACKAGE: Final = "flightmesh_client"
_GENERATOR: Final = Path(sysconfig.get_path("scripts")) / "openapi-python-client"


def generate(into: Path) -> Path:
    """Write the client's package into a folder, where it can be imported from; a warning fails."""
    settings = into / "generator.json"
    settings.write_text('{"post_hooks": []}', encoding="utf-8")
    package = into / PACKAGE
    words = ["generate", "--fail-on-warning", "--meta", "none", "--config", str(settings)]
    done = subprocess.run(
        [str(_GENERATOR), *words, "--path", str(openapi.FILE), "--output-path", str(package)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=into,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "arning" not in said, said
    if str(into) not in sys.path:
        sys.path.append(str(into))
    return package


class Api:
    """The generated client of one gateway, as one user or as nobody."""

    def __init__(self, url: str, token: str = "") -> None:
        package = _module()
        self.models: Any = _module("models")
        self._client: Any = (
            package.AuthenticatedClient(base_url=url, token=token)
            if token
            else package.Client(base_url=url)
        )

    async def __call__(self, operation: str, *arguments: Any, **parameters: Any) -> Any:
        """Call an operation, `quotes.create_quote`: its response, typed in `parsed`."""
        return await _module(f"api.{operation}").asyncio_detailed(
            *arguments, client=self._client, **parameters
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.__aexit__(*error)


def _module(name: str = "") -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{name}".rstrip("."))
