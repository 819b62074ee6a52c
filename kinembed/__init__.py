"""kinembed: tells from two face photos how likely two people are kin."""

__version__ = "0.1.0"
