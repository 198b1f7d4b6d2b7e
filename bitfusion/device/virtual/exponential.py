"""2 ** x in single precision as plain arithmetic, which LLVM vectorises over threads; a call of the C library it does not.

x = n + f with a whole n and abs(f) <= 1/2; 2 ** f is a polynomial, and 2 ** n is put together as bits.
"""

from __future__ import annotations

import struct
from typing import Final

from bitfusion.device.virtual.builder import Builder, Value, constant

_COEFFICIENTS: Final = (
    0.00015353362,
    0.0013398875,
    0.009618437,
    0.055503324,
    0.24022648,
    0.6931472,
    1.0,
)
"""Of 2 ** f from f ** 6 down: the polynomial with the least relative error, 2 ** -28.9, that gives 1 at 0. With the rounding of
its steps a result is off by less than one unit in the last place; PTX asks for two (PTX ISA, 9.7.3.21).
"""

_LOWEST, _HIGHEST = -151.0, 129.0
"""Beyond these the result is 0 and infinity."""

_SHIFTER: Final = 1.5 * 2.0**23
"""Added to a float, it leaves the nearest whole number in the lowest bits."""

_BIAS, _FRACTION_BITS = 127, 23


def exp2(e: Builder, x: Value) -> Value:
    """2 ** x for a float. Whole powers are exact, subnormal results are rounded once."""
    x = e.select(e.fcmp("olt", x, _literal(_LOWEST)), _number(_LOWEST), x)  # NaN passes
    x = e.select(e.fcmp("ogt", x, _literal(_HIGHEST)), _number(_HIGHEST), x)
    shifted = e.op("fadd", x, _number(_SHIFTER))
    fraction = e.op("fsub", x, e.op("fsub", shifted, _number(_SHIFTER)))
    result = _number(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        result = e.intrinsic("fma", result, fraction, _number(coefficient))
    exponent = e.op("sub", e.bitcast(shifted, "i32"), _bits(_SHIFTER))
    half = e.op("ashr", exponent, 1)
    scaled = e.op("fmul", result, _power(e, half))  # in two steps: 2 ** exponent need not be a normal number
    return e.op("fmul", scaled, _power(e, e.op("sub", exponent, half)))


def _power(e: Builder, exponent: Value) -> Value:
    """2 ** exponent as a float, for exponents of normal numbers."""
    return e.bitcast(e.op("shl", e.op("add", exponent, _BIAS), _FRACTION_BITS), "float")


def _number(value: float) -> Value:
    return constant("float", _literal(value))


def _literal(value: float) -> str:
    """LLVM writes a float as the bits of the double of the same value."""
    single = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{int.from_bytes(struct.pack('<d', single), 'little'):016X}"


def _bits(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")
