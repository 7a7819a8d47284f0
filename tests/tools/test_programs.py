import configparser
from pathlib import Path

import pytest
from supervisor.datatypes import dict_of_key_value_pairs

from tools.programs import GATEWAY, Settings, mesh_programs, supervisor_config

LIMITS = '{"booking": "3/minute", "quote": null}'


def gateway_environment(run: Path) -> dict[str, str]:
    """What supervisor gives the gateway."""
    settings = Settings(run=run)
    config = configparser.RawConfigParser()
    config.read_string(supervisor_config(settings, list(mesh_programs(settings, 1))))
    text = config[f"program:{GATEWAY}"]["environment"].replace("%%", "%")
    environment: dict[str, str] = dict_of_key_value_pairs(text)
    return environment


def test_a_local_system_has_no_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All load of one machine comes from one address."""
    monkeypatch.delenv("MESH_RATE_LIMITS", raising=False)

    assert gateway_environment(tmp_path)["MESH_RATE_LIMITS"] == "off"


def test_whoever_wants_limits_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with quotes in it comes through supervisor as it was."""
    monkeypatch.setenv("MESH_RATE_LIMITS", LIMITS)

    assert gateway_environment(tmp_path)["MESH_RATE_LIMITS"] == LIMITS
