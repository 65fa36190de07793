"""Kernels on a Jupyter gateway."""
