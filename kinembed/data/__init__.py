"""People, photos and pairs: families, splits, samplers, and the files that list them."""
