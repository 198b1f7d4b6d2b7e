"""Fatbin containers: the PTX that fits is found and unpacked; damaged and hostile ones are refused before they cost memory."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess

import numpy as np
import pytest
import zstandard

from bitfusion.device.virtual.fatbin import TEXT_SIZE_MAX, ptx_text
from bitfusion.device.virtual.lz4 import decompress_lz4
from bitfusion.errors import DeviceError, InvalidValueError, UnsupportedError
from tests.device.virtual.ptx import kernel

CAPABILITY = 8, 0
PTX, CUBIN, LTO = 1, 2, 8
LZ4, ZSTD = 0x2000, 0x8000


def text(number):
    """A kernel that stores a number; long enough that compressing it pays."""
    return (
        kernel(f"mov.u32 %r1, {number}; st.global.u32 [%rd0], %r1;" + "// repeated words " * 40 + "\n").encode() + b"\0"
    )


def compress_lz4(data):
    """Literals only, but for runs of one byte at the end."""
    body = data.rstrip(data[-1:])
    run = len(data) - len(body) - 1 - 5
    if run < 4 + 15:
        return literals(data)
    match = run - 4 - 15
    return (
        literals(body + data[-1:], low=15)
        + b"\1\0"
        + b"\xff" * (match // 255)
        + bytes([match % 255])
        + literals(data[-5:])
    )


def literals(data, low=0):
    if len(data) < 15:
        return bytes([len(data) << 4 | low]) + data
    rest = len(data) - 15
    return bytes([0xF0 | low]) + b"\xff" * (rest // 255) + bytes([rest % 255]) + data


COMPRESSIONS = {0: lambda data: data, LZ4: compress_lz4, ZSTD: zstandard.ZstdCompressor().compress}


def entry(kind, architecture, data, flags=0, **changed):
    packed = COMPRESSIONS[flags](data)
    padding = -len(packed) % 8 if flags else 0
    fields = {
        "head": 64,
        "size": len(packed) + padding,
        "packed": len(packed) if flags else 0,
        "unpacked": len(data) * bool(flags),
    }
    fields |= changed
    head = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0x101, fields["head"], fields["size"], fields["packed"], 0, 0, 9, architecture, 0, 0,
        0x11 | flags, 0, fields["unpacked"],
    )  # fmt: skip
    return head + packed + bytes(padding)


def container(*entries, **changed):
    body = b"".join(entries)
    fields = {"magic": 0xBA55ED50, "version": 1, "head": 16, "size": len(body)} | changed
    return struct.pack("<IHHQ", fields["magic"], fields["version"], fields["head"], fields["size"]) + body


def launch(gpu, image):
    """What the kernel of the image stores."""
    out = gpu.array(np.zeros(1, np.uint32))
    gpu.device.launch(
        gpu.stream,
        gpu.device.load(image).function("kernel"),
        (1, 1, 1),
        (1, 1, 1),
        0,
        out.address.to_bytes(8, "little"),
    )
    return out.host()[0]


@pytest.mark.parametrize("flags", COMPRESSIONS)
def test_the_newest_ptx_that_fits_is_taken(gpu, flags):
    image = container(
        entry(CUBIN, 80, b"\x7fELF" * 20),
        entry(PTX, 75, text(75), flags),
        entry(PTX, 80, text(80), flags),
        entry(PTX, 90, text(90), flags),
        entry(LTO, 80, b"x" * 40),
    )
    assert launch(gpu, image) == 80
    assert launch(gpu, container(entry(PTX, 90, text(90), flags), entry(PTX, 52, text(52), flags))) == 52
    assert launch(gpu, image + b"behind it") == 80


def test_ptx_text_passes_through():
    assert ptx_text(b".version 8.0\n\0\0", CAPABILITY) == ".version 8.0\n"


REFUSED = {
    "only machine code": (
        container(entry(CUBIN, 80, b"\x7fELF"), entry(LTO, 80, b"x")),
        "only cubin for sm_80, LTO-IR for sm_80",
    ),
    "only newer": (container(entry(PTX, 90, text(90))), "compute capability 8.0, only PTX for sm_90"),
    "nothing": (container(), "only nothing"),
    "kind": (container(entry(64, 80, b"x")), "kind 64"),
    "cubin": (b"\x7fELF\x02\x01\x01\x33\xff\xfe", "cubin.*compile with --ptx"),
    "wrapper": (struct.pack("<IIQQ", 0x466243B1, 1, 0x1234, 0), "wrapper"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_ptx_is_refused_with_what_it_has(gpu, name):
    image, words = REFUSED[name]
    with pytest.raises(UnsupportedError, match=words):
        gpu.device.load(image)


BOMB = zstandard.ZstdCompressor(level=1).compress(bytes(TEXT_SIZE_MAX * 2))

DAMAGED = {
    "neither": (b"\xff" * 100, "neither PTX text nor a fatbin"),
    "version": (container(version=2), "version 2"),
    "header": (container(head=8), "header of 8"),
    "short": (container()[:9], "inside its header"),
    "size": (container(entry(PTX, 80, text(1)), size=1 << 60), "image ends"),
    "cut": (container(entry(PTX, 80, text(1)))[:-5], "image ends"),
    "entry cut": (container(entry(PTX, 80, text(1))[:40]), "cut off"),
    "entry header": (container(entry(PTX, 80, text(1), head=0)), "does not fit"),
    "entry header size": (container(entry(PTX, 80, text(1), head=1 << 31)), "does not fit"),
    "payload": (container(entry(PTX, 80, text(1), size=1 << 63)), "does not fit"),
    "endless": (container(entry(PTX, 80, b"", head=0, size=0)), "does not fit"),
    "packed": (container(entry(PTX, 80, text(1), ZSTD, packed=99999)), "larger than its room"),
    "declared bomb": (container(entry(PTX, 80, text(1), ZSTD, unpacked=1 << 40)), "are allowed"),
    "zstd bomb": (container(entry(PTX, 80, BOMB, 0, packed=len(BOMB), unpacked=1000)[:-len(BOMB)].replace(
        struct.pack("<Q", 0x11), struct.pack("<Q", 0x11 | ZSTD)) + BOMB), "1001 bytes instead of 1000"),
    "lz4 bomb": (container(entry(PTX, 80, bytes(100_000), LZ4, unpacked=1000)), "damaged"),
    "zstd": (container(entry(PTX, 80, text(1), ZSTD, packed=20)), "bytes instead of|cannot be unpacked"),
    "too little": (container(entry(PTX, 80, text(1), LZ4, unpacked=9999)), "instead of 9999"),
    "not text": (container(entry(PTX, 80, b"\xff\xfe", ZSTD)), "neither"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_containers_are_refused(gpu, name):
    image, words = DAMAGED[name]
    with pytest.raises(InvalidValueError, match=words):
        gpu.device.load(image)


def test_mutilated_containers_are_refused_or_read():
    choice = random.Random(3)
    images = [container(entry(PTX, 80, text(7), flags), entry(CUBIN, 80, b"x" * 30)) for flags in COMPRESSIONS]
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        image = bytearray(choice.choice(images))
        for _ in range(choice.randint(1, 4)):
            image[choice.randrange(len(image) if choice.random() < 0.3 else 96)] = choice.randrange(256)
        try:
            ptx_text(bytes(image[: choice.choice([len(image), choice.randrange(len(image))])]), CAPABILITY)
        except DeviceError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 20


def test_lz4_copies_that_overlap():
    assert decompress_lz4(b"\x1fa\x01\x00\x00\x50bcdef", 25) == b"a" * 20 + b"bcdef"
    assert decompress_lz4(b"\x24ab\x02\x00\x10c", 11) == b"ababababab" + b"c"
    for block in (b"", b"\x1f", b"\x10a\x02", b"\x14a\x02\x00\x00", b"\x14a\x00\x00\x00", b"\xf0\xff\xff"):
        with pytest.raises(InvalidValueError):
            decompress_lz4(block, 100)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc of the CUDA Toolkit")
@pytest.mark.parametrize("mode", ["none", "speed", "size"])
def test_containers_of_nvcc(gpu, tmp_path, mode):
    source, image = tmp_path / "kernel.cu", tmp_path / "kernel.fatbin"
    source.write_text('extern "C" __global__ void kernel(unsigned *out) { *out = __CUDA_ARCH__; }')
    options = [
        f"-gencode=arch=compute_{arch},code={code}_{arch}"
        for arch, code in ((75, "compute"), (80, "compute"), (90, "compute"))
    ]
    subprocess.run(
        [
            "nvcc",
            "-fatbin",
            f"-compress-mode={mode}",
            *options,
            "-gencode=arch=compute_80,code=sm_80",
            source,
            "-o",
            image,
        ],
        check=True,
    )
    assert launch(gpu, image.read_bytes()) == 800
