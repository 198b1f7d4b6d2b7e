"""Device functions of CUDA's own libraries that PTX may declare without a body, written in PTX."""

from __future__ import annotations

from functools import cache
from typing import Final

from bitfusion.device.cooperative import SYNCHRONIZE
from bitfusion.device.virtual.parse import parse
from bitfusion.device.virtual.syntax import Function

_HEAD: Final = """
.version 8.0
.target sm_70
.address_size 64

"""


@cache
def prelude() -> dict[str, Function]:
    """Functions by name."""
    return parse(_HEAD + SYNCHRONIZE).functions
