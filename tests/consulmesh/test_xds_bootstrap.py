"""The bootstrap: what gRPC core reads before anything else."""

import json
from pathlib import Path

from consulmesh.xds.bootstrap import bootstrap, installed, write


def test_the_bootstrap_names_the_server_and_the_node() -> None:
    """A client learns where ADS is, who it is itself, and that nothing left out was deleted."""
    config = json.loads(bootstrap("127.0.0.1:18000", node="booking-1"))

    assert config == {
        "xds_servers": [
            {
                "server_uri": "127.0.0.1:18000",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3", "ignore_resource_deletion"],
            }
        ],
        "node": {"id": "booking-1", "locality": {}},
    }


def test_an_installed_bootstrap_leaves_no_trace() -> None:
    """The variable is there during the block, and as it was before after it."""
    environ = {"PATH": "/bin"}
    with installed("outer", environ):
        with installed("inner", environ):
            inner = environ["GRPC_XDS_BOOTSTRAP_CONFIG"]
        outer = environ["GRPC_XDS_BOOTSTRAP_CONFIG"]

    assert (inner, outer) == ("inner", "outer")
    assert environ == {"PATH": "/bin"}


def test_a_bootstrap_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A file that is there already is replaced, and no draft stays behind."""
    path = tmp_path / "state" / "xds-bootstrap.json"
    write("{}", path)
    write('{"a": 1}', path)

    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]
