"""Measurements, side by side in one run, as ratios. Run by scripts/bench; never part of the tests."""
