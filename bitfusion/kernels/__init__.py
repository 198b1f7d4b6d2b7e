"""Kernels: how a Python function on the client becomes PTX on the worker.

Client side, without Numba: ``types``, ``signatures``, ``packing`` (arguments), ``names`` (what kernels may refer to), ``source``
(capture). Server side: ``gate`` (what is accepted), ``compiler`` (Numba to PTX), ``cache``.
"""
