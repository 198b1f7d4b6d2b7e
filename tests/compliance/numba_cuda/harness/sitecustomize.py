"""Run by Python after the import hook of ``bitfusion run``, in every process of the runner: adds what only tests need."""

from numba_harness import finder

finder.install()
