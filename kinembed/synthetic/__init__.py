"""Seeded families of painted faces, for the demo and the tests: nobody drawn here exists."""

from kinembed.synthetic.dataset import draw_dataset

__all__ = ["draw_dataset"]
