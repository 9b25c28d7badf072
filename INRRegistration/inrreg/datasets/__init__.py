"""Public benchmarks as they are distributed: their files found, turned into jobs, and the papers' tables printed."""
