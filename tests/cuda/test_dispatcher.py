"""Kernels as objects: configuring, specialising by argument types, host arrays, device functions, and errors before anything runs."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

import bitfusion
from bitfusion import cuda
from bitfusion.cuda import float32, float64, int32, int64
from bitfusion.errors import (
    DeviceError,
    InvalidAddressError,
    InvalidHandleError,
    KernelCompileError,
    KernelFaultError,
    KernelSourceError,
    KernelTypeError,
    LaunchError,
    SessionClosedError,
    UnsupportedError,
)

pytestmark = pytest.mark.usefixtures("client")

SCALE = 3


@cuda.jit
def add(x, y, out):
    i = cuda.grid(1)
    if i < out.shape[0]:
        out[i] = x[i] + y[i]


@cuda.jit(device=True)
def scaled(value):
    return value * SCALE


@cuda.jit
def scale(values, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = scaled(values[i])


@cuda.jit()
def store(out, value):
    out[cuda.grid(1)] = value


def numbers(count=100, dtype=np.float32):
    return np.arange(count, dtype=dtype)


def test_device_arrays():
    x, y = numbers(1000), numbers(1000)[::-1].copy()
    out = cuda.device_array(1000, np.float32)
    add[(4,), (256, 1)](cuda.to_device(x), cuda.to_device(y), out)
    np.testing.assert_array_equal(out.copy_to_host(), x + y)


def test_host_arrays_are_copied_in_and_back():
    x, out = numbers(), np.zeros(100, np.float32)
    add[1, 128](x, cuda.to_device(x), out)
    np.testing.assert_array_equal(out, 2 * x)


def test_host_arrays_of_any_strides():
    x, out = numbers(200)[::2], np.zeros((100, 3), np.float32)
    add[1, 128](x, x[::-1], out[:, 1])
    np.testing.assert_array_equal(out[:, 1], np.full(100, 198))
    assert not out[:, ::2].any()


def test_star_arguments_are_a_tuple():
    @cuda.jit
    def total(out, *arrays):
        i = cuda.grid(1)
        for array in arrays:
            out[i] += array[i]

    out = np.zeros(4)
    total[1, 4](out, np.ones(4), cuda.to_device(np.full(4, 2.0)))
    assert out.tolist() == [3] * 4
    total[1, 4](out, np.ones(4))
    assert out.tolist() == [4] * 4
    with pytest.raises(KernelTypeError, match="total takes at least 1 argument, 0 were given"):
        total[1, 4]()


def test_hints():
    @cuda.jit
    def touch(given, made, both):
        i = cuda.grid(1)
        given[i] += 1
        made[i] = given[i] * 10
        both[i] += 1

    given, made, both = numbers(8), np.full(8, -1, np.float32), numbers(8)
    touch[1, 8](cuda.In(given), cuda.Out(made), cuda.InOut(both))
    np.testing.assert_array_equal(given, numbers(8))
    np.testing.assert_array_equal(made, (numbers(8) + 1) * 10)
    np.testing.assert_array_equal(both, numbers(8) + 1)


def test_records_are_copied_in_and_back():
    @cuda.jit
    def bump(record):
        record.count += 1
        record.weight *= 2

    table = np.zeros(3, np.dtype([("count", "i4"), ("weight", "f8")], align=True))
    table["weight"] = 1.5
    bump[1, 1](table[1])
    assert table.tolist() == [(0, 1.5), (1, 3.0), (0, 1.5)]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64, np.float32, np.float64, np.complex64])
def test_a_kernel_is_made_for_each_dtype(dtype):
    x = np.arange(10).astype(dtype)
    out = cuda.device_array_like(x)
    scale[1, 32](cuda.to_device(x), out)
    np.testing.assert_array_equal(out.copy_to_host(), (x * SCALE).astype(dtype))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (7, int64),
        (-7, int64),
        (2**63 + 5, cuda.uint64),
        (2.5, float64),
        (True, cuda.boolean),
        (np.float32(0.1), float32),
        (np.int8(-3), cuda.int8),
        (1 + 2j, cuda.complex128),
        (np.bool_(True), cuda.boolean),
    ],
    ids=repr,
)
def test_scalars_keep_their_value_and_have_numbas_type(value, kind):
    out = cuda.device_array(1, np.asarray(value).dtype)
    for _ in range(2):  # the slow way, then the quick one
        store[1, 1](out, value)
        assert out.copy_to_host()[0] == value
    assert (cuda.types.from_dtype(out.dtype)[::1], kind) in store.overloads


def test_an_integer_that_needs_another_type_than_the_last():
    out = cuda.device_array(1, np.uint64)
    for value in (1, 2**64 - 1, 2):
        store[1, 1](out, value)
        assert out.copy_to_host()[0] == value


def test_tuples_and_none():
    @cuda.jit
    def fill(out, pair, nothing):
        if nothing is None:
            out[0] = pair[0]
            out[1] = pair[1]

    out = cuda.device_array(2, np.float64)
    for pair in ((1, 2.5), (3, 4.5)):
        fill[1, 1](out, pair, None)
        assert out.copy_to_host().tolist() == list(pair)


@cuda.jit
def add_tuple(arrays, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = arrays[0][i] + arrays[1][i]
        arrays[1][i] = -1


def test_arrays_in_tuples_are_arguments_like_others(virtual_appliance):
    x, y, given = numbers(), numbers(), cuda.to_device(numbers())
    out = cuda.device_array(100, np.float32)
    add_tuple[1, 128]((x, y), out)
    np.testing.assert_array_equal(out.copy_to_host(), 2 * x)
    assert (y == -1).all()
    y = numbers()
    add_tuple[1, 128]((given, cuda.In(y)), out)
    np.testing.assert_array_equal(out.copy_to_host(), 2 * x)
    np.testing.assert_array_equal(y, x)
    add_tuple[1, 128](cuda.In((x, y)), out)
    np.testing.assert_array_equal(y, x)
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as other:
        foreign = other.to_device(numbers())
        with pytest.raises(SessionClosedError, match="another session"):
            add_tuple[1, 128]((foreign, given), out)
    given.free()
    with pytest.raises(InvalidAddressError, match="freed"):
        add_tuple[1, 128]((out, given), out)


def test_layouts_are_types():
    @cuda.jit
    def transpose(matrix, out):
        x, y = cuda.grid(2)
        if x < matrix.shape[0] and y < matrix.shape[1]:
            out[y, x] = matrix[x, y]

    host = numbers(12).reshape(3, 4)
    for matrix in (host, np.asfortranarray(host), host[:, ::2]):
        out = cuda.device_array(matrix.shape[::-1], np.float32)
        transpose[(1, 1), (4, 4)](matrix, out)
        np.testing.assert_array_equal(out.copy_to_host(), matrix.T)
    assert len(transpose.overloads) >= 2


def test_values_a_kernel_closes_over_are_those_of_its_first_launch():
    factor = 2

    @cuda.jit
    def multiply(out):
        out[0] = factor

    out = cuda.device_array(1, np.int64)
    multiply[1, 1](out)
    factor = 5
    multiply[1, 1](out)
    assert out.copy_to_host()[0] == 2


def test_as_a_method():
    class Model:
        weight = 4

        @cuda.jit
        def kernel(out):
            out[0] = 1

        run = add

    out = cuda.device_array(1, np.int32)
    Model.kernel[1, 1](out)
    assert out.copy_to_host()[0] == 1
    assert Model.run is add


def test_forall():
    x = cuda.to_device(numbers(1000))
    out = cuda.device_array(1000, np.float32)
    add.forall(1000)(x, x, out)
    np.testing.assert_array_equal(out.copy_to_host(), 2 * numbers(1000))
    add.forall(0)(x, x, out)
    add.forall(1000, tpb=33)(x, x, out)
    cuda.synchronize()


def test_streams_and_dynamic_shared_memory():
    @cuda.jit
    def reverse(values):
        part = cuda.shared.array(0, float32)
        i = cuda.threadIdx.x
        part[i] = values[i]
        cuda.syncthreads()
        values[i] = part[cuda.blockDim.x - 1 - i]

    stream = cuda.stream()
    values = cuda.to_device(numbers(64), stream)
    reverse[1, 64, stream, 64 * 4](values)
    np.testing.assert_array_equal(values.copy_to_host(stream=stream), numbers(64)[::-1])


# declared signatures


def test_a_declared_signature_converts():
    @cuda.jit("void(float32[:], float32, int32)")
    def declared(out, value, index):
        out[index] = value

    out = cuda.to_device(np.zeros(4, np.float32))
    declared[1, 1](out, 3, np.int64(2))
    assert out.copy_to_host().tolist() == [0, 0, 3, 0]
    assert declared.signatures == [(float32[:], float32, int32)]
    assert declared.specialized
    with pytest.raises(KernelTypeError, match="argument 1"):
        declared[1, 1](cuda.to_device(np.zeros(4)), 3, 2)
    with pytest.raises(KernelTypeError, match="argument 3"):
        declared[1, 1](out, 3, 2**40)


def test_of_several_signatures_the_fitting_one():
    @cuda.jit([(int32[:], int32), cuda.void(float64[:], float64)])
    def declared(out, value):
        out[0] = value / 2

    whole, real = cuda.to_device(np.zeros(1, np.int32)), cuda.to_device(np.zeros(1))
    declared[1, 1](whole, 5)
    declared[1, 1](real, 5)
    assert (whole.copy_to_host()[0], real.copy_to_host()[0]) == (2, 2.5)
    with pytest.raises(KernelTypeError, match="No matching definition"):
        declared[1, 1](cuda.to_device(np.zeros(1, np.float32)), 1.0)


def test_of_several_signatures_the_closest():
    """Not the first that the values can be converted to: 2**-25 is lost in single precision."""

    @cuda.jit(["(float64[:], float32, float32)", "(float64[:], float64, float64)", "(float64[:], int8, int64)"])
    def declared(out, x, y):
        out[0] = x + y

    out = cuda.to_device(np.zeros(1))
    for x, y, expected in (
        (np.float32(1), np.float32(2**-25), 1),
        (1, 2**-25, 1 + 2**-25),
        (np.int8(5), np.int16(6), 11),
    ):
        declared[1, 1](out, x, y)
        assert out.copy_to_host()[0] == expected
    assert len(declared.overloads) == 3


def test_specialize():
    out = cuda.to_device(np.zeros(1, np.float64))
    special = store.specialize(out, 1.5)
    special[1, 1](out, 2)
    assert out.copy_to_host()[0] == 2
    with pytest.raises(KernelTypeError):
        special[1, 1](cuda.to_device(np.zeros(1, np.int32)), 2)


def test_what_a_kernel_uses_is_known():
    out = cuda.device_array(1, np.float64)
    store[1, 1](out, 1.0)
    signature = (float64[::1], float64)
    assert store.get_max_threads_per_block(signature) >= 256
    assert store.get_regs_per_thread()[signature] >= 0
    assert store.get_shared_mem_per_block(signature) == store.get_const_mem_size(signature) == 0


# options


def test_options_are_taken():
    @cuda.jit(fastmath=True, lineinfo=True, max_registers=32, cache=True, inline="always", opt=True)
    def root(out):
        out[0] = out[0] ** 0.5

    out = cuda.to_device(np.array([9], np.float32))
    root[1, 1](out)
    assert out.copy_to_host()[0] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("options", [{"boundscheck": True}, {"argtypes": "f4"}, {"colour": 1}])
def test_other_options_are_refused(options):
    with pytest.raises(UnsupportedError, match=next(iter(options))):
        cuda.jit(**options)(lambda out: None)


def test_link_of_nothing_is_no_link():
    assert cuda.jit(link=(), extensions=[])(add.py_func).py_func is add.py_func


# errors


def test_how_it_was_called():
    with pytest.raises(LaunchError, match=r"add\[grid, block\]"):
        add(1, 2, 3)
    with pytest.raises(LaunchError, match="device function"):
        scaled(1)
    with pytest.raises(LaunchError, match="device function"):
        scaled[1, 1]
    for configuration in (1, (1,), (1, 1, 0, 0, 0), ((1, 1, 1, 1), 1)):
        with pytest.raises(ValueError):
            add[configuration]
    for configuration in ((1.5, 1), ("1", 1), (1, 1, 0, "big")):
        with pytest.raises(TypeError):
            add[configuration]
    for configuration in ((0, 1), (1, -1), (2**31, 1), (1, 1, 0, -1)):
        with pytest.raises(LaunchError):
            add[configuration]
    array = cuda.to_device(numbers())
    add[1, 1](array, array, array)
    for stream in ("stream", 7, object()):
        with pytest.raises(InvalidHandleError, match="is not a stream"):
            add[1, 1, stream](array, array, array)
    for stream in (None, 0, cuda.default_stream(), cuda.stream()):
        add[1, 1, stream](array, array, array)
    cuda.synchronize()


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_number_of_arguments(count):
    with pytest.raises(KernelTypeError, match=f"takes 3 arguments, {count} were given"):
        add[1, 1](*[cuda.device_array(1)] * count)


@pytest.mark.parametrize("value", ["text", [1, 2], {}, object(), np.array([None]), np.array([1], ">i4")], ids=repr)
def test_values_that_no_kernel_takes(value):
    with pytest.raises((KernelTypeError, DeviceError)):
        add[1, 1](value, value, value)
    cuda.synchronize()


def test_freed_memory():
    x, out = cuda.to_device(numbers()), cuda.device_array(100, np.float32)
    add[1, 128](x, x, out)
    part = x[10:]
    x.free()
    for freed in (x, part):
        with pytest.raises(InvalidAddressError, match="freed"):
            add[1, 128](freed, freed, out)
    cuda.synchronize()


def test_too_many_threads_and_too_much_shared_memory():
    x, out = cuda.to_device(numbers()), cuda.device_array(100, np.float32)
    with pytest.raises(LaunchError, match=r"2048 threads|MAX_BLOCK_DIM_X"):
        add[1, 2048](x, x, out)
    with pytest.raises(LaunchError, match="1089 threads"):
        add[1, (33, 33)](x, x, out)
    with pytest.raises(LaunchError, match="MAX_GRID_DIM_Y"):
        add[(1, 70000), 1](x, x, out)
    with pytest.raises(LaunchError, match="shared memory"):
        add[1, 1, 0, 1 << 30](x, x, out)
    add[1, 128](x, x, out)
    np.testing.assert_array_equal(out.copy_to_host(), 2 * numbers())


def test_a_kernel_that_does_not_compile_names_the_users_line():
    @cuda.jit
    def broken(out):
        out[0] = out.no_such_attribute

    with pytest.raises(KernelCompileError, match=r"test_dispatcher\.py") as caught:
        broken[1, 1](cuda.device_array(1))
    assert "no_such_attribute" in str(caught.value)


def test_a_kernel_that_returns_or_captures_what_cannot_travel():
    with pytest.raises(KernelTypeError, match="must have void return type"):
        cuda.jit("int32(int32)")(lambda value: value)
    things = [1, 2]

    @cuda.jit
    def captures(out):
        out[0] = things[0]

    with pytest.raises(KernelSourceError, match=r"test_dispatcher.py:\d+.*things"):
        captures[1, 1](cuda.device_array(1))
    with pytest.raises(KernelTypeError, match="Python function"):
        cuda.jit(3)


def test_a_fault_is_reported_by_the_next_wait(fresh):
    @cuda.jit
    def astray(out):
        out[1 << 29] = 1

    out = cuda.device_array(4, np.float32)
    astray[1, 1](out)
    name = f"astray (test_dispatcher.py:{astray.py_func.__code__.co_firstlineno})"
    with pytest.raises(KernelFaultError, match=rf"kernel {re.escape(name)}: thread") as caught:
        cuda.synchronize()
    assert caught.value.details["kernel"] == name
    assert caught.value.operation == f"launch of {name} with [(1, 1, 1), (1, 1, 1)]"


def test_kernels_are_called_by_their_names_in_programs(fresh):
    @cuda.jit
    def greedy(out):
        out[0] = cuda.shared.array(64, float32)[0]

    out = cuda.device_array(4, np.float32)
    greedy[1, 1](out)
    (made,) = greedy.overloads.values()
    name = f"greedy (test_dispatcher.py:{greedy.py_func.__code__.co_firstlineno})"
    assert made.function.info.name == name
    for config in ((1, (33, 33)), (1, 1, 0, 1 << 30)):
        with pytest.raises(LaunchError, match=re.escape(name)):
            greedy[config](out)
    with pytest.raises(LaunchError, match=re.escape(f"{name} takes")):
        made.function.launch(1, 1, b"")
    made.function.launch(1, (33, 33), bytes(made.function.info.arguments_size))
    with pytest.raises(LaunchError, match=re.escape(f"kernel {name} allows")) as caught:
        cuda.synchronize()
    assert name in caught.value.operation


def test_launch_configurations_are_forgotten_some_time(monkeypatch):
    monkeypatch.setattr("bitfusion.cuda.specialization.FITTING_COUNT_MAX", 4)
    array = cuda.to_device(numbers())
    for grid in range(1, 12):
        add[grid, 1](array, array, array)
    (found,) = [found for kinds, found in add.overloads.items() if set(kinds) == {float32[::1]}]
    assert 0 < len(found.fitting) <= 4
    cuda.synchronize()


# sessions and threads


def test_arrays_of_another_session(virtual_appliance):
    x, out = cuda.to_device(numbers()), cuda.device_array(100, np.float32)
    add[1, 128](x, x, out)
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as other, cuda.use(other):
        with pytest.raises(SessionClosedError, match="another session"):
            add[1, 128](x, x, out)
        mine = cuda.to_device(numbers())
        add[1, 128](mine, mine, mine)
        np.testing.assert_array_equal(mine.copy_to_host(), 2 * numbers())
    add[1, 128](x, x, x)
    np.testing.assert_array_equal(x.copy_to_host(), 2 * numbers())


def test_another_session_becomes_the_current_one_in_the_middle_of_a_launch(client, virtual_appliance):
    @cuda.jit
    def negate(values):
        values[cuda.grid(1)] *= -1

    class Switching:
        """Where another thread may come between."""

        @property
        def __bitfusion_argument__(self):
            cuda.use(other)
            return array.__bitfusion_argument__

    array = cuda.to_device(numbers())
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as other:
        try:
            negate[1, 100](Switching())
            np.testing.assert_array_equal(array.copy_to_host(), -numbers())
            negate[1, 100](cuda.to_device(numbers()))
        finally:
            cuda.use(client)
    negate[1, 100](array)
    np.testing.assert_array_equal(array.copy_to_host(), numbers())


def test_the_null_device_takes_any_kernel(null_appliance):
    with bitfusion.connect(null_appliance.address, memory="16MiB") as client, cuda.use(client):
        x = cuda.to_device(numbers())
        for _ in range(3):
            add[1, 128](x, x, x)
            store[1, 128](x, 1.5)
        cuda.synchronize()
        assert client.worker_metrics()["launches"] == 6


def test_threads_share_the_session():
    results = {}

    def work(number):
        out = cuda.device_array(100, np.float32)
        for _ in range(50):
            add[1, 128](cuda.to_device(numbers()), cuda.to_device(np.full(100, number, np.float32)), out)
        results[number] = out.copy_to_host()

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        np.testing.assert_array_equal(results[number], numbers() + number)
