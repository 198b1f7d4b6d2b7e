"""What the PTX compiler and the run-time of the virtual GPU agree on; owns no behaviour.

Three agreements live here: where the fields of the two records in memory lie that machine code and scheduler share
(``LAUNCH``, one per running grid, and ``BLOCK``, one per resident thread block), the codes they exchange
(``SUSPENSION``, ``FAULT``), and what the compiler hands over for one kernel (``KernelCode``) and for one module
(``Relocation``, ``Variable``).

A kernel is cut at its *suspension points* (barriers, warp operations, yields). State 0 is the kernel's start, state
``s`` means "waits at suspension point ``s``", state -1 "has ended". For every state there is one *region*, a function
of machine code::

    void region(BLOCK *block, i32 z0, i32 z1, i32 y0, i32 y1, i32 x0, i32 x1, i32 t0)

It resumes every thread with z0 <= z < z1, y0 <= y < y1, x0 <= x < x1 from that state, runs it to its next suspension
point or its end, and stores its new state (i16) in ``BLOCK["STATE"][t]``. ``t0`` is the linear index of thread (x0, y0,
z0). A region is called for a whole block or a whole warp whose threads have come to that state side by side (they agree on
what is uniform), or for a single thread. A kernel without suspension points stores no states.

At a suspension point each thread *posts* operands into the block record (``POST_*``, indexed by linear thread) and
finds the operation's result in ``RESULT_*`` when it is resumed.

The compiler's entry is ``compile.compile_module(text: str) -> PTXModule``: ``kernels`` (names), ``variables`` (name ->
Variable), ``variables_size``, ``initial_values`` ((offset, bytes) pairs), ``relocations``, ``kernel(name, options) ->
KernelCode`` (compiled on each call; UnsupportedError names an instruction) and ``function_table(options) ->
FunctionTable | None``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

THREADS_MAX: Final = 1024
"""Threads of a block (CUDA C++ Programming Guide, Technical Specifications per Compute Capability)."""

WARP_SIZE: Final = 32

_PAD: Final = 192
"""Bytes between the per-thread arrays, three cache lines: neighbours of the same index do not share a cache set, and a
shuffle that looks up to 31 words beyond an array touches no other.
"""

LAUNCH: Final[Mapping[str, int]] = {
    "NEXT": 0,  # i64: next block to take; workers add to it atomically
    "TOTAL": 8,  # i64: blocks of the grid
    "GRID_X": 16,  # i32 x 3: %nctaid
    "GRID_Y": 20,
    "GRID_Z": 24,
    "THREADS_X": 28,  # i32 x 3: %ntid
    "THREADS_Y": 32,
    "THREADS_Z": 36,
    "THREADS": 40,  # i32: threads of a block
    "ABORT": 44,  # i32: not 0 = stop soon; tested by the scheduler and, with the watchdog option, on backward branches
    "FAULT": 48,  # i32: code of the first fault (FAULT), 0 = none; set by compare-and-swap
    "FAULT_ADDRESS": 56,  # i64
    "FAULT_BLOCK": 64,  # i32 x 3
    "FAULT_THREAD": 76,  # i32 x 3
    "FAULT_LINE": 88,  # i32: line of the PTX text
    "PARAMETERS": 96,  # ptr: the packed arguments; at least PARAMETERS_SIZE readable bytes, aligned to 16
    "VARIABLES": 104,  # ptr: the module's .global and .const variables (PTXModule.variables_size bytes)
    "MEMORY_BASE": 112,  # i64: device memory, the only range that .global and generic accesses may touch
    "MEMORY_SIZE": 120,  # i64
    "SHADOW": 128,  # ptr to u16: for every GRANULE bytes of device memory, how many (from the start) are valid; then a 0
    "REGIONS": 136,  # ptr to ptr: region of every state
    "SUSPENSIONS": 144,  # ptr to i32 x 4: KernelCode.suspensions of every state
    "SHARED_SIZE": 152,  # i32: bytes of shared memory of a block, static and dynamic
    "DYNAMIC_SIZE": 156,  # i32: the dynamic part
    "GRID_WORKSPACE": 160,  # i64: address of 256 zeroed bytes of device memory for grid-wide barriers
    "GRID_ID": 168,  # i64
    "LOCAL_SIZE": 176,  # i64: KernelCode.local_area
    "RESIDENT": 184,  # i64: blocks one worker may hold at once
    "STRIDE": 192,  # i64: bytes from one resident block's record to the next
    "SINK": 200,  # i64: 256 bytes anybody may scribble on; a faulting access is redirected there
    "PRINTF": 208,  # i64 (*)(block, format, arguments, size of the arguments or -1)
    "ASSERT": 216,  # i64 (*)(block, message, file, line, function, thread x, y, z)
    "MALLOC": 224,  # i64 (*)(block, size)
    "WORKERS": 232,  # i64: worker threads; %nsmid. 1 = no atomic operation needs a lock prefix
    "SUSPENSION_COUNT": 240,  # i64: 0 = the kernel has one region and no states
    "FREE": 248,  # i64 (*)(block, address)
    "FRAME_DISTANCE": 256,  # i64: from a resident block's record to its FRAME, LOCAL and SHARED
    "LOCAL_DISTANCE": 264,
    "SHARED_DISTANCE": 272,
    "FUNCTIONS": 280,  # ptr to (i64 code, i64 signature): the device functions that may be called through a pointer
    "FUNCTION_COUNT": 288,  # i64
    "SIZE": 320,
}
"""Offsets in the launch record (bytes). Written by the host before the launch, except NEXT, ABORT and FAULT*."""


def _block_layout() -> Mapping[str, int]:
    fields = {
        "LAUNCH": 0,  # ptr to the launch record
        "SHARED": 8,  # ptr: the block's shared memory, aligned to 256
        "BLOCK_X": 16,  # i32 x 3: %ctaid
        "BLOCK_Y": 20,
        "BLOCK_Z": 24,
        "WORKER": 28,  # i32: %smid
        "FRAME": 32,  # ptr: saved registers, KernelCode.frame_size bytes
        "LOCAL": 40,  # ptr: .local memory, KernelCode.local_area bytes
        "CURRENT": 48,  # i32: the state all threads are in, -2 = the threads differ (scheduler)
        "IDLE": 52,  # i32: 1 = no block is resident here (scheduler)
        "ARRIVED": 56,  # i32 x 16: threads that passed bar.arrive, by barrier
        "COUNT": 128,  # i32 x 16: scratch of the scheduler
        "EXPECTED": 192,  # i32 x 16: scratch of the scheduler
        "STACK": 256,  # i64: where the next variables of a device function of the running thread may lie; inside LOCAL
        "STACK_END": 264,  # i64: the end of LOCAL
        "NATIVE_END": 272,  # i64: how far down the calls of the running thread may use the host's stack
        "IN_STEP": 280,  # i8 x warps (scheduler)
        "STATE": 320,  # i16 x threads
    }
    arrays = (
        ("STATE", 2),
        ("READY", 1),
        ("POST_MASK", 4),
        ("POST_COUNT", 4),
        ("POST_WORD", 4),
        ("POST_VALUE", 8),
        ("RESULT", 4),
        ("RESULT_FLAG", 1),
    )
    top = fields["STATE"]
    for name, size in arrays:
        fields[name] = top
        top += size * THREADS_MAX + _PAD
    fields["SIZE"] = top
    return fields


BLOCK: Final[Mapping[str, int]] = _block_layout()
"""Offsets in the block record (bytes).

IN_STEP (i8, one for each warp) and READY (i8) are the scheduler's. POST_MASK (u32): lane mask or number of a barrier, and
POST_COUNT (i32): a barrier's thread count, where they are not constants. POST_WORD (u32): the value voted, shuffled or
reduced. POST_VALUE (i64): the value matched. RESULT (u32; of ``shfl``: what the thread itself posted) and RESULT_FLAG (i8,
a predicate) come back. Kernels without suspension points use only the fields before STATE.
"""

SUSPENSION: Final[Mapping[str, int]] = {
    "bar": 1,
    "warpsync": 2,
    "shfl": 3,
    "vote": 4,
    "match": 5,
    "redux": 6,
    "activemask": 7,
    "yield": 8,
    "elect": 9,
    "lockstep": 10,
}
"""Kinds of suspension points: the first number of a ``KernelCode.suspensions`` row."""

FAULT: Final[Mapping[str, int]] = {
    "ILLEGAL_ADDRESS": 700,
    "LAUNCH_TIMEOUT": 702,
    "ASSERT": 710,
    "ILLEGAL_INSTRUCTION": 715,
    "INVALID_PC": 718,
    "MISALIGNED_ADDRESS": 716,
    "LAUNCH_FAILED": 719,
    "HARDWARE_STACK_ERROR": 714,
    "DEADLOCK": -1,
    "SHARED_ADDRESS": -2,
    "LOCAL_ADDRESS": -3,
}
"""Codes in LAUNCH["FAULT"]: those of CUresult (cuda.h; ``trap`` is 719), and some of our own: a barrier that nobody will ever
complete, and illegal addresses of the small windows.
"""

GRANULE: Final = 256
"""Bytes of device memory that share one entry of the shadow table."""

PARAMETERS_SIZE: Final = 4096
"""Bytes that must be readable at LAUNCH["PARAMETERS"], whatever the kernel takes: machine code may load them ahead of a
test.
"""

RUNTIME_FUNCTIONS: Final[Mapping[str, str]] = {
    "ptx_fault": "declare i64 @ptx_fault(i64, i64, i64, i64, i64, i64, i64)",
    "ptx_badaddr": "declare i64 @ptx_badaddr(i64, i64, i64, i64, i64, i64, i64, i64)",
    "ptx_badwindow": "declare i64 @ptx_badwindow(i64, i64, i64, i64, i64, i64, i64, i64)",
    "ptx_range": "declare i64 @ptx_range(i64, i64, i64)",
}
"""Functions of the run-time that machine code calls (all arguments and results i64).

``ptx_fault(block, code, address, x, y, z, line)`` notes a fault and sets ABORT. ``ptx_badaddr(block, address, size,
generic, x, y, z, line)`` is the slow path of the bounds check: it returns an address that may be used.
``ptx_badwindow(block, code, address, size, x, y, z, line)`` notes a fault ``code``, or that the address is not aligned, and
returns 0.
``ptx_range(launch, start, end)`` is not 0 if all bytes of [start, end) are valid.
"""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How kernels are translated. Hashable: part of the key of a cache of machine code."""

    bounds_check: bool = True
    """Check .global and generic accesses against live allocations, to the byte."""
    shared_check: bool = True
    """Check accesses to shared and local memory too."""
    watchdog: bool = True
    """Test the abort flag on backward branches, so that an endless loop can be stopped."""
    flush_denormals: bool = False
    """Honour ``.ftz``."""
    plain_atomics: bool = False
    """Atomics on global memory without a lock prefix: only right when one worker runs the grid and the host does not
    look.
    """
    lockstep: bool = True
    """Run loops that all threads seem to leave together side by side, one iteration of all after the other."""
    parallel: bool = True
    """Tell LLVM that the threads between two barriers are independent."""
    rematerialize: bool = True
    """Compute cheap values again after a suspension point instead of saving them."""
    uniform: bool = True
    """Load saved registers that all threads agree on once for all of them."""
    guards: bool = True
    """Decide bounds tests once for a row of threads where possible."""


def checking(check: str) -> CompileOptions:
    """The options for one of ``types.CHECKS``."""
    return CompileOptions(bounds_check=check != "none", shared_check=check == "all")


@dataclass(frozen=True, slots=True)
class Variable:
    """A ``.global`` or ``.const`` variable: ``offset`` and ``size`` in bytes inside the module's one allocation."""

    offset: int
    size: int
    constant: bool


@dataclass(frozen=True, slots=True)
class Relocation:
    """An address inside the initial bytes of the module's variables: ``size`` bytes at ``offset``.

    ``symbol`` names a variable (address + ``addend``) or, where ``function`` is set, a device function, whose address ``addend`` is.
    """

    offset: int
    size: int
    symbol: str
    addend: int
    function: bool
    shift: int = 0
    """Bits of the address that are left out below."""


@dataclass(frozen=True, slots=True)
class KernelCode:
    """One compiled kernel.

    ``ir`` is LLVM IR text without a target triple; all other fields are plain values, fit for a cache.
    """

    name: str
    ir: str
    regions: tuple[str, ...]
    """LLVM function of every state."""
    suspensions: tuple[tuple[int, int, int, int], ...]
    """For every state (kind, variant, a, b), kind from SUSPENSION; state 0 has (0, 0, 0, 0).

    ``bar``: variant 0 sync, 1 red.and, 2 red.or, 3 red.popc; a = barrier, -1 = POST_MASK; b = threads, 0 = all, -1 =
    POST_COUNT. ``shfl``: variant 0 up, 1 down, 2 bfly, 3 idx. ``vote``: 0 all, 1 any, 2 uni, 3 ballot. ``match``: 0 all, 1
    any. ``redux``: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor, 6 min.u32, 7 max.u32. For warp operations a = 1 means "no
    mask: the lanes waiting here"; b = lane mask, 0 = POST_MASK.
    """
    parameters: tuple[tuple[int, int], ...]
    """(offset, size) of every parameter in the packed arguments."""
    arguments_size: int
    shared_size: int
    """Bytes of static shared memory; dynamic shared memory starts there."""
    local_area: int
    """Bytes of the block's LOCAL area: what its threads keep there over suspension points, what escapes, and the stack of its device
    functions."""
    frame_size: int
    """Bytes of saved registers of one block."""
    stack_size: int
    """Bytes of .local variables of one thread, wherever they lie (cuFuncGetAttribute LOCAL_SIZE_BYTES)."""
    constant_size: int
    registers: int
    """32-bit registers alive at once, at most: an estimate of what ptxas would need."""
    threads_max: int
    """From .maxntid or .reqntid, at most THREADS_MAX."""
    threads_required: tuple[int, int, int] | None
    """.reqntid: the only block shape the kernel may be launched with."""
    yields: bool
    """Waits for other blocks by spinning: workers should hold several blocks (LAUNCH["RESIDENT"])."""
    contended: bool
    """Updates global memory atomically: one worker by itself, without a lock prefix, may be faster than several."""
    cooperative: bool
    """Waits for all blocks of its grid (cooperative groups): a grid that the workers cannot hold at once would never end."""


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """Device functions whose address is taken; compiled once for a module.

    ``entries``: (LLVM function, ``signature``) of each, at the index its address stands for; no function for one that cannot be
    compiled, which is an error of the kernels that mention it.
    """

    ir: str
    entries: tuple[tuple[str, int], ...]


FUNCTION_SIZE: Final = 16
"""Addresses of device functions are multiples of it: FUNCTION_SIZE for entry 0 of ``LAUNCH["FUNCTIONS"]``, twice that for entry 1, and
so on. No address a kernel makes up is ever jumped to.
"""


def signature(results: Iterable[int], arguments: Iterable[int]) -> int:
    """A number for the sizes of a function's results and parameters, never 0: a call through a pointer must fit."""
    text = f"{list(results)} {list(arguments)}".encode()
    return int.from_bytes(blake2b(text, digest_size=7).digest(), "little") + 1
