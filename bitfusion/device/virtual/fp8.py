"""The 8-bit formats e4m3 and e5m2 (OCP 8-bit Floating Point Specification, 5; PTX ISA, 5.2.3), as pairs in 16 bits.

NaNs are what cuda_fp8.h makes of them where there is no instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bitfusion.device.virtual.builder import Builder, Value, constant

_FLOAT_FRACTION: Final = 23
_FLOAT_BIAS: Final = 127
_NAN: Final = 0x7F


@dataclass(frozen=True, slots=True)
class Format:
    fraction: int
    """Bits of the fraction."""
    least: int
    """Exponent of the smallest normal number."""
    largest: str
    """The largest number, as LLVM writes a float."""


FORMATS: Final = {"e4m3x2": Format(3, -6, "448.0"), "e5m2x2": Format(2, -14, "57344.0")}


def to_fp8(b: Builder, name: str, value: Value) -> Value:
    """float -> i8, to nearest even; the largest number stands for all beyond it (.satfinite). NaNs lose their sign."""
    form = FORMATS[name]
    magnitude = b.intrinsic("minimumnum", b.intrinsic("fabs", value), constant("float", form.largest))
    least = _FLOAT_BIAS + form.least
    exponent = b.intrinsic("umax", b.op("lshr", b.bitcast(magnitude, "i32"), _FLOAT_FRACTION), least)
    # the last bit that stays is worth 2 ** (exponent - fraction): divide by it, round, count
    scale = b.op("sub", constant("i32", 2 * _FLOAT_BIAS + form.fraction), exponent)
    scaled = b.op("fmul", magnitude, b.bitcast(b.op("shl", scale, _FLOAT_FRACTION), "float"))
    count = b.cast("fptoui", b.intrinsic("roundeven", scaled), "i32")
    code = b.op("add", count, b.op("shl", b.op("sub", exponent, least), form.fraction))
    sign = b.op("and", b.op("lshr", b.bitcast(value, "i32"), 24), 0x80)
    return b.trunc(b.select(b.fcmp("uno", value, value), _NAN, b.op("or", code, sign)), "i8")


def from_fp8(b: Builder, name: str, value: Value) -> Value:
    """i8 -> half, exactly. All NaNs become the same one."""
    wide, magnitude = b.op("shl", b.zext(value, "i16"), 8), b.op("and", value, _NAN)
    half = b.bitcast(wide, "half")
    if name == "e5m2x2":  # a half without its lower 8 bits of fraction
        nan = b.icmp("ugt", magnitude, 0x7C)
    else:
        nan = b.icmp("eq", magnitude, _NAN)
        unscaled = b.bitcast(b.op("and", b.op("lshr", wide, 1), 0x3F80), "half")
        scaled = b.op("fmul", unscaled, constant("half", "0xH5C00"))  # 2 ** 8: the difference of the exponents' biases
        half = b.intrinsic("copysign", scaled, half)
    return b.select(nan, constant("half", "0xH7FFF"), half)
