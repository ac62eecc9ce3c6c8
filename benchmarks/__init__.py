"""Benchmarks against other libraries, with results checked for equality."""
