"""Problems from generators, a Hub dataset or a local file, split into train, dev and test."""
