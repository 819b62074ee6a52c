"""Answers over HTTP: what `serve` and `app` have in common."""
