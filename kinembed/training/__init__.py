"""All that learns: the siamese network and the heads, their losses, optimisers and schedules."""
