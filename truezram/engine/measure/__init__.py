"""Measuring: samples of memory, page files, estimates, benchmarks, training, load."""
