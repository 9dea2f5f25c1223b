"""Benchmarks of the library beside the reference implementation, other libraries and lower bounds."""
