"""Studies over grids of networks: described in YAML, run through Dask, kept cell by cell in one labelled Zarr store."""
