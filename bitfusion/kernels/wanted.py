"""What a client wants of a compile: a kernel to launch needs none of this; it is for those who look at the code or take it elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitfusion.errors import KernelTypeError
from bitfusion.limits import MIB

OUTPUTS = ("ptx", "lto_ptx", "ltoir", "llvm", "types")
"""PTX; PTX after link-time optimisation; NVVM's own form of it, as bytes; LLVM IR; Numba's listing of the source with its types."""

ABIS = ("numba", "c")

SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
"""What can name a C function."""

TEXT_SIZE_MAX = 3 * MIB
"""Bytes of code or of a listing that a client may be sent: a frame's metadata."""

CAPABILITY_MAX = 999
"""A major or minor number: far above any."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """``device``: a device function, with the calling convention ``abi``, under the name ``abi_name`` (empty: its own).

    ``capability`` None: that of the session's device.
    """

    output: str = "ptx"
    device: bool = False
    abi: str = "numba"
    abi_name: str = ""
    capability: tuple[int, int] | None = None


def decode(tree: object) -> Wanted:
    """What a client sent, an array of the fields in their order. KernelTypeError."""
    match tree:
        case (str(output), bool(device), str(abi), str(name), capability) if (
            output in OUTPUTS and abi in ABIS and (not name or SYMBOL.fullmatch(name)) and (device or abi == "numba")
        ):
            return Wanted(output, device, abi, name, _capability(capability))
    raise KernelTypeError(
        f"what is wanted of a compile must be [{' | '.join(OUTPUTS)}, device, {' | '.join(ABIS)}, C name or '', [major, minor] or nil],"
        " and a kernel has no C ABI"
    )


def _capability(value: object) -> tuple[int, int] | None:
    match value:
        case None:
            return None
        case (int(major), int(minor)) if 0 <= major <= CAPABILITY_MAX and 0 <= minor <= CAPABILITY_MAX:
            return int(major), int(minor)
    raise KernelTypeError(f"a compute capability is [major, minor], not {value!r:.40}")
