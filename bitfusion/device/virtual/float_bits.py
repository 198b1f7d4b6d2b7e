"""Floating-point constants as bit patterns (PTX ISA, 4.5.2 "Floating-Point Constants")."""

from __future__ import annotations

import struct

from bitfusion.device.virtual.syntax import Immediate


def f32_bits(operand: Immediate) -> int:
    """Bit pattern of a constant as f32; the bits themselves of an integer."""
    if operand.kind != "d":
        return operand.value & 0xFFFFFFFF
    value = struct.unpack("<d", (operand.value & (1 << 64) - 1).to_bytes(8, "little"))[0]
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return 0xFF800000 if value < 0 else 0x7F800000


def f64_bits(operand: Immediate) -> int:
    """Bit pattern of a constant as f64; the bits themselves of an integer."""
    return widened_bits(operand.value & 0xFFFFFFFF) if operand.kind == "f" else operand.value & (1 << 64) - 1


def widened_bits(bits: int) -> int:
    """Bit pattern of an f32 as that of the f64 of the same value."""
    value = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    return int.from_bytes(struct.pack("<d", value), "little")
