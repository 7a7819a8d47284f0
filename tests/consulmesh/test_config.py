"""The environment becomes a configuration, or an error that names the variable."""

from datetime import timedelta
from pathlib import Path

import pytest

from consulmesh.admission import QueueTerms
from consulmesh.config import ConfigError, MeshConfig
from consulmesh.instances import Locality


def test_an_empty_environment_gives_the_defaults() -> None:
    """Without variables a process talks to the local agent and listens on any loopback port."""
    config = MeshConfig.from_env({}, version="1.2.3")

    assert config == MeshConfig(version="1.2.3")
    assert config.advertised == "127.0.0.1"


def test_every_variable_is_read() -> None:
    """Each documented variable ends in its field."""
    config = MeshConfig.from_env(
        {
            "CONSUL_HTTP_ADDR": "consul.example:8501",
            "CONSUL_HTTP_SSL": "true",
            "CONSUL_HTTP_TOKEN": "secret",
            "CONSUL_CACERT": __file__,
            "CONSUL_GRPC_ADDR": "consul.example:8503",
            "MESH_SECURE": "true",
            "MESH_VERSION": "9.9.9",
            "MESH_INSTANCE_ID": "booking-7",
            "MESH_STATE_DIR": "/var/lib/mesh",
            "MESH_HOST": "0.0.0.0",  # noqa: S104 - nothing is bound
            "MESH_PORT": "5001",
            "MESH_ADVERTISE_HOST": "10.0.0.7",
            "MESH_METRICS_PORT": "off",
            "MESH_ADMIN_PORT": "5002",
            "MESH_HEALTH_PORT": "5003",
            "MESH_CHECK_INTERVAL": "500ms",
            "MESH_DRAIN_GRACE": "1.5",
            "MESH_WEIGHT": "10",
            "MESH_LOCALITY": "eu-west-1/b",
            "MESH_QUEUE_TARGET": "20ms",
            "MESH_LOG_LEVEL": "DEBUG",
        },
        version="1.2.3",
    )

    assert config == MeshConfig(
        consul_url="https://consul.example:8501",
        consul_token="secret",
        consul_roots=Path(__file__),
        consul_grpc="consul.example:8503",
        secure=True,
        version="9.9.9",
        instance_id="booking-7",
        state_dir=Path("/var/lib/mesh"),
        host="0.0.0.0",  # noqa: S104 - nothing is bound
        port=5001,
        advertise_host="10.0.0.7",
        metrics_port=None,
        admin_port=5002,
        health_port=5003,
        check_interval=timedelta(milliseconds=500),
        drain_grace=timedelta(seconds=1.5),
        weight=10,
        locality=Locality(region="eu-west-1", zone="b"),
        queue=QueueTerms(target=timedelta(milliseconds=20)),
        log_level="debug",
    )


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("consul", "http://consul:8500"),
        ("http://consul:80/", "http://consul:80"),
        ("https://consul", "https://consul:443"),
        ("[::1]:8500", "http://[::1]:8500"),
    ],
)
def test_consul_is_an_address_or_a_url(text: str, url: str) -> None:
    """CONSUL_HTTP_ADDR is accepted in both of its usual forms."""
    config = MeshConfig.from_env({"CONSUL_HTTP_ADDR": text}, version="1")

    assert config.consul_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONSUL_HTTP_ADDR", "unix:///run/consul.sock"),
        ("CONSUL_HTTP_ADDR", "127.0.0.1:http"),
        ("CONSUL_HTTP_ADDR", "http://consul/prefix"),
        ("CONSUL_HTTP_SSL", "maybe"),
        ("MESH_VERSION", "1.2"),
        ("MESH_VERSION", "v1.2.3"),
        ("MESH_VERSION", "1.02.3"),
        ("MESH_VERSION", "1.2.3-rc..1"),
        ("MESH_VERSION", "1.2.3-01"),
        ("MESH_VERSION", "latest"),
        ("CONSUL_CACERT", "/no/such/file"),
        ("CONSUL_HTTP_TOKEN_FILE", "/no/such/file"),
        ("CONSUL_GRPC_ADDR", "8502"),
        ("MESH_SECURE", "perhaps"),
        ("MESH_INSTANCE_ID", "../booking"),
        ("MESH_HOST", "no such host"),
        ("MESH_PORT", "65536"),
        ("MESH_PORT", "-1"),
        ("MESH_METRICS_PORT", "on"),
        ("MESH_ADMIN_PORT", "on"),
        ("MESH_HEALTH_PORT", "off"),
        ("MESH_CHECK_INTERVAL", "1 fortnight"),
        ("MESH_CHECK_INTERVAL", "0s"),
        ("MESH_WEIGHT", "0"),
        ("MESH_LOCALITY", "/b"),
        ("MESH_LOCALITY", "eu/"),
        ("MESH_LOCALITY", "eu/b/7"),
        ("MESH_QUEUE_TARGET", "soon"),
        ("MESH_QUEUE_TARGET", "0ms"),
        ("MESH_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    """What cannot be used is refused at start, by name."""
    with pytest.raises(ConfigError, match=name):
        MeshConfig.from_env({name: value}, version="1")


@pytest.mark.parametrize(
    "version", ["0.0.0", "10.20.30", "1.0.0-0.3.7", "1.0.0-rc.1", "1.0.0--", "1.0.0+21.AF-b"]
)
def test_a_version_is_a_semantic_one(version: str) -> None:
    """Releases tell instances apart by it, so anything of semver.org's form is taken as it is."""
    config = MeshConfig.from_env({"MESH_VERSION": version}, version="1.2.3")

    assert config.version == version


def test_a_wildcard_must_be_told_what_to_advertise() -> None:
    """Nobody can call 0.0.0.0."""
    with pytest.raises(ConfigError, match="MESH_ADVERTISE_HOST"):
        MeshConfig.from_env({"MESH_HOST": "0.0.0.0"}, version="1")  # noqa: S104 - nothing is bound


def test_shedding_can_be_off() -> None:
    """Then a server of this process refuses nothing because of its load."""
    config = MeshConfig.from_env({"MESH_QUEUE_TARGET": "off"}, version="1")

    assert config.queue is None


def test_the_token_is_not_shown() -> None:
    """A configuration may be logged."""
    config = MeshConfig(version="1", consul_token="secret")

    assert "secret" not in repr(config)


def test_a_token_may_be_in_a_file(tmp_path: Path) -> None:
    """So it need not be in the environment, which wins where both are."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    named = {"CONSUL_HTTP_TOKEN_FILE": str(file)}

    assert MeshConfig.from_env(named, version="1.0.0").consul_token == "from-file"
    both = named | {"CONSUL_HTTP_TOKEN": "direct"}
    assert MeshConfig.from_env(both, version="1.0.0").consul_token == "direct"
