"""numba.cuda.cudadrv.devices: the leased GPU and its context."""

from __future__ import annotations

from bitfusion.cuda.current import close as reset
from bitfusion.cuda.devices import get_context, gpus, require_context

__all__ = ["get_context", "gpus", "require_context", "reset"]
