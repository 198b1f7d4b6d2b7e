"""The layouts of generalized ufuncs."""

from __future__ import annotations

import pytest

from bitfusion.cuda.core_shape import CoreShape, Schedule

MATMUL = "(m, n), (n, p) -> (m, p)"


@pytest.mark.parametrize(
    ("layout", "shapes", "expected"),
    [
        (MATMUL, [(100, 4, 5), (1, 5, 7)], Schedule((100,), ((4, 5), (5, 7)), ((4, 7),))),
        (MATMUL, [(12, 34, 4, 5), (12, 34, 5, 7)], Schedule((12, 34), ((4, 5), (5, 7)), ((4, 7),))),
        (MATMUL, [(4, 5), (5, 7)], Schedule((), ((4, 5), (5, 7)), ((4, 7),))),
        (MATMUL, [(3, 1, 4, 5), (2, 5, 7)], Schedule((3, 2), ((4, 5), (5, 7)), ((4, 7),))),
        ("(n),(n)->(n),()", [(5,), (6, 5)], Schedule((6,), ((5,), (5,)), ((5,), ()))),
        ("(),()->()", [(2, 3), (3,)], Schedule((2, 3), ((), ()), ((),))),
        ("(n),()->(n)", [(4,), (1,)], Schedule((), ((4,), ()), ((4,),))),
        ("(n),()->(n)", [(1, 4), ()], Schedule((1,), ((4,), ()), ((4,),))),
        ("(x,)->(x,)", [(0,)], Schedule((), ((0,),), ((0,),))),
    ],
)
def test_schedule(layout, shapes, expected):
    assert CoreShape.parse(layout).schedule(shapes) == expected


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ([(4, 5), (6, 7)], r"arg #2: shape\[0\] mismatch argument: n is 5 before, 6 here"),
        ([(5,), (5, 7)], "arg #1: insufficient inner dimension"),
        ([(2, 4, 5), (3, 5, 7)], "arg #2: outer dimension mismatch"),
    ],
)
def test_shapes_that_do_not_fit(shapes, match):
    with pytest.raises(ValueError, match=match):
        CoreShape.parse(MATMUL).schedule(shapes)


@pytest.mark.parametrize("text", ["", "(n)", "(n->(n)", "n->n", "(n)->(2)", "(n),x->(n)", "(n?)->()"])
def test_texts_that_are_no_layout(text):
    with pytest.raises(ValueError):
        CoreShape.parse(text)


def test_an_output_axis_that_no_input_has():
    with pytest.raises(NameError, match="undefined output symbols: p,q"):
        CoreShape.parse("(n)->(q,p)")
