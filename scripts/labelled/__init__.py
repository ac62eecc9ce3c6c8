"""Builds tvlens/labelled/labelled.parquet: real labelled sets out of pinned packages."""
