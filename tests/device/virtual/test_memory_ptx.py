"""Atomic operations, vector accesses and asynchronous copies of PTX, in every space, for every type."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bitfusion.errors import InvalidValueError, UnsupportedError
from tests.device.virtual.ptx import kernel, run

THREADS = 96
RANDOM = np.random.default_rng(41)

DTYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
DTYPES |= {
    f"{kind}{bits}": np.dtype(f"{'i' if kind == 's' else 'u'}{bits // 8}") for kind in "bus" for bits in (16, 32, 64)
}
REGISTERS = {2: "h", 4: "r", 8: "rd", 16: "q"}


def wrapping(function):
    """An operation on unsigned integers of the cell's width."""
    return lambda old, value, dtype: np.array(
        int(function(int(old), int(value))) & (1 << 8 * dtype.itemsize) - 1, np.uint64
    ).astype(dtype)


def increment(old, value):
    return 0 if old >= value else old + 1


def decrement(old, value):
    return value if old == 0 or old > value else old - 1


OPERATIONS = {
    **{f"add.{name}": wrapping(lambda old, value: old + value) for name in ("u32", "s32", "u64", "s64")},
    **{f"add.{name}": lambda old, value, dtype: dtype.type(old + value) for name in ("f32", "f64")},
    **{f"add.noftz.{name}": lambda old, value, dtype: dtype.type(old + value) for name in ("f16", "bf16")},
    **{f"{name}.{kind}": (lambda old, value, dtype, f=f: dtype.type(f(old, value)))
       for kind in ("u32", "s32", "u64", "s64") for name, f in (("min", min), ("max", max))},
    **{f"and.b{bits}": wrapping(lambda old, value: old & value) for bits in (32, 64)},
    **{f"or.b{bits}": wrapping(lambda old, value: old | value) for bits in (32, 64)},
    **{f"xor.b{bits}": wrapping(lambda old, value: old ^ value) for bits in (32, 64)},
    **{f"exch.b{bits}": wrapping(lambda old, value: value) for bits in (32, 64)},
    "inc.u32": wrapping(increment),
    "dec.u32": wrapping(decrement),
}  # fmt: skip


def values_for(operation, dtype, count):
    if operation.startswith(("inc", "dec")):
        return RANDOM.integers(5, 40, count).astype(dtype)
    if dtype.kind == "f" or dtype == ml_dtypes.bfloat16:
        return RANDOM.integers(-3, 4, count).astype(dtype)
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, count, dtype, endpoint=True)


ROUNDS = 3
SCOPES = {"global": ".relaxed.gpu.global", "shared": ".shared::cta", "generic": "", "cta": ".acq_rel.cta.global"}


@pytest.mark.parametrize("space", SCOPES)
def test_atomics_return_the_old_value(gpu, space):
    """One thread does each operation several times in turn, in a cell of its own."""
    lines, inputs, starts = [], np.zeros((len(OPERATIONS), ROUNDS), np.uint64), np.zeros(len(OPERATIONS), np.uint64)
    for row, operation in enumerate(OPERATIONS):
        name = operation.rpartition(".")[2]
        dtype = np.dtype(DTYPES[name])
        inputs[row] = values_for(operation, dtype, ROUNDS).view(f"u{dtype.itemsize}")
        starts[row] = values_for(operation, dtype, 1).view(f"u{dtype.itemsize}")[0]
        bits, register = 8 * dtype.itemsize, f"%{REGISTERS[dtype.itemsize]}"
        lines.append(f"ld.global.b64 %rd7, [%rd1+{8 * row}]; st.shared.b64 [s+{8 * row}], %rd7;")
        where = f"s+{8 * row}" if space == "shared" else f"%rd1+{8 * row}"
        kind, *rest = operation.split(".")
        for k in range(row * ROUNDS, row * ROUNDS + ROUNDS):
            lines.append(f"ld.global.b{bits} {register}5, [%rd0+{8 * k}];")
            lines.append(f"{'.'.join(['atom' + SCOPES[space], kind, *rest])} {register}6, [{where}], {register}5;")
            lines.append(f"st.global.b{bits} [%rd2+{8 * k}], {register}6;")
        lines.append(f"ld.shared.b64 %rd7, [s+{8 * row}]; st.global.b64 [%rd3+{8 * row}], %rd7;")
    cells, old, shared = starts.copy(), np.zeros_like(inputs), np.zeros_like(starts)
    run(gpu, kernel("\n".join(lines), 4, declarations=".shared .align 16 .b8 s[1024];"), inputs, cells, old, shared)
    ends = shared if space == "shared" else cells
    for row, (operation, model) in enumerate(OPERATIONS.items()):
        dtype = np.dtype(DTYPES[operation.rpartition(".")[2]])
        values, before = (narrowed(array[row], dtype) for array in (inputs, old))
        state = narrowed(starts[row : row + 1], dtype)[0]
        for value, got in zip(values, before, strict=True):
            assert got == state, operation
            state = model(state, value, dtype)
        assert narrowed(ends[row : row + 1], dtype)[0] == state, operation


def narrowed(cells, dtype):
    """The values in the low bytes of 64-bit cells."""
    return cells.astype(f"u{dtype.itemsize}").view(dtype)


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("name", ["f16", "bf16", "f16x2", "bf16x2", "f32", "f64", "u32", "u64"])
def test_many_threads_add_to_one_cell(gpu, name, space):
    single = name.removesuffix("x2")
    dtype = np.dtype(DTYPES[single])
    one = np.ones(2, dtype)[: 2 if name.endswith("x2") else 1]
    bits = 8 * one.nbytes
    register = f"%{REGISTERS[one.nbytes]}5"
    noftz = ".noftz" if "f16" in name else ""
    body = f"""setp.ne.u32 %p1, %r0, 0; mov.u64 %rd3, 0; @!%p1 st.shared.u64 [s], %rd3; bar.sync 0;
    ld.global.b{bits} {register}, [%rd0]; red.{space}.add{noftz}.{name} [{"s" if space == "shared" else "%rd1"}], {register}; bar.sync 0;
    @%p1 ret; ld.shared.b{bits} {register}, [s]; st.global.b{bits} [%rd2], {register};"""
    cell, shared = np.zeros_like(one), np.zeros_like(one)
    arrays = [array.view(f"u{one.nbytes}") for array in (one, cell, shared)]
    run(
        gpu,
        kernel(body, 3, declarations=".shared .align 16 .b8 s[16];"),
        *arrays,
        block=THREADS,
        grid=1 if space == "shared" else 2,
    )
    total = shared if space == "shared" else cell
    np.testing.assert_array_equal(total.astype(float), THREADS * (1 if space == "shared" else 2))


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize("bits", [16, 32, 64, 128])
def test_compare_and_swap(gpu, bits, space):
    size = bits // 8
    register = f"%{REGISTERS[size]}"
    where = "s" if space == "shared" else "%rd0+16"
    if bits == 128:
        load = "".join(
            f"ld.global.v2.u64 {{%rd4, %rd5}}, [%rd0+{16 * k}]; mov.b128 %q{k}, {{%rd4, %rd5}};" for k in range(3)
        )
        store = "".join(
            f"mov.b128 {{%rd4, %rd5}}, %q{k}; st.global.v2.u64 [%rd1+{16 * (k - 1)}], {{%rd4, %rd5}};"
            for k in (1, 2, 3)
        )
        names = [f"%q{k}" for k in range(4)]
        begin = "st.shared.b128 [s], %q1;"
        end = "ld.shared.b128 %q3, [s];" if space == "shared" else "ld.global.b128 %q3, [%rd0+16];"
        swaps = f"atom.{space}.cas.b128 %q1, [{where}], %q2, %q0; atom.{space}.cas.b128 %q2, [{where}], %q1, %q0;"
    else:
        load = "".join(f"ld.global.b{bits} {register}{k + 3}, [%rd0+{16 * k}];" for k in range(3))
        store = "".join(f"st.global.b{bits} [%rd1+{16 * (k - 4)}], {register}{k};" for k in (4, 5, 6))
        names = [f"{register}{k}" for k in range(3, 7)]
        begin = f"st.shared.b{bits} [s], {names[1]};"
        end = f"ld.{space}.b{bits} {names[3]}, [{where}];"
        swaps = f"atom.{space}.cas.b{bits} {names[1]}, [{where}], {names[2]}, {names[0]};"
        swaps += f"atom.{space}.cas.b{bits} {names[2]}, [{where}], {names[1]}, {names[0]};"
    new, cell, wrong = (RANDOM.integers(0, 256, size, np.uint8) for _ in range(3))
    data, out = np.zeros((3, 16), np.uint8), np.zeros((3, 16), np.uint8)
    data[0, :size], data[1, :size], data[2, :size] = new, cell, wrong
    run(gpu, kernel(load + begin + swaps + end + store, 2, declarations=".shared .align 16 .b8 s[16];"), data, out)
    np.testing.assert_array_equal(out[:, :size], [cell, cell, new])  # the first compare fails, the second swaps


def test_128_bits_are_exchanged_by_many_threads(gpu):
    """Every value that goes in comes out once."""
    body = """shl.b32 %r1, %r0, 4; cvt.u64.u32 %rd2, %r1; add.u64 %rd2, %rd1, %rd2; add.u32 %r2, %r0, 1; cvt.u64.u32 %rd3, %r2;
    not.b64 %rd4, %rd3; mov.b128 %q0, {%rd3, %rd4}; atom.global.exch.b128 %q1, [%rd0], %q0; st.global.b128 [%rd2], %q1;"""
    cell, out = np.zeros(2, np.uint64), np.zeros((THREADS, 2), np.uint64)
    run(gpu, kernel(body, 2), cell, out, block=THREADS)
    seen = sorted([*out.tolist(), cell.tolist()])
    assert seen == [[0, 0], *([k, 2**64 - 1 - k] for k in range(1, THREADS + 1))]


@pytest.mark.parametrize(
    ("form", "count"), [("v2.f32", 2), ("v4.f32", 4), ("v2.f16", 2), ("v4.bf16", 4), ("v2.f16x2", 2), ("v8.f16", 8)]
)
def test_vectors_of_atomics(gpu, form, count):
    name = form.split(".")[1]
    dtype = np.dtype(DTYPES[name.removesuffix("x2")])
    lanes = 2 if name.endswith("x2") else 1
    size = dtype.itemsize * lanes
    registers = ", ".join(f"%{REGISTERS[size]}{k + 2}" for k in range(count))
    values = RANDOM.integers(-4, 5, count * lanes).astype(dtype)
    loads = "".join(f"ld.global.b{8 * size} %{REGISTERS[size]}{k + 2}, [%rd0+{k * size}];" for k in range(count))
    noftz = ".noftz" if "f16" in name else ""
    body = f"{loads} red.global{'.' + form.split('.')[0]}.{name}.add{noftz} [%rd1], {{{registers}}};"
    cells = np.zeros(count * lanes, dtype)
    run(gpu, kernel(body, 2), values.view(f"u{size}"), cells.view(f"u{size}"), block=3)
    np.testing.assert_array_equal(cells.astype(float), 3 * values.astype(float))


def test_what_atomics_cannot_do_is_refused(gpu):
    for line, words in {
        "atom.global.and.f16 %h1, [%rd0], %h2;": "atom.global.and.f16",
        "red.async.relaxed.cluster.global.add.u32 [%rd0], %r1;": "red.async",
        "atom.global.add.u8 %h1, [%rd0], %h2;": "add.u8",
    }.items():
        with pytest.raises(UnsupportedError, match=words):
            gpu.load(kernel(line))
    with pytest.raises(InvalidValueError, match="two sources"):
        gpu.load(kernel("atom.global.cas.b32 %r1, [%rd0], %r2;"))


@pytest.mark.parametrize("name", ["b8", "u16", "b32", "f32", "b64", "f64"])
@pytest.mark.parametrize("space", ["global", "shared", "local", "generic"])
def test_vector_accesses(gpu, name, space):
    size = int(name[1:]) // 8
    register = "%" + {"f32": "f", "f64": "d"}.get(name, REGISTERS[max(size, 2)])
    for count in (1, 2, 4, 8):
        if size * count > 32 or (count == 8 and size < 4):
            continue
        regs = ", ".join(f"{register}{k + 4}" for k in range(count))
        regs = regs if count == 1 else f"{{{regs}}}"
        vector = f".v{count}" if count > 1 else ""
        moved = f"st.{space}{vector}.{name} [{space[0]}], {regs}; ld.{space}{vector}.{name} {regs}, [{space[0]}];"
        dot, through = (".global", moved) if space != "generic" else ("", "")
        through = "" if space == "global" else through
        load = f"ld{dot}.nc.L1::no_allocate.L2::128B{vector}.{name} {regs}, [%rd0];"
        body = f".local .align 32 .b8 l[32]; {load} {through} st{dot}{vector}.{name} [%rd1], {regs};"
        body = body.replace(".nc.L1::no_allocate", ".L1::evict_last") if space == "generic" else body
        data, out = RANDOM.integers(0, 256, 32, np.uint8), np.zeros(32, np.uint8)
        run(gpu, kernel(body, 2, declarations=".shared .align 32 .b8 s[32];"), data, out)
        np.testing.assert_array_equal(out, np.where(np.arange(32) < size * count, data, 0))


@pytest.mark.parametrize("size", [4, 8, 16])
def test_asynchronous_copies(gpu, size):
    forms = {
        f"cp.async.ca.shared.global [s], [%rd0], {size};": size,
        f"cp.async.ca.shared::cta.global.L2::128B [s], [%rd0], {size}, 3;": 3,
        f"mov.u32 %r1, {size - 2}; cp.async.ca.shared.global [s], [%rd0], {size}, %r1;": size - 2,
        f"mov.u32 %r1, 99; cp.async.ca.shared.global [s], [%rd0], {size}, %r1;": size,
        f"setp.eq.u32 %p1, 0, 0; cp.async.ca.shared.global [s], [%rd0], {size}, %p1;": 0,
        f"setp.eq.u32 %p1, 0, 1; cp.async.ca.shared.global [s], [%rd0], {size}, %p1;": size,
        f"createpolicy.fractional.L2::evict_last.b64 %rd2, 1.0; cp.async.ca.shared.global.L2::cache_hint [s], [%rd0], {size}, %rd2;": size,
        f"prefetch.global.L2 [%rd0]; prefetchu.L1 [%rd0]; cp.async.ca.shared.global [s], [%rd0], {size}; cp.async.wait_group 0;": size,
    }
    for form, copied in forms.items():
        data, out = RANDOM.integers(1, 256, 16, np.uint8), np.zeros(16, np.uint8)
        store = "ld.shared.v2.u64 {%rd3, %rd4}, [s]; st.global.v2.u64 [%rd1], {%rd3, %rd4};"
        body = f"{form} cp.async.commit_group; cp.async.wait_all; {store}"
        run(gpu, kernel(body, 2, declarations=".shared .align 16 .b8 s[16];"), data, out)
        np.testing.assert_array_equal(out, np.where(np.arange(16) < copied, data, 0), form)


def test_every_special_register_can_be_read(gpu):
    words = ["tid", "ntid", "ctaid", "nctaid", "clusterid", "nclusterid", "cluster_ctaid", "cluster_nctaid"]
    scalars = "laneid warpid nwarpid smid nsmid lanemask_eq lanemask_lt lanemask_le lanemask_gt lanemask_ge clock clock_hi globaltimer_lo "
    scalars += "globaltimer_hi dynamic_smem_size total_smem_size aggr_smem_size cluster_ctarank cluster_nctarank envreg0 envreg31 pm0 pm7 "
    scalars += "reserved_smem_offset_begin reserved_smem_offset_end reserved_smem_offset_cap reserved_smem_offset_0"
    names = [f"{word}.{axis}" for word in words for axis in "xyz"] + scalars.split()
    lines = [f"mov.u32 %r1, %{name}; st.global.u32 [%rd0+{4 * k}], %r1;" for k, name in enumerate(names)]
    lines += [
        f"mov.u64 %rd1, %{name};" for name in ("gridid", "clock64", "globaltimer", "pm0_64", "current_graph_exec")
    ]
    out = np.zeros(len(names), np.uint32)
    run(gpu, kernel("\n".join([*lines, "mov.pred %p1, %is_explicit_cluster;"])), out)
    values = dict(zip(names, out.tolist(), strict=True))
    assert [values[f"{word}.x"] for word in words] == [0, 1, 0, 1, 0, 1, 0, 1]
    assert [values[f"lanemask_{kind}"] for kind in ("eq", "lt", "le", "gt", "ge")] == [1, 0, 1, 0xFFFFFFFE, 0xFFFFFFFF]
    assert values["cluster_nctarank"] == 1 and values["nwarpid"] == 32
