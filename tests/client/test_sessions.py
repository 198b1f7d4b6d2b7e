"""A session through both faces: streams, events, memory, threads, errors, and its end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

import bitfusion
from bitfusion import limits
from bitfusion.client import settings
from bitfusion.errors import (
    CapacityError,
    ConfigError,
    DeviceMemoryError,
    InvalidHandleError,
    InvalidValueError,
    KernelSourceError,
    LaunchError,
    SessionClosedError,
    UnsupportedError,
)
from tests.client.faces import done, host, sample

CHUNK = limits.MEMORY_CHUNK_SIZE
LEASE = 64 * limits.MIB


async def test_what_the_client_knows_of_its_lease(client):
    assert client.device.kind == "virtual"
    assert client.device.attributes["WARP_SIZE"] == 32
    assert client.welcome.memory_limit == LEASE
    assert client.session_id == client.welcome.session_id
    assert await done(client.echo(b"hello")) == b"hello"
    assert (await done(client.worker_metrics()))["calls"] >= 1
    assert client.metrics.calls >= 2
    assert not client.closed


# streams and events


async def test_streams_and_events(client):
    stream, event, last = await done(client.stream()), await done(client.event()), await done(client.event())
    expected = sample("f4", (1000,))
    await done(event.record(stream))
    array = await done(client.to_device(expected, stream=stream))
    await done(array.fill(3, stream=stream))
    await done(last.record(stream))
    await done(client.default_stream.wait_event(last))
    await done(last.wait())
    await done(stream.synchronize())
    await done(last.synchronize())
    assert await done(stream.query())
    assert await done(last.query())
    assert await done(event.elapsed_time(last)) >= 0
    assert (await host(array, stream=stream) == 3).all()
    await done(client.synchronize())
    assert int(stream) == stream.number != 0
    assert int(client.default_stream) == 0
    assert repr(client.default_stream) == "<Default CUDA stream>" and repr(stream) == f"<CUDA stream {stream.number}>"


async def test_an_array_keeps_the_stream_it_was_given(client):
    stream = await done(client.stream())
    array = await done(client.device_array(4, stream=stream))
    assert array.stream is array[1:].stream is array.bind().stream is stream
    other = await done(client.stream())
    assert array.bind(other).stream is other


async def test_auto_synchronize(client):
    stream = await done(client.stream())
    context = stream.auto_synchronize()
    if hasattr(context, "__aenter__"):
        async with context as entered:
            assert entered is stream
    else:
        with context as entered:
            assert entered is stream


@pytest.mark.parametrize("stream", [7, "x", None, 1.0])
async def test_what_is_no_stream_is_refused(client, stream):
    array = await done(client.device_array(4))
    if stream is None:
        await done(array.fill(0, stream=stream))  # as in numba: none is the default one
        return
    with pytest.raises(InvalidHandleError, match="not a stream"):
        await done(array.fill(0, stream=stream))


async def test_streams_and_events_of_another_session_are_refused(client, connect, virtual_appliance):
    other = await done(connect(virtual_appliance.address, memory="2MiB"))
    array = await done(client.device_array(4))
    with pytest.raises(SessionClosedError, match="another session"):
        await done(array.fill(0, stream=await done(other.stream())))
    mine, foreign = await done(client.event()), await done(other.event())
    with pytest.raises(SessionClosedError, match="another session"):
        await done(mine.elapsed_time(foreign))
    with pytest.raises(SessionClosedError, match="another session"):
        await done(client.default_stream.wait_event(foreign))
    await done(other.close())


async def test_events_without_timing_or_record_have_no_time_between(client):
    first, second = await done(client.event(timing=False)), await done(client.event())
    assert await done(second.query())
    await done(first.record())
    with pytest.raises(InvalidHandleError):
        await done(first.elapsed_time(second))
    await done(second.record())
    with pytest.raises(InvalidHandleError):
        await done(first.elapsed_time(second))
    assert await done(second.elapsed_time(second)) == 0


async def test_dropped_streams_and_events_are_destroyed(client):
    """More than a session may have at once come and go."""
    for _ in range(40):
        streams = [await done(client.stream()) for _ in range(100)]
        events = [await done(client.event()) for _ in range(100)]
        del streams, events
    await done(client.synchronize())


# memory


async def test_memory_is_charged_by_the_chunk_and_free_after_release(client):
    assert await done(client.memory_info()) == (LEASE, LEASE)
    first = await done(client.device_array(1, "u1"))
    assert (await done(client.memory_info())).free == LEASE - CHUNK
    second = await done(client.device_array(CHUNK, "u1"))
    assert (await done(client.memory_info())).free == LEASE - 2 * CHUNK
    first.free()
    del second
    assert await done(client.memory_info()) == (LEASE, LEASE)


async def test_views_keep_the_memory_of_their_array(client):
    view = (await done(client.to_device(sample("i4", (100,)))))[90:]
    gc.collect()
    assert (await done(client.memory_info())).free == LEASE - CHUNK
    assert (await host(view)).tolist() == list(range(90, 100))
    del view
    assert (await done(client.memory_info())).free == LEASE


async def test_out_of_memory_says_how_much_was_asked_used_and_allowed(client):
    kept = await done(client.device_array(LEASE // 2, "u1"))
    with pytest.raises(DeviceMemoryError, match="free arrays, or lease more") as caught:
        await done(client.device_array(LEASE // 2 + 1, "u1"))
    assert (caught.value.requested, caught.value.used, caught.value.limit) == (LEASE // 2 + 1, LEASE // 2, LEASE)
    assert caught.value.cuda_name == "CUDA_ERROR_OUT_OF_MEMORY"
    await done(kept.fill(1))
    assert (await host(kept[:10])).all()


async def test_the_whole_lease_can_be_used_again_and_again(client):
    for _ in range(5):
        array = await done(client.device_array(LEASE, "u1"))
        await done(array[-1:].fill(1))
        del array


async def test_the_whole_lease_can_be_used_after_fragmentation(client):
    """Blocks of many sizes, every second freed; the rest goes, and what was torn is one piece again."""
    sizes = [1, 300, 5000, CHUNK - 256, CHUNK, CHUNK + 1, 3 * CHUNK // 2]
    arrays = [await done(client.device_array(size, "u1")) for size in sizes * 4]
    marks = [await done(array.setitem(slice(-1, None), index)) for index, array in enumerate(arrays)]
    del marks, arrays[::2]
    more = [await done(client.device_array(size, "u1")) for size in sizes]
    for index, array in enumerate(arrays):
        assert (await host(array[-1:]))[0] == 2 * index + 1
    del arrays, more, array
    whole = await done(client.device_array(LEASE, "u1"))
    await done(whole.fill(7))
    assert (await host(whole[:: LEASE // 64])).tolist() == [7] * 64


async def test_arrays_in_garbage_cycles_do_not_use_up_the_lease(client):
    gc.disable()
    try:
        for _ in range(4):
            cycle = [await done(client.device_array(LEASE // 2 + 1, "u1"))]
            cycle.append(cycle)
            del cycle
    finally:
        gc.enable()


async def test_fresh_memory_reads_as_zeros_whoever_used_it_before(connect, virtual_appliance):
    for _ in range(2):
        client = await done(connect(virtual_appliance.address, memory=8 * CHUNK))
        array = await done(client.device_array(8 * CHUNK, "u1"))
        assert not (await host(array)).any()
        await done(array.fill(255))
        await done(client.close())


async def test_arrays_may_die_in_any_thread(client):
    """Finalisers of other threads and of the collector only note what has died; the books stay equal."""
    arrays = [await done(client.device_array(256, "u1")) for _ in range(2000)]
    thread = threading.Thread(target=arrays.clear)
    thread.start()
    for _ in range(200):
        await done(client.device_array(256, "u1"))
    thread.join()
    assert await done(client.memory_info()) == (LEASE, LEASE)


# kernels: what needs no compiler


async def test_an_image_that_is_none_and_sources_that_are_none(client):
    with pytest.raises(InvalidValueError, match="is empty"):
        await done(client.load_module(b""))
    with pytest.raises(InvalidValueError, match="over the limit"):
        await done(client.load_module(b"\x00" * (limits.IMAGE_SIZE_MAX + 1)))
    with pytest.raises(KernelSourceError):
        await done(client.load_kernel(b"", [], {}))
    with pytest.raises(bitfusion.BitfusionError):
        await done(client.load_module(b"this is no PTX"))
    assert await done(client.echo(b"x")) == b"x"


async def test_what_is_no_data_is_refused_before_it_is_sent(client):
    module = await done(client.load_module(ADD_ONE.decode()))  # text is as good
    await done(client.load_module(bytearray(ADD_ONE)))
    for use in (
        lambda: client.load_module(None),
        lambda: client.load_module(7),
        lambda: client.load_kernel("source", [], {}),
        lambda: client.echo("x"),
        lambda: client.echo(None),
        lambda: client.echo(5),
        lambda: module.function(b"add_one"),
    ):
        with pytest.raises(TypeError, match=r"must be bytes|is a string"):
            await done(use())
    with pytest.raises(InvalidValueError, match="over the limit"):
        await done(client.echo(bytes(limits.INLINE_SIZE_MAX + 1)))
    with pytest.raises(InvalidValueError):
        await done(module.function("x" * 2000))
    assert await done(client.echo(bytearray(b"x"))) == b"x"


ADD_ONE = b"""
.version 8.0
.target sm_80
.address_size 64
.visible .entry add_one(.param .u64 array) {
    .reg .b64 %rd<4>;
    .reg .b32 %r<3>;
    ld.param.u64 %rd1, [array];
    cvta.to.global.u64 %rd2, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd2, %rd2, %rd3;
    ld.global.u32 %r2, [%rd2];
    add.s32 %r2, %r2, 1;
    st.global.u32 [%rd2], %r2;
    ret;
}
"""


async def test_a_module_is_loaded_and_its_kernel_launched(client):
    module = await done(client.load_module(ADD_ONE))
    function = await done(module.function("add_one"))
    assert (function.info.name, function.info.arguments_size) == ("add_one", 8)
    array = await done(client.to_device(np.arange(32, dtype="i4")))
    argument = array.address.to_bytes(8, "little")
    await done(function.launch(1, 32, argument))
    await done(function.launch((1, 1), [16], argument, await done(client.stream())))
    assert (await host(array)).tolist() == [value + (2 if value < 16 else 1) for value in range(32)]
    del module
    await done(function.launch(1, 1, argument))
    await done(client.synchronize())


async def test_how_many_blocks_run_at_once(client):
    function = await done((await done(client.load_module(ADD_ONE))).function("add_one"))
    assert await done(function.resident_blocks(32)) == client.device.attributes["MULTIPROCESSOR_COUNT"]  # none waits
    assert await done(function.resident_blocks(1025)) == await done(function.resident_blocks(-1)) == 0
    with pytest.raises(InvalidValueError, match="2147483648 bytes of shared memory"):
        await done(function.resident_blocks(32, 1 << 31))


async def test_broken_ptx_is_refused_where_the_module_is_loaded(client):
    """In whatever function it is, and again when the same text comes again."""
    broken = ADD_ONE + b".visible .entry other() { .reg .b32 %r<2>; mov.u32 %r1, 1 ret; }"
    for _ in range(2):
        with pytest.raises(InvalidValueError, match="line 18: expected ';', found 'ret'"):
            await done(client.load_module(broken))


async def test_an_instruction_that_is_none_is_named_where_its_kernel_is_loaded(client):
    module = await done(client.load_module(ADD_ONE + b".visible .entry other() { foo.u32 r1; ret; }"))
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"foo\.u32 \(PTX line 18\)") as caught:
            await done(module.function("other"))
        assert (caught.value.details["instruction"], caught.value.details["line"]) == ("foo.u32", 18)
    await done(module.function("add_one"))


@pytest.mark.parametrize(
    ("grid", "block", "error"),
    [
        (0, 1, LaunchError),
        (1, (1, 0), LaunchError),
        (1, (1, 1, 1, 1), ValueError),
        (1.5, 1, TypeError),
        (2**31, 1, LaunchError),
        ((), 1, ValueError),
    ],
)
async def test_launch_shapes_that_are_none(client, grid, block, error):
    function = await done((await done(client.load_module(ADD_ONE))).function("add_one"))
    with pytest.raises(error):
        await done(function.launch(grid, block, bytes(8)))
    with pytest.raises(LaunchError, match=r"8 bytes of arguments \(8 at 0\); bytes given: 7"):
        await done(function.launch(1, 1, bytes(7)))
    with pytest.raises(TypeError, match=r"8 bytes of arguments \(8 at 0\): give them as packed bytes .* not as list"):
        await done(function.launch(1, 1, [1]))
    with pytest.raises(InvalidValueError):
        await done((await done(client.load_module(ADD_ONE))).function("no_such_kernel"))


# its beginning and its end


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gpus": 0}, ConfigError),
        ({"gpus": "one"}, ConfigError),
        ({"gpus": 1.5}, ConfigError),
        ({"gpus": 2}, ConfigError),
        ({"memory": 0}, ConfigError),
        ({"memory": -1}, ConfigError),
        ({"memory": 2**70}, ConfigError),
        ({"memory": "lots"}, ConfigError),
        ({"memory": 1.5}, ConfigError),
        ({"memory": "1PiB"}, ConfigError),
        ({"memory": "2GiB"}, CapacityError),
        ({"fraction": 0}, ConfigError),
        ({"fraction": 1.1}, ConfigError),
        ({"fraction": float("nan")}, ConfigError),
        ({"fraction": "half"}, ConfigError),
        ({"fraction": 0.5, "memory": 1}, ConfigError),
        ({"timeout": "x"}, ConfigError),
        ({"timeout": 0}, ConfigError),
        ({"timeout": None}, ConfigError),
        ({"deadline": "x"}, ConfigError),
        ({"deadline": 0}, ConfigError),
        ({"deadline": -1}, ConfigError),
        ({"deadline": float("nan")}, ConfigError),
        ({"deadline": float("inf")}, ConfigError),
        ({"flush_delay": "x"}, ConfigError),
        ({"flush_delay": -1}, ConfigError),
    ],
)
async def test_leases_that_cannot_be_had(connect, virtual_appliance, options, error):
    with pytest.raises(error):
        await done(connect(virtual_appliance.address, **options))


@pytest.mark.parametrize("target", [5, b"host", ("host", 1)])
async def test_a_server_is_named_by_text(connect, target):
    with pytest.raises(ConfigError, match="host:port"):
        await done(connect(target))


async def test_times_are_numbers_of_any_kind(connect, virtual_appliance):
    client = await done(
        connect(virtual_appliance.address, memory=1, timeout=np.float32(30), deadline=60, flush_delay=0)
    )
    assert type(client.deadline_s) is float
    await done(client.close())


async def test_asyncs_connect_is_a_coroutine_and_a_context(virtual_appliance):
    async with bitfusion.aio.connect(virtual_appliance.address, memory=1) as client:
        assert await client.echo(b"x") == b"x"
    assert client.closed
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bitfusion.aio.connect(virtual_appliance.address, memory=1))
    async with task.result() as client:
        assert not client.closed
    bitfusion.aio.connect(virtual_appliance.address).close()  # not wanted after all


async def test_leases_by_bytes_text_fraction_and_numpys_numbers(connect, virtual_appliance):
    for options, size in [
        ({"memory": 1}, CHUNK),
        ({"memory": "64MiB"}, LEASE),
        ({"memory": np.int64(LEASE)}, LEASE),
        ({"fraction": 0.25, "gpus": np.int8(1)}, 256 * limits.MIB),
        ({"fraction": np.float32(0.5)}, 512 * limits.MIB),
    ]:
        client = await done(connect(virtual_appliance.address, **options))
        assert client.welcome.memory_limit == size
        await done(client.close())


async def test_a_closed_session_says_so_and_closing_again_is_nothing(connect, virtual_appliance):
    client = await done(connect(virtual_appliance.address, memory="2MiB"))
    array, stream = await done(client.to_device(sample("i4", (4,)))), await done(client.stream())
    await done(client.close())
    await done(client.close())
    assert client.closed
    for use in (
        lambda: client.device_array(4),
        lambda: client.to_device([1]),
        lambda: client.memory_info(),
        lambda: client.synchronize(),
        lambda: client.stream(),
        lambda: client.echo(b""),
        lambda: array.copy_to_host(),
        lambda: array.fill(0),
        lambda: stream.synchronize(),
    ):
        with pytest.raises(SessionClosedError, match="connect again"):
            await done(use())
    array.free()
    assert array[1:].shape == (3,)


async def test_a_with_block_closes(virtual_appliance):
    with bitfusion.connect(virtual_appliance.address, memory="2MiB") as client:
        pass
    assert client.closed
    async with await bitfusion.aio.connect(virtual_appliance.address, memory="2MiB") as other:
        pass
    assert other.closed


def test_a_dropped_client_gives_its_lease_back(virtual_appliance):
    before = len(virtual_appliance.lines)
    client = bitfusion.connect(virtual_appliance.address, memory="2MiB")
    gone = weakref.ref(client)
    del client
    assert gone() is None, "a cycle keeps the client until the collector comes"
    virtual_appliance.wait_log("released", after=before)


def test_threads_share_a_client(virtual_appliance):
    failures: list[BaseException] = []

    def work(client: bitfusion.Client, number: int) -> None:
        try:
            stream = client.stream()
            for size in range(1, 30):
                array = client.to_device(np.full(size * 100, number), stream=stream)
                array[::2] = size
                assert (array.copy_to_host()[1::2] == number).all()
        except BaseException as failure:
            failures.append(failure)

    with bitfusion.connect(virtual_appliance.address, memory="64MiB", deadline=60) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        gc.collect()
        assert client.memory_info().free == LEASE


def test_closing_waits_for_its_turn(virtual_appliance):
    """A thread that copies and one that closes: the copy ends whole or says that the session is closed."""
    for _ in range(5):
        client = bitfusion.connect(virtual_appliance.address, memory="64MiB", deadline=60)
        array, found, started = client.to_device(sample("u1", (1 << 20,))), [], threading.Event()

        def copy(array=array, found=found, started=started) -> None:
            try:
                while True:
                    found.append(np.array_equal(array.copy_to_host(), sample("u1", (1 << 20,))))
                    started.set()
            except SessionClosedError as error:
                found.append("connect again" in str(error))

        thread = threading.Thread(target=copy)
        thread.start()
        started.wait()
        client.close()
        thread.join()
        assert all(found)


async def test_many_tasks_share_a_client(virtual_appliance):
    async with await bitfusion.aio.connect(virtual_appliance.address, memory="64MiB", deadline=60) as client:

        async def work(number: int) -> None:
            for size in range(1, 30):
                array = await client.to_device(np.full(size * 100, number))
                await array.setitem(slice(None, None, 2), size)
                assert ((await array.copy_to_host())[1::2] == number).all()

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(work(number))
        assert (await client.memory_info()).free == LEASE


async def test_cancelled_copies_leave_the_session_in_step(virtual_appliance):
    async with await bitfusion.aio.connect(virtual_appliance.address, memory="64MiB", deadline=60) as client:
        expected = sample("u1", (16 << 20,))
        array = await client.to_device(expected)
        for turns in range(1, 60, 7):
            out = np.zeros_like(expected)
            for operation in (array.copy_to_host(out=out), array.copy_from_host(expected)):
                task = asyncio.get_running_loop().create_task(operation)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or turns > 1
                out[:] = 0xAA
            await client.synchronize()
            assert (out == 0xAA).all(), "memory was written after the copy into it was cancelled"
        await array.copy_from_host(expected)
        assert np.array_equal(await array.copy_to_host(), expected)


# the environment


def test_the_environments_lease(monkeypatch):
    for name in ("GPUS", "MEMORY", "FRACTION", "SERVER", "TOKEN"):
        monkeypatch.delenv(f"BITFUSION_{name}", raising=False)
    assert settings.from_environment() == settings.Settings(1, None, None)
    assert settings.target_of(None) is settings.token_of(None) is None
    monkeypatch.setenv("BITFUSION_GPUS", "2")
    monkeypatch.setenv("BITFUSION_MEMORY", "1.5GiB")
    monkeypatch.setenv("BITFUSION_SERVER", "gpu1:7")
    monkeypatch.setenv("BITFUSION_TOKEN", "secret")
    assert settings.from_environment() == settings.Settings(2, 3 << 29, None)
    assert str(settings.target_of(None)) == "gpu1:7"
    assert str(settings.target_of("other")) == "other:56001"
    assert (settings.token_of(None), settings.token_of("mine")) == ("secret", "mine")


@pytest.mark.parametrize(("name", "text"), [("GPUS", "two"), ("MEMORY", "much"), ("FRACTION", "1/2")])
def test_an_environment_that_cannot_be_read_is_named(monkeypatch, name, text):
    monkeypatch.setenv(f"BITFUSION_{name}", text)
    with pytest.raises(ConfigError, match=f"BITFUSION_{name}='{text}'"):
        settings.from_environment()


async def test_the_environments_server(connect, virtual_appliance, monkeypatch):
    monkeypatch.setenv("BITFUSION_SERVER", virtual_appliance.address)
    client = await done(connect(memory="2MiB"))
    assert await done(client.echo(b"x")) == b"x"
    await done(client.close())


# leases that are there


def test_the_environments_lease_to_attach_to(monkeypatch):
    for name in ("LEASE", "GPU"):
        monkeypatch.delenv(f"BITFUSION_{name}", raising=False)
    assert settings.key_of(None, None, None, of_environment=True) is None
    monkeypatch.setenv("BITFUSION_LEASE", "cafe:secret:with:colons")
    assert settings.key_of(None, None, None, of_environment=True) == settings.Key("cafe", "secret:with:colons")
    assert settings.key_of(None, None, None, of_environment=False) is None
    monkeypatch.setenv("BITFUSION_GPU", "3")
    assert settings.key_of(None, None, None, of_environment=True).gpu == 3
    assert settings.key_of(None, None, 1, of_environment=True).gpu == 1
    assert settings.key_of("a", "b", None, of_environment=True) == settings.key_of("a:b", None, 0, of_environment=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "x"}, "give lease too"),
        ({"gpu": 1}, "give lease too"),
        ({"lease": "without-a-key"}, "must be id:key"),
        ({"lease": 7, "key": "x"}, "are texts"),
        ({"lease": "a", "key": "b", "gpu": "x"}, "gpu must be a whole number"),
        ({"wait": -1}, "wait must be a number of seconds"),
        ({"wait": "long"}, "wait must be a number of seconds"),
        ({"filters": 7}, "filters are texts"),
        ({"filters": [7]}, "filters are texts"),
        ({"filters": ["x"] * 33}, "at most 32 filters"),
        ({"filters": "memory>=1"}, "there is no filter 'memory'"),
        ({"priority": 1.5}, "priority must be a whole number"),
        ({"weight": 0}, "weight must be 1 to 10000"),
    ],
)
async def test_what_cannot_be_asked_for(connect, virtual_appliance, options, words):
    with pytest.raises(ConfigError, match=words):
        await done(connect(virtual_appliance.address, **options))


def test_what_is_said_of_a_lease_does_not_show_its_key(monkeypatch):
    monkeypatch.setenv("BITFUSION_LEASE", "s3cret")
    with pytest.raises(ConfigError) as caught:
        settings.key_of(None, None, None, of_environment=True)
    assert "s3cret" not in str(caught.value) and "s3cret" not in repr(settings.Key("a", "s3cret"))


async def test_a_lease_is_on_a_server(connect, monkeypatch):
    monkeypatch.delenv("BITFUSION_SERVER", raising=False)
    with pytest.raises(ConfigError, match="name that too"):
        await done(connect(lease="a:b"))
