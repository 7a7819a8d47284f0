"""xDS for gRPC core, made from Consul: resources (pure), the ADS servicer, the bootstrap."""
