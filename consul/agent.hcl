# The agent of the local profile: one server that is also everybody's agent, on loopback.
# Where its data lie and which ports it takes is given beside this file by whoever starts it.

server           = true
bootstrap_expect = 1
node_name        = "flightmesh"
bind_addr        = "127.0.0.1"
client_addr      = "127.0.0.1"
log_level        = "warn"

# Elects itself 1 to 2 s after a start instead of 6 to 8 s.
performance {
  raft_multiplier = 1
}

# Every blocking query holds a connection: two for an upstream and four for a process, all from one
# address. The default of 200 is reached by about eight processes.
limits {
  http_max_conns_per_client = 4096
}

# Nobody calls anybody without an intention (see intentions/); without this the topology in the UI
# would show every service as a caller of every other one.
default_intention_policy = "deny"

connect {
  enabled = true
}

ui_config {
  enabled = true
}

# Nothing here asks Consul by DNS, joins another datacenter or configures Envoy.
ports {
  dns      = -1
  serf_wan = -1
  grpc     = -1
  grpc_tls = -1
}

# Nothing leaves this machine; metrics are sent nowhere unless a telemetry block says so.
disable_update_check = true
