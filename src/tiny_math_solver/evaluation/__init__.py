"""Evaluating a model on fixed problems: records, statistics, verdict; merging an adapter and proving the merge."""
