"""Triton kernels. The tests compare each with the torch operations that it replaces."""
