"""What tests of a service in the mesh need: a Consul with faults, a real one, a served channel."""
