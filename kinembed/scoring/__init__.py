"""How the pairs of a submission are scored, by one process or many, and written."""
