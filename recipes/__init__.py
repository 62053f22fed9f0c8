"""Published systems, one TOML file each, and what runs one from raw pairs to an evaluated model."""
