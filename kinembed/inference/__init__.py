"""Answers about photographs: what stands between a trained head and a question."""
