"""What tests of a service in the mesh need: a Consul with faults, a real one, a served channel."""

from consulmesh.testing.serving import channel_to, running, serving

__all__ = ["channel_to", "running", "serving"]
