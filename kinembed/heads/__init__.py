"""What compares two embeddings."""
