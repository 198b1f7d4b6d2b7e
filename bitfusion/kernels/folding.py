"""What Numba computes while it compiles, kept small.

Its pass for dead branches evaluates conditions on constants in Python (numba.cuda.core.analysis, dead_branch_prune): ``if 9 ** 9 ** 9:``
would keep the worker busy for ever, inside one call that nothing can interrupt. So the operands are looked at first.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda.core import analysis, ir, untyped_passes
from numba.cuda.core.errors import TypingError
from numba.cuda.core.ir_utils import GuardException, find_const

SIZE_MAX = 4096
"""Bits of an integer or items of a sequence that may arise: far above what a kernel can use, and done in no time."""

SEQUENCES = (tuple, str, bytes)


@contextmanager
def bounded() -> Iterator[None]:
    """Within it Numba raises a typing error instead of computing something large. For one thread at a time."""
    prune = analysis.dead_branch_prune

    def careful(func_ir: Any, called_args: Any) -> Any:
        _check(func_ir)
        return prune(func_ir, called_args)

    analysis.dead_branch_prune = untyped_passes.dead_branch_prune = careful
    try:
        yield
    finally:
        analysis.dead_branch_prune = untyped_passes.dead_branch_prune = prune


def _check(func_ir: Any) -> None:
    for block in func_ir.blocks.values():
        for assignment in block.find_insts(ir.Assign):
            expression = assignment.value
            if isinstance(expression, ir.Expr) and expression.op == "binop":
                try:
                    left, right = find_const(func_ir, expression.lhs), find_const(func_ir, expression.rhs)
                except GuardException:
                    continue
                if not is_small(expression.fn, left, right):
                    raise TypingError("this constant expression is not one that a kernel can have", loc=assignment.loc)


def is_small(function: Callable[[Any, Any], Any], left: Any, right: Any) -> bool:
    """Whether ``function(left, right)`` on two constants is done at once and gives something small."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return False  # two small arrays can make a large one
    if function is operator.mod:
        return not isinstance(left, str | bytes)  # "%1000000000d" % 1
    if function is operator.mul and (isinstance(left, SEQUENCES) or isinstance(right, SEQUENCES)):
        sequence, count = (left, right) if isinstance(left, SEQUENCES) else (right, left)
        return not isinstance(count, int) or len(sequence) * count <= SIZE_MAX
    if isinstance(left, int) and isinstance(right, int):
        if function is operator.pow:
            return max(left.bit_length(), 1) * right <= SIZE_MAX
        if function is operator.lshift:
            return right <= SIZE_MAX
    return True
