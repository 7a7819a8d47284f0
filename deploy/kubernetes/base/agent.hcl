# The agent of a node. Its token, ACLs, TLS and the gossip key stand in consul.json, which is a Secret.

server     = false
retry_join = ["consul-server"]
log_level  = "warn"

# An agent that ends takes its node out of the catalog; processes register with the next one.
leave_on_terminate = true

# Every blocking query holds a connection. Where a network plugin hides who asks, all have one address.
limits {
  http_max_conns_per_client = 4096
}

# Certificates are signed at the servers, so that no gRPC is needed here.
ports {
  http     = -1
  https    = 8501
  grpc     = -1
  grpc_tls = -1
  dns      = -1
}

disable_update_check = true
