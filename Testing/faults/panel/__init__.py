"""Faults met through the real panel and the real worker process: what the user sees, and what is left."""
