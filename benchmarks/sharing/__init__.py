"""The parts of ``benchmarks/pool.py``, each a function that takes an appliance's address and gives figures as plain values."""
