"""What a machine, a data folder and a run folder have, and what is wrong with them."""
