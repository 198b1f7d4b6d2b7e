"""Kernels: how a Python function on the client becomes PTX on the worker (docs/design/kernels.md).

Both sides, without Numba: ``types``, ``signatures``, ``packing`` (arguments), ``names`` (what kernels may refer to), ``constants``,
``program`` (what travels), ``syntax`` (what a kernel may be written in), ``options``. Client: ``overloads`` (which of several
signatures), ``source`` and ``lambdas`` (capture). Server, without Numba: ``gate`` (what is accepted), ``cache``. Server, with Numba:
``compiler`` and what it is made of, ``build`` (function objects), ``numba_types``, ``listing`` (source lines), ``folding`` (constant
conditions), ``failure`` (its errors), ``linking``, ``cuda_source`` and ``cuda_cpp`` (other code), ``places`` (what texts do not tell).
A process of its own: ``nvrtc`` (the compiler of CUDA C++), confined by ``landlock``.
"""
