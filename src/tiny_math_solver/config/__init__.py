"""One typed configuration: schema, YAML files, limits, and what the libraries would refuse."""
