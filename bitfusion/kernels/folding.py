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

BIT_COUNT_MAX = 4096
"""Bits of an integer that may arise: far above what a kernel can hold, and done in no time."""

COMPARISONS = frozenset(
    {operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.is_, operator.is_not}
    | {operator.contains}
)

NUMBERS = (bool, int, float, complex, np.number, np.bool_)


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


def is_small(function: Callable[[Any, Any], Any], left: object, right: object) -> bool:
    """Whether ``function(left, right)`` on two constants is done at once and gives something small."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return False
    if function in COMPARISONS:
        return True
    if not isinstance(left, NUMBERS) or not isinstance(right, NUMBERS):
        return False
    if isinstance(left, int) and isinstance(right, int):
        if function is operator.pow:
            return max(left.bit_length(), 1) * abs(right) <= BIT_COUNT_MAX
        if function is operator.lshift:
            return right <= BIT_COUNT_MAX
    return True
