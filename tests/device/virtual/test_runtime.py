"""The pieces of the run-time by themselves: the records both sides share, the restricted language, half precision."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from bitfusion.device.virtual import half
from bitfusion.device.virtual.bounds import ptx_range
from bitfusion.device.virtual.jit import Code, compile_ir
from bitfusion.device.virtual.launch_record import LaunchRecord
from bitfusion.device.virtual.layout import BLOCK, LAUNCH, THREADS_MAX
from bitfusion.device.virtual.objects import ObjectCache
from bitfusion.device.virtual.records import Launch
from bitfusion.device.virtual.restricted import Int64, Record
from bitfusion.device.virtual.runtime import load_runtime
from bitfusion.device.virtual.translate import translate


def test_the_hosts_launch_record_is_the_agreed_one():
    for name, offset in LAUNCH.items():
        if name != "SIZE":
            assert getattr(LaunchRecord, name.lower()).offset == offset, name
    assert ctypes.sizeof(LaunchRecord) <= LAUNCH["SIZE"]


def test_the_fields_of_a_block_do_not_overlap():
    widths = {"STATE": 2, "READY": 1, "POST_MASK": 4, "POST_COUNT": 4, "POST_WORD": 4, "POST_VALUE": 8, "RESULT": 4}
    ends = {name: BLOCK[name] + width * THREADS_MAX for name, width in widths.items()}
    following = list(BLOCK)
    for name, end in ends.items():
        assert end <= BLOCK[following[following.index(name) + 1]]
        assert BLOCK[name] % widths[name] == 0


class Pair(Record):
    offsets = {"left": 0, "right": 8}
    size = 16
    left: Int64
    right: Int64


def collatz(start: int) -> int:
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
        if steps > 1000 or start < 0:
            return -1
    return steps


def language(pair: Pair, n: int) -> int:
    total = 0
    for i in range(1, n):
        if i == 3 or (i > 5 and not i < 7):
            continue
        if i in (11, 13):
            break
        total += i * (i ^ 1) - (i << 2 & 6 | 1)
    for i in range(n):
        total -= i >> 1
    pair.left = total
    pair.right += helper(pair, -n)
    return total if n not in (4, 5) else ~total


def helper(pair: Pair, n: int) -> int:
    return pair.left + n


def compiled(function, *arguments):
    """A restricted function as machine code, called with integers."""
    code = Code(compile_ir(translate(function)))
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))
    return prototype(code.address(function.__name__))(*arguments)


@pytest.mark.parametrize("start", [1, 7, 27, 97])
def test_a_restricted_function_does_what_python_does(start):
    assert compiled(collatz, start) == collatz(start)


@pytest.mark.parametrize("n", range(0, 16, 1))
def test_control_flow_and_records(n):
    class Plain:
        left, right = 5, 7

    expected = language(Plain, n)
    memory = (ctypes.c_int64 * 2)(5, 7)
    assert compiled(language, ctypes.addressof(memory), n) == expected
    assert list(memory) == [Plain.left, Plain.right]


def outside(n: int) -> int:
    return [n][0]


def test_what_is_not_in_the_language_is_named():
    with pytest.raises(SyntaxError, match=r"\[n\]"):
        translate(outside)


def test_every_half_becomes_a_float():
    halves = np.arange(1 << 16, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32).view(np.uint32)
    converted = np.array([half.float_from_half(int(bits)) for bits in halves], np.uint32)
    np.testing.assert_array_equal(converted, expected | np.where(np.isnan(halves.view(np.float16)), 0x400000, 0))


@pytest.mark.parametrize(
    ("dtype", "convert"), [(np.float32, half.half_from_float), (np.float64, half.half_from_double)]
)
def test_floats_become_halves_rounded_once(dtype, convert):
    random = np.random.default_rng(23)
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = exact[np.isfinite(exact)].astype(dtype)
    middles = (exact[:-1] + exact[1:]) / 2
    values = np.concatenate([random.choice(exact, 2000), random.choice(middles, 3000), random.standard_normal(2000)])
    values = np.concatenate(
        [values, np.nextafter(middles[:1000], np.inf), [np.inf, -np.inf, 65519.9, 65520, 1e30, 0.0, -0.0]]
    )
    values = values.astype(dtype)
    bits = values.view(np.uint32 if dtype is np.float32 else np.uint64)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal([convert(int(value)) for value in bits], expected)
    assert convert(int(np.array(np.nan, dtype).view(bits.dtype))) & 0x7E00 == 0x7E00


def test_the_range_check_looks_at_every_granule():
    shadow = (ctypes.c_uint16 * 8)(256, 256, 100, 0, 256, 256, 7, 0)
    record = LaunchRecord(memory_base=0x10000, memory_size=7 * 256, shadow=ctypes.addressof(shadow))
    code = Code(compile_ir(translate(ptx_range)))
    check = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)(code.address("ptx_range"))
    address = ctypes.addressof(record)
    valid = np.concatenate([np.arange(256) < count for count in list(shadow)[:7]])
    for start in (-1, 0, 1, 255, 256, 500, 611, 612, 767, 768, 1023, 1024, 1535, 1536, 1542, 1791):
        for end in range(start + 1, min(start + 700, 1795)):
            expected = start >= 0 and end <= valid.size and bool(valid[start:end].all())
            assert bool(check(address, 0x10000 + start, 0x10000 + end)) == expected, (start, end)
    assert Launch.offsets["shadow"] == LaunchRecord.shadow.offset


def test_the_run_time_is_loaded_once():
    assert load_runtime(ObjectCache(None)) is load_runtime(ObjectCache(None))
