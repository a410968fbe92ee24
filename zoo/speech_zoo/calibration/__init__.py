"""Thresholds: chosen from labelled pairs, kept for each checkpoint."""
