"""The run folder: records, checkpoints, resuming."""
