"""Runs the tests that numba-cuda ships in its wheel, unmodified, on ``bitfusion.cuda``: ``python -m tests.compliance.numba_cuda``."""
