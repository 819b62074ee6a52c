"""Synthetic families of painted faces, for the demo and the tests; these people do not exist."""

from kinembed.synthetic.dataset import generate_dataset

__all__ = ["generate_dataset"]
