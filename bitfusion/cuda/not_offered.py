"""Names of numba.cuda that mean something there and are not offered here: they say so, and what to write instead; ``hasattr`` says no."""

from __future__ import annotations

from typing import NoReturn

_NARROW = (
    "write such functions in CUDA C++ with <cuda_bf16.h> or <cuda_fp8.h>, declare them with cuda.declare_device(..., link=...),"
    " and pass arrays of them as uint16 or uint8 (array.view)"
)

INSTEAD = {
    "api": "its functions are names of cuda itself",
    "bf16": _NARROW,
    "bfloat16": _NARROW,
    "fp8": _NARROW,
    "kernels": "use array.transpose() and cuda.Reduce",
    "kernels.reduction": "use cuda.Reduce",
    "kernels.transpose": "use array.transpose()",
    "simulator": "a virtual GPU runs kernels where there is no GPU",
    "testing": "it is of Numba's own tests; use unittest or pytest",
    "vector_types": "its types are names of cuda itself, such as cuda.float32x4",
}
"""What a program does without each."""


def told(name: str) -> str:
    """The message for a name of numba.cuda."""
    instead = f": {INSTEAD[name]}" if name in INSTEAD else ""
    return f"numba.cuda.{name} is not offered on a leased GPU{instead}; docs/guide/cuda.md lists what is"


class NotOffered:
    """In a class: asking for it raises AttributeError with where to look."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._what = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise AttributeError(f"{self._what} is not offered on a leased GPU; docs/guide/cuda.md lists what is")
