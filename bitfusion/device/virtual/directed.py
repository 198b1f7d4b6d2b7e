"""Arithmetic of doubles in the rounding modes .rz, .rm and .rp (PTX ISA, 9.7.3): done by the CPU, in a function for each
operation and mode that sets the CPU's mode and puts it back.

Written as LLVM's constrained operations (LLVM Language Reference, "Constrained Floating-Point Intrinsics"), which keep
the optimiser from moving the operation out of the mode. Floats need none of this, see ``rounding``.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.builder import Builder, Value

_MODES: Final = {"rz": (0, "round.towardzero"), "rp": (2, "round.upward"), "rm": (3, "round.downward")}
"""PTX -> (argument of llvm.set.rounding, as FLT_ROUNDS of ISO C 5.2.4.2.2; name in constrained operations)."""
_NEAREST: Final = 1


def directed_double(b: Builder, operation: str, mode: str, *operands: Value) -> Value:
    """An LLVM operation (fadd, fsub, fmul, fdiv, sqrt, fma) on doubles, rounded as ``mode`` says."""
    name = f"@directed.{operation}.{mode}"
    arguments = [f"double %a{index}" for index in range(len(operands))]
    number, rounding = _MODES[mode]
    intrinsic = f"@llvm.experimental.constrained.{operation}.f64"
    types = ", ".join(["double"] * len(operands))
    b.declare("declare void @llvm.set.rounding(i32)")
    b.declare(f"declare double {intrinsic}({types}, metadata, metadata)")
    b.declare(f"""define internal double {name}({", ".join(arguments)}) strictfp noinline nounwind {{
  call void @llvm.set.rounding(i32 {number}) strictfp
  %result = call double {intrinsic}({", ".join(arguments)}, metadata !"{rounding}", metadata !"fpexcept.strict") strictfp
  call void @llvm.set.rounding(i32 {_NEAREST}) strictfp
  ret double %result
}}""")
    return b.let("double", f"call double {name}({', '.join(map(str, operands))})")
