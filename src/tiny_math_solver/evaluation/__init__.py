"""A model on fixed problems: records, statistics, verdict, and the merge with its proof."""
