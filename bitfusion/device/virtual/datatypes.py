"""The fundamental types of PTX and how LLVM sees them (PTX ISA, section 5.2 "Types"); owns no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Type:
    """A PTX type. ``kind`` is p(redicate), b(its), u(nsigned), s(igned) or f(loat); ``size`` is in bytes."""

    name: str
    kind: str
    size: int
    llvm: str
    """The LLVM type arithmetic is done in."""
    storage: str
    """The LLVM type of a register or memory cell of this type: an integer for the formats LLVM passes around badly."""

    @property
    def bits(self) -> int:
        return 1 if self.kind == "p" else self.size * 8

    @property
    def signed(self) -> bool:
        return self.kind == "s"

    @property
    def float(self) -> bool:
        return self.kind == "f"


_FLOATS = {
    "f16": (2, "half", "i16"),
    "bf16": (2, "i16", "i16"),
    "f32": (4, "float", "float"),
    "tf32": (4, "float", "float"),
    "f16x2": (4, "<2 x half>", "i32"),
    "bf16x2": (4, "i32", "i32"),
    "f64": (8, "double", "double"),
    "e4m3x2": (2, "i16", "i16"),
    "e5m2x2": (2, "i16", "i16"),
}


def _types() -> dict[str, Type]:
    types = {"pred": Type("pred", "p", 1, "i1", "i1"), "b128": Type("b128", "b", 16, "i128", "i128")}
    for size in (1, 2, 4, 8):
        for kind in "bus":
            integer = f"i{size * 8}"
            types[f"{kind}{size * 8}"] = Type(f"{kind}{size * 8}", kind, size, integer, integer)
    for name, (size, llvm, storage) in _FLOATS.items():
        types[name] = Type(name, "f", size, llvm, storage)
    for kind in "us":
        types[f"{kind}16x2"] = Type(f"{kind}16x2", kind, 4, "<2 x i16>", "i32")
    return types


TYPES: Final[Mapping[str, Type]] = _types()

PRED: Final = TYPES["pred"]
B16: Final = TYPES["b16"]
B32: Final = TYPES["b32"]
B64: Final = TYPES["b64"]
U32: Final = TYPES["u32"]
S32: Final = TYPES["s32"]
F32: Final = TYPES["f32"]

BITS_OF_LLVM: Final[Mapping[str, int]] = {
    "i1": 1,
    "i8": 8,
    "i16": 16,
    "i32": 32,
    "i64": 64,
    "i128": 128,
    "half": 16,
    "float": 32,
    "double": 64,
    "<2 x half>": 32,
    "<2 x i16>": 32,
    "ptr": 64,
}
