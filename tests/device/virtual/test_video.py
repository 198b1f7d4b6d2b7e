"""Video instructions on the lanes of a register against Python's integers (PTX ISA, 9.7.18.2)."""

from __future__ import annotations

import itertools

import numpy as np

from tests.device.virtual.ptx import compute

RANDOM = np.random.default_rng(31)

OPERATIONS = {
    "vadd": lambda x, y: x + y,
    "vsub": lambda x, y: x - y,
    "vabsdiff": lambda x, y: abs(x - y),
    "vmin": np.minimum,
    "vmax": np.maximum,
}


def lanes(values, count, name):
    """Each lane of each register, the lowest first."""
    return values.view(f"{name[0].replace('s', 'i')}{4 // count}").reshape(-1, count).astype(np.int64)


def test_lanes_of_every_type(gpu):
    corners = np.array([0, 0xFFFFFFFF, 0x80808080, 0x7F7F7F7F, 0x80008000, 0x7FFF7FFF, 0x01FF8000], np.uint32)
    pairs = np.array(list(itertools.product(corners, corners)), np.uint32)
    x, y = np.concatenate([pairs, RANDOM.integers(0, 1 << 32, (100, 2), np.uint32)]).T.copy()
    z = RANDOM.integers(0, 1 << 32, x.size, np.uint32)
    instructions, expected = {}, {}
    for (name, operation), count, *types in itertools.product(OPERATIONS.items(), (2, 4), *[("u32", "s32")] * 3):
        result = operation(lanes(x, count, types[1]), lanes(y, count, types[2]))
        bits = 32 // count
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if types[0] == "s32" else (0, (1 << bits) - 1)
        shifts = np.arange(count) * bits
        for form, values in (("", result), (".sat", np.clip(result, low, high)), (".add", result)):
            text = f"{name}{count}.{'.'.join(types)}{form} d, a, b, c;"
            packed = ((values & (1 << bits) - 1) << shifts).sum(1)
            instructions[text] = text
            expected[text] = (z + result.sum(1) if form == ".add" else packed) & 0xFFFFFFFF
    got = compute(gpu, instructions, x, y, z, out=np.uint32)
    for text, result in expected.items():
        np.testing.assert_array_equal(got[text], result, text)
