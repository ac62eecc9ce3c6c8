"""Builds tvlens/pictures/pictures.parquet: the same things as many artists draw them."""
