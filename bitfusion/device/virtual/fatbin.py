"""The PTX inside an image: a PTX text as it is, or the fitting entry of a fatbin container.

A fatbin holds one program for several GPUs, as machine code (cubin), PTX or LTO-IR, each compressed or not. Its layout is
not documented by NVIDIA beyond ``fatbinary_section.h``; what is used here was read off files of CUDA 11 to 13:

======  ==========================================================================================
header  magic 0xBA55ED50 u32, version u16 = 1, header size u16, size of all entries u64
entry   kind u16, version u16, header size u32, payload size u64, compressed size u32, options u32,
        minor u16, major u16, architecture u32, name offset u32, name size u32, flags u64,
        reserved u64, uncompressed size u64
======  ==========================================================================================

Everything is checked before it is used: sizes against the image, the uncompressed size against a limit.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import zstandard

from bitfusion.device.virtual.lz4 import decompress_lz4
from bitfusion.errors import InvalidValueError, UnsupportedError
from bitfusion.limits import MIB

TEXT_SIZE_MAX: Final = 64 * MIB
"""Bytes of PTX an image may unpack to: 20 times the largest image, and ten times cuBLAS's largest module."""

_HEADER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQIIHHIIIQQQ")
_MAGIC: Final = 0xBA55ED50
_WRAPPER_MAGIC: Final = 0x466243B1  # fatbinary_section.h: points to a container in the memory of a program
_VERSION: Final = 1
_PTX: Final = 1
_KINDS: Final = {_PTX: "PTX", 2: "cubin", 8: "LTO-IR"}
_LZ4: Final = 0x2000
_ZSTD: Final = 0x8000
_LEGACY: Final = 0x1000
"""Flags of an entry: how it is compressed."""
_ZSTD_WINDOW_MAX: Final = 1 << 27
"""What zstd's own tool accepts: 128 MiB, for the largest compression levels."""
_ELF: Final = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Entry:
    kind: int
    architecture: int
    flags: int
    payload: bytes
    """As it stands in the container."""
    size: int
    """Bytes when unpacked."""

    def __str__(self) -> str:
        return f"{_KINDS.get(self.kind, f'kind {self.kind}')} for sm_{self.architecture}"


def ptx_text(image: bytes, capability: tuple[int, int]) -> str:
    """The PTX an image has for a GPU of this compute capability.

    InvalidValueError for a damaged image, UnsupportedError for one without PTX that fits.
    """
    magic = int.from_bytes(image[:4], "little")
    if magic == _MAGIC:
        image = _unpack(_choose(list(_entries(image)), capability))
    elif magic == _WRAPPER_MAGIC:
        raise UnsupportedError(
            "the image is a fatbin's wrapper (__fatBinC_Wrapper), which only points to the container: send the container",
            feature="fatbin",
        )
    elif image.startswith(_ELF):
        raise UnsupportedError(
            "the image is a cubin (machine code of an NVIDIA GPU); the virtual GPU runs PTX: compile with --ptx, or to "
            "a fatbin with -gencode arch=compute_80,code=compute_80",
            feature="cubin",
        )
    try:
        return image.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise InvalidValueError("the image is neither PTX text nor a fatbin") from error


def _entries(image: bytes) -> Iterator[Entry]:
    """The entries of a container. InvalidValueError where sizes and contents do not go together."""
    if len(image) < _HEADER.size:
        raise InvalidValueError(f"the fatbin ends after {len(image)} bytes, inside its header")
    _magic, version, header_size, size = _HEADER.unpack_from(image)
    if version != _VERSION or header_size < _HEADER.size:
        raise InvalidValueError(f"the fatbin has version {version} and a header of {header_size} bytes")
    end = header_size + size
    if end > len(image):
        raise InvalidValueError(f"the fatbin says it has {end} bytes, but the image ends after {len(image)}")
    position = header_size
    while position < end:
        if position + _ENTRY.size > end:
            raise InvalidValueError(f"an entry of the fatbin at byte {position} is cut off")
        fields = _ENTRY.unpack_from(image, position)
        kind, head_size, payload_size, compressed_size = fields[0], fields[2], fields[3], fields[4]
        start = position + head_size
        position = start + payload_size
        if head_size < _ENTRY.size or position > end:
            raise InvalidValueError(f"an entry of the fatbin at byte {start - head_size} does not fit into it")
        architecture, flags, size_unpacked = fields[8], fields[11], fields[13]
        packed = bool(flags & (_LZ4 | _ZSTD | _LEGACY))
        if packed and compressed_size > payload_size:
            raise InvalidValueError(f"the compressed entry at byte {start} of the fatbin is larger than its room")
        payload = image[start : start + compressed_size] if packed else image[start:position]
        yield Entry(kind, architecture, flags, payload, size_unpacked if packed else payload_size)


def _choose(entries: list[Entry], capability: tuple[int, int]) -> Entry:
    """The PTX for the newest GPU that is not newer than this one."""
    number = capability[0] * 10 + capability[1]
    fitting = [entry for entry in entries if entry.kind == _PTX and entry.architecture <= number]
    if not fitting:
        found = ", ".join(map(str, entries)) or "nothing"
        raise UnsupportedError(
            f"the fatbin has no PTX for compute capability {capability[0]}.{capability[1]}, only {found}: compile with "
            f"-gencode arch=compute_{number},code=compute_{number}",
            feature="fatbin",
        )
    return max(fitting, key=lambda entry: entry.architecture)


def _unpack(entry: Entry) -> bytes:
    if entry.size > TEXT_SIZE_MAX:
        raise InvalidValueError(f"the fatbin's PTX unpacks to {entry.size} bytes; {TEXT_SIZE_MAX} are allowed")
    if entry.flags & _ZSTD:
        data = _decompress_zstd(entry.payload, entry.size)
    elif entry.flags & _LZ4:
        data = decompress_lz4(entry.payload, entry.size)
    elif entry.flags & _LEGACY:
        raise UnsupportedError("the fatbin is compressed in a way of before CUDA 9", feature="fatbin")
    else:
        data = entry.payload
    if len(data) != entry.size:
        raise InvalidValueError(f"the fatbin's PTX unpacks to {len(data)} bytes instead of {entry.size}")
    return data


def _decompress_zstd(data: bytes, size: int) -> bytes:
    """At most ``size`` + 1 bytes: read as a stream, because a frame's own header could ask for any amount."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    try:
        with decompressor.stream_reader(io.BytesIO(data)) as reader:
            return reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise InvalidValueError(f"the fatbin's PTX cannot be unpacked: {error}") from error
