"""Priors: what is learned of many pairs, here or on a Dask cluster, for `reindir` to start from."""
