"""Seeded families of painted faces, for the demo and the tests: nobody drawn here exists."""

from kinembed.synthetic.dataset import generate_dataset

__all__ = ["generate_dataset"]
