"""Problems from three sources (embedded generator, Hub dataset, local file), split into train, dev and test."""
