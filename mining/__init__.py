"""Mining: what is hard. Encoders, search, candidates."""
