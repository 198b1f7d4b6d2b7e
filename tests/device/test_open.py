"""Opening a device by its spec, and that every back end has the verbs the worker calls, with their arguments."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from bitfusion.device.base import Device
from bitfusion.device.null import NullDevice
from bitfusion.device.open import open_device, warm
from bitfusion.device.virtual.device import VirtualDevice
from bitfusion.errors import ConfigError, InvalidHandleError
from bitfusion.limits import CHUNK_SIZE, GIB
from bitfusion.types import DeviceSpec


def spec(kind):
    return DeviceSpec(kind, 3, f"{kind} device", f"GPU-{kind}-0003", GIB)


@pytest.mark.parametrize(("kind", "cls"), [("null", NullDevice), ("virtual", VirtualDevice)])
def test_open(kind, cls):
    device = open_device(spec(kind), cache_dir=None)
    assert isinstance(device, cls)
    assert device.spec == spec(kind)
    assert (device.info.kind, device.info.uuid, device.info.memory_size) == (kind, f"GPU-{kind}-0003", GIB)
    assert device.info.attributes["WARP_SIZE"] == 32
    assert device.info.attributes["MAX_THREADS_PER_BLOCK"] == 1024
    assert device.busy_ns == 0
    device.close()


def test_a_kind_that_is_not_there():
    with pytest.raises(ConfigError, match="toaster"):
        open_device(spec("toaster"), cache_dir=None)


VERBS = [name for name, value in vars(Device).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("cls", [NullDevice, VirtualDevice])
@pytest.mark.parametrize("verb", VERBS)
def test_every_back_end_has_the_verbs(cls, verb):
    wanted, given = (inspect.signature(getattr(owner, verb)).parameters for owner in (Device, cls))
    assert list(given) == list(wanted)
    assert [item.default for item in given.values()] == [item.default for item in wanted.values()]


def test_warm_imports_nothing_of_another_kind():
    script = "import sys; from bitfusion.device.open import warm; warm('null', None); warm('virtual', None);"
    script += "sys.exit(any(name in sys.modules for name in ('numba', 'cuda', 'pynvml')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
    warm("null", None)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("several", ((0, 8), (8, 72), (80, 1), (88, 8), (96, 8), (112, 3))),
        ("sev", ((0, 4),)),
        ("none", ()),
        ("nothing", ()),
        ("garbled", ()),
        ("missing", ((0, 8),)),
    ],
)
def test_kernels_of_the_null_device_take_what_their_text_says(name, parameters):
    image = b"""
        .visible .entry several(
            .param .u64 several_param_0, .param .align 8 .b8 several_param_1[72], .param .u8 small,
            .param .f64 real, .param .u64 .ptr .global .align 4 pointer, .param .align 16 .b8 odd[3]
        )
        .maxntid 32 { ret; }
        .entry sev(.param .b32 x) { ret; }
        .entry none() { ret; }
        .entry nothing { ret; }
        .entry garbled(.param .align 0 .b8 x, .param .b0 y, .param .pred z) { ret; }
        """
    info = NullDevice(spec("null")).load(image).function(name).info
    assert (info.parameters, info.arguments_size) == (parameters, sum(parameters[-1]) if parameters else 0)


def test_the_null_device_answers_and_does_nothing():
    device = NullDevice(spec("null"))
    stream = device.stream_create()
    base = device.reserve(GIB)
    device.write_buffer(stream, base, 8)[:] = b"12345678"
    assert [piece.nbytes for piece in device.read(stream, base, CHUNK_SIZE + 5)] == [CHUNK_SIZE, 5]
    function = device.load(b"anything").function("kernel")
    assert (function.info.name, function.info.arguments_size) == ("kernel", 8)
    device.launch(stream, function, (1, 1, 1), (1, 1, 1), 0, bytes(8))
    start, end = device.event_create(), device.event_create()
    with pytest.raises(InvalidHandleError):
        device.event_elapsed_ms(start, end)
    device.event_record(start, stream)
    device.event_record(end, stream)
    assert device.event_elapsed_ms(start, end) >= 0
    assert device.stream_query(stream) and device.event_query(end)
    device.close()
