"""The configuration: TOML in, frozen core types or a list of findings out."""
