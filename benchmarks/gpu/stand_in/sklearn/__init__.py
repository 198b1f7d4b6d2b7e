"""Stands in for scikit-learn where it is missing, for one benchmark: only ``datasets.load_digits``, with made-up images."""
