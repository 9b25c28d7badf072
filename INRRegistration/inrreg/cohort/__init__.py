"""Many pairs: a manifest of them, registered on a Dask cluster, each published once, and a summary of all."""
