"""Many machines: a pool of actors that compute the numbered shards of an embedding."""
