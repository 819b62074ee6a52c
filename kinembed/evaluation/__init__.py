"""Evaluation: metrics, intervals, calibration and out-of-fold scores of a head."""
