"""What tests of a service in the mesh need: a Consul with faults, a real one, a served channel."""

from consulmesh.testing.fake_agent import Fault
from consulmesh.testing.fake_consul import FakeConsul
from consulmesh.testing.real_consul import RealConsul, real_consul
from consulmesh.testing.serving import channel_to, running, serving
from consulmesh.testing.static_mesh import StaticMesh

__all__ = [
    "FakeConsul",
    "Fault",
    "RealConsul",
    "StaticMesh",
    "channel_to",
    "real_consul",
    "running",
    "serving",
]
