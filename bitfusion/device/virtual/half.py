"""Conversions of half precision for CPUs that cannot do them: LLVM calls these by name (compiler-rt's names).

Restricted Python.

Formats: IEEE 754-2019, 3.6; rounding to nearest, ties to even.
"""

from __future__ import annotations

from typing import Final

HALF_MANTISSA: Final = 10
HALF_BIAS: Final = 15
HALF_INFINITY: Final = 0x7C00
HALF_QUIET: Final = 0x200
HALF_SIGN: Final = 0x8000

FLOAT_MANTISSA: Final = 23
FLOAT_BIAS: Final = 127
FLOAT_INFINITY: Final = 0x7F800000
FLOAT_QUIET: Final = 0x400000

DOUBLE_MANTISSA: Final = 52
DOUBLE_BIAS: Final = 1023


def half_from_float(bits: int) -> int:
    """The bits of a half from those of a float (binary32)."""
    return narrow(bits >> 16 & HALF_SIGN, bits >> FLOAT_MANTISSA & 0xFF, bits & 0x7FFFFF, FLOAT_MANTISSA, FLOAT_BIAS)


def half_from_double(bits: int) -> int:
    """The bits of a half from those of a double (binary64), rounded once."""
    exponent = bits >> DOUBLE_MANTISSA & 0x7FF
    return narrow(bits >> 48 & HALF_SIGN, exponent, bits & 0xFFFFFFFFFFFFF, DOUBLE_MANTISSA, DOUBLE_BIAS)


def narrow(sign: int, exponent: int, mantissa: int, size: int, bias: int) -> int:
    """A half from the fields of a number with ``size`` bits of mantissa."""
    if exponent > 2 * bias:
        return sign | HALF_INFINITY | ((HALF_QUIET | mantissa >> (size - HALF_MANTISSA)) if mantissa else 0)
    power = exponent - bias
    shift = size - HALF_MANTISSA
    if power <= -HALF_BIAS:
        shift += 1 - HALF_BIAS - power  # a subnormal half
    if exponent == 0 or shift > size + 1:
        return sign
    mantissa |= 1 << size
    result = mantissa >> shift
    rest = mantissa - (result << shift)
    middle = 1 << (shift - 1)
    if rest > middle or (rest == middle and result & 1):
        result += 1
    if power > -HALF_BIAS:
        result += (power + HALF_BIAS - 1) << HALF_MANTISSA  # the leading bit of the mantissa adds one more
    return sign | (result if result < HALF_INFINITY else HALF_INFINITY)


def float_from_half(bits: int) -> int:
    """The bits of a float from those of a half: always exact."""
    sign = (bits & HALF_SIGN) << 16
    exponent = bits >> HALF_MANTISSA & 0x1F
    mantissa = (bits & 0x3FF) << (FLOAT_MANTISSA - HALF_MANTISSA)
    if exponent == 0x1F:
        return sign | FLOAT_INFINITY | (mantissa | FLOAT_QUIET if mantissa else 0)
    if exponent == 0:
        if mantissa == 0:
            return sign
        exponent = 1
        while mantissa >> FLOAT_MANTISSA == 0:
            mantissa = mantissa << 1
            exponent -= 1
        mantissa -= 1 << FLOAT_MANTISSA
    return sign | (exponent + FLOAT_BIAS - HALF_BIAS) << FLOAT_MANTISSA | mantissa


LIBRARY: Final = """
define half @__truncsfhf2(float %value) {
  %bits = bitcast float %value to i32
  %wide = zext i32 %bits to i64
  %half = call i64 @half_from_float(i64 %wide)
  %narrow = trunc i64 %half to i16
  %result = bitcast i16 %narrow to half
  ret half %result
}
define half @__truncdfhf2(double %value) {
  %bits = bitcast double %value to i64
  %half = call i64 @half_from_double(i64 %bits)
  %narrow = trunc i64 %half to i16
  %result = bitcast i16 %narrow to half
  ret half %result
}
define float @__extendhfsf2(half %value) {
  %bits = bitcast half %value to i16
  %wide = zext i16 %bits to i64
  %float = call i64 @float_from_half(i64 %wide)
  %narrow = trunc i64 %float to i32
  %result = bitcast i32 %narrow to float
  ret float %result
}
"""
"""The functions under their names, in LLVM IR: ``half`` has the calling convention LLVM expects of them."""
