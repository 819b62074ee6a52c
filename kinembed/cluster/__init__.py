"""Many machines: a pool of actors that compute the numbered shards of a stage."""
