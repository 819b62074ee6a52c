"""How an embedding is parted into shards, computed by one or many, and joined to a cache."""
