"""Lambdas as function definitions: finds the one that a code object was made from, and writes it with ``def``.

A line may hold several lambdas; the columns of the code's instructions (PEP 657) say which one is meant.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import CodeType

from bitfusion.errors import KernelSourceError

Place = tuple[int, int]
"""Line and column."""


def lambda_as_function(code: CodeType, lines: Sequence[str], name: str) -> tuple[int, str]:
    """The line of the file at which the body stands, and the text: ``def name(parameters): return (body)``.

    KernelSourceError if the lambda cannot be found.
    """
    text = "".join(lines)
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        module = ast.Module([], [])
    places = _places(code)
    found = [node for node in ast.walk(module) if isinstance(node, ast.Lambda) and _holds(node.body, places)]
    if not found or not places:
        raise KernelSourceError(
            f"{code.co_filename}:{code.co_firstlineno}: the lambda cannot be found in its source; write it as a function with def",
            file=code.co_filename,
            line=code.co_firstlineno,
        )
    inmost = max(found, key=lambda node: _span(node.body))
    body = ast.get_source_segment(text, inmost.body)
    return inmost.body.lineno, f"def {name}({ast.unparse(inmost.args)}): return ({body})\n"


def _places(code: CodeType) -> list[tuple[Place, Place]]:
    """Where the code's instructions stand; those without an extent (RESUME) stand nowhere."""
    return [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line is not None and end_line is not None and column is not None and end_column is not None
        if (line, column) != (end_line, end_column)
    ]


def _span(node: ast.expr) -> tuple[Place, Place]:
    return (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)


def _holds(node: ast.expr, places: list[tuple[Place, Place]]) -> bool:
    start, end = _span(node)
    return all(start <= first and last <= end for first, last in places)
