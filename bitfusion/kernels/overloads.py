"""Which of several signatures fits arguments best, as Numba decides it (numba.cuda.typeconv: the conversions counted by their kind)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfusion.kernels.types import Scalar, Signature, Type

Distance = tuple[int, int, int]
"""Conversions that lose something, that change the kind of number, and that widen it: the first counts most."""

_SAME, _LOSSY, _SAFE, _WIDER = (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)


def best_first(signatures: Sequence[Signature], given: Sequence[Type]) -> list[Signature]:
    """The signatures with as many arguments, the closest first, equally close ones in their order. Whether values fit is not asked."""
    fitting = [signature for signature in signatures if len(signature.args) == len(given)]
    return sorted(fitting, key=lambda signature: _distance(given, signature.args))


def equally_close(signatures: Sequence[Signature], given: Sequence[Type]) -> list[Signature]:
    """Those that no other is closer than; each once."""
    ordered = list(dict.fromkeys(best_first(signatures, given)))
    return [item for item in ordered if _distance(given, item.args) == _distance(given, ordered[0].args)]


def _distance(given: Sequence[Type], wanted: Sequence[Type]) -> Distance:
    lossy, safe, wider = zip(_SAME, *map(_conversion, given, wanted), strict=True)
    return sum(lossy), sum(safe), sum(wider)


def _conversion(given: Type, wanted: Type) -> Distance:
    if given is wanted:
        return _SAME
    if not isinstance(given, Scalar) or not isinstance(wanted, Scalar) or given.dtype is None or wanted.dtype is None:
        return _SAFE  # an array as one of any strides; what is no such thing is refused when it is packed
    if not np.can_cast(given.dtype, wanted.dtype, "safe"):
        return _LOSSY
    return _WIDER if given.dtype.kind == wanted.dtype.kind else _SAFE
