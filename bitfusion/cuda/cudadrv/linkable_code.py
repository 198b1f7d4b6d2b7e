"""numba.cuda.cudadrv.linkable_code: code that kernels are linked with."""

from __future__ import annotations

from bitfusion.cuda.linkable import LTOIR, Archive, Cubin, CUSource, Fatbin, LinkableCode, Object, PTXSource

__all__ = ["LTOIR", "Archive", "CUSource", "Cubin", "Fatbin", "LinkableCode", "Object", "PTXSource"]
