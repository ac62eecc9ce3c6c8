"""Builds tvlens/vlm/images.parquet: the same things as many artists draw them."""
