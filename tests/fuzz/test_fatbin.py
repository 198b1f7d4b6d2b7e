"""Whatever container a client sends as an image, the PTX in it comes out within its limit, or one of the errors listed here."""

from __future__ import annotations

import struct

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.device.virtual.fatbin import TEXT_SIZE_MAX, ptx_text
from bitfusion.device.virtual.lz4 import decompress_lz4
from bitfusion.errors import InvalidValueError, UnsupportedError
from tests.fuzz.ptx_corpus import CORPUS
from tests.kernels.canary import canary

ALLOWED = (InvalidValueError, UnsupportedError)

LZ4, ZSTD, LEGACY = 0x2000, 0x8000, 0x1000
SIZES = st.sampled_from([0, 1, 15, 16, 63, 64, 65, 2**16, 2**26, 2**26 + 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])


def stored(data: bytes) -> bytes:
    """LZ4 of one run of literals."""
    count = len(data) - 15
    return bytes([0xF0]) + b"\xff" * (count // 255) + bytes([count % 255]) + data


texts = st.sampled_from([text.encode() for text in CORPUS]) | st.binary(min_size=15, max_size=60)
packed = st.one_of(
    texts.map(lambda data: (0, data, len(data))),
    texts.map(lambda data: (LZ4, stored(data), len(data))),
    texts.map(lambda data: (ZSTD, zstandard.compress(data), len(data))),
    st.tuples(st.sampled_from([LZ4, ZSTD, LEGACY, LZ4 | ZSTD]), st.binary(max_size=60), SIZES),
    st.just((ZSTD, zstandard.compress(bytes(2**22)), 100)),  # a thousand times as much as it says
)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """An entry as it should be, or with one of its sizes wrong."""
    flags, payload, size = draw(packed)
    right = {"head": 64, "payload": len(payload), "compressed": len(payload), "size": size}
    if draw(st.booleans()):
        right[draw(st.sampled_from(sorted(right)))] = draw(SIZES)
    head = struct.pack(
        "<HHIQIIHHIIIQQQ",
        *(draw(st.sampled_from([1, 1, 1, 2, 8, 0xFFFF])), 0x101, right["head"] % 2**32, right["payload"]),
        *(right["compressed"] % 2**32, 0, 0, 8, draw(st.sampled_from([52, 80, 90, 2**32 - 1])), 0, 0),
        *(flags, 0, right["size"]),
    )
    return head + payload


@st.composite
def containers(draw: st.DrawFn) -> bytes:
    """A container, after up to three of its bytes were changed, perhaps cut off."""
    body = b"".join(draw(st.lists(entries(), max_size=3)))
    size = draw(st.just(len(body)) | SIZES)
    head = struct.pack(
        "<IHHQ", 0xBA55ED50, draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([16, 16, 0, 24])), size
    )
    image = bytearray(head + body)
    for _ in range(draw(st.integers(0, 3))):
        image[draw(st.integers(0, len(image) - 1))] = draw(st.integers(0, 255))
    return bytes(image[: draw(st.integers(0, len(image)))] if draw(st.integers(0, 5)) == 0 else image)


@settings(max_examples=500, deadline=None)
@given(containers() | st.binary(max_size=100))
def test_an_image_is_unpacked_or_refused(image):
    with canary():
        try:
            text = ptx_text(image, (8, 0))
        except ALLOWED:
            return
    assert len(text) <= max(TEXT_SIZE_MAX, len(image))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | texts.map(stored), st.integers(0, 2000))
def test_lz4_gives_no_more_than_it_says(data, size):
    try:
        assert len(decompress_lz4(data, size)) <= size
    except ALLOWED:
        pass
