"""The catalog: what we have. DuckLake, tables, policies, verdicts, snapshots, exports."""
