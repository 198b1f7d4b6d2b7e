"""The parts of ``benchmarks/virtual_gpu.py``."""
