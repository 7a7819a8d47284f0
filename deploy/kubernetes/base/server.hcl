# A server of the cluster. Tokens, ACLs, TLS and the gossip key stand in consul.json, which is a Secret.
# What it shares with consul/agent.hcl stands in both: kustomize reads nothing outside its folder.

server           = true
bootstrap_expect = 3
retry_join       = ["consul-server"]
log_level        = "warn"

performance {
  raft_multiplier = 1
}

# Nobody calls anybody without an intention.
default_intention_policy = "deny"

connect {
  enabled = true
}

ui_config {
  enabled = true
}

# Everything that has a port has TLS. Nothing asks Consul by DNS or joins another datacenter.
ports {
  http     = -1
  https    = 8501
  grpc     = -1
  grpc_tls = 8503
  dns      = -1
  serf_wan = -1
}

disable_update_check = true
