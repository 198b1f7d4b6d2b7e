"""The compiler: accepted functions and a signature become PTX, by Numba's CUDA JIT. Needs neither a driver nor a GPU.

Owns all that is said to Numba. Private names of numba-cuda are used where it offers no others (setup.cfg pins its version): the code
library behind ``numba.cuda.compile``, the device that its dispatchers ask for, and the pass that evaluates constant conditions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from numba import cuda
from numba.cuda import compiler as numba_compiler
from numba.cuda import dispatcher, types
from numba.cuda.core.compiler_lock import global_compiler_lock

from bitfusion.errors import KernelError
from bitfusion.kernels import folding, gate, program, raised
from bitfusion.kernels.build import build
from bitfusion.kernels.cache import Compiled, versions
from bitfusion.kernels.failure import failure
from bitfusion.kernels.listing import listing
from bitfusion.kernels.numba_types import declared_types, numba_arguments
from bitfusion.kernels.options import Options
from bitfusion.kernels.types import Signature, float32, int32, void

Capability = tuple[int, int]


def compile_kernel(
    accepted: Sequence[gate.Accepted], signature: Signature, options: Options, capability: Capability
) -> Compiled:
    """Compile a kernel for a signature and a compute capability.

    KernelCompileError has Numba's message with the user's file and line, whatever went wrong inside; KernelTypeError for a signature
    that no kernel can have.
    """
    arguments = numba_arguments(signature)
    with (
        _numba_set_up(capability),
        listing(item.source for item in accepted) as names,
        raised.listed(options.debug) as raises,
    ):
        try:
            return replace(_compile(accepted, arguments, options, capability), raises=raises)
        except KernelError:
            raise
        except Exception as error:  # Numba raises errors of every class for what it does not understand
            raise failure(error, accepted[0], names) from None


def _compile(
    accepted: Sequence[gate.Accepted], arguments: tuple[Any, ...], options: Options, capability: Capability
) -> Compiled:
    def device_function(function: FunctionType) -> object:
        return cuda.jit(
            device=True, fastmath=options.fastmath, debug=options.debug, lineinfo=options.lineinfo, opt=options.opt
        )(function)

    library, _ = numba_compiler._compile_pyfunc_with_fixup(
        build(accepted, device_function, _declare),
        types.void(*arguments),
        device=False,
        abi="numba",
        cc=capability,
        fastmath=options.fastmath,
        debug=options.debug,
        lineinfo=options.lineinfo,
        opt=options.opt,
    )
    entry = library._entry_name
    ptx = _limit_registers(_ptx(library, capability), entry, options.max_registers)
    return Compiled(ptx.encode(), entry)


def _declare(device_function: Any, signature: Signature) -> None:
    """Compile a device function for a signature, and from then on for no other types than those declared."""
    device_function.compile_device(*declared_types(signature))
    device_function.disable_compile()


def _ptx(library: Any, capability: Capability) -> str:
    """The library's PTX: by NVVM alone, or linked by nvJitLink where Numba needs CUDA C++ beside it (float16, ``reshape``)."""
    if library._linking_files:
        return _linked(library, capability)
    if len(library.modules) > 1:
        # NVVM writes debug information for one module only, and device functions are others
        library._nvvm_options.pop("g", None)
    (text,) = library.get_asm_strs(cc=capability)
    if any(name in text for name in dispatcher.reshape_funcs):
        library.add_linking_file(str(Path(dispatcher.__file__).with_name("reshape_funcs.cu")))
        return _linked(library, capability)
    return str(text)


def _linked(library: Any, capability: Capability) -> str:
    library._lto = True
    text: str = library.get_lto_ptx(cc=capability)
    return text.rstrip("\0")


def _limit_registers(ptx: str, entry: str, count: int) -> str:
    """The kernel with ``.maxnreg`` (PTX ISA, Performance-Tuning Directives) between its parameters and its body."""
    if count == 0:
        return ptx
    end = ptx.index(")", ptx.index(f".entry {entry}(")) + 1
    return f"{ptx[:end]}\n.maxnreg {count}{ptx[end:]}"


@contextmanager
def _numba_set_up(capability: Capability) -> Iterator[None]:
    """Within it Numba is silent, asks no driver which device it compiles for, and computes nothing large."""
    with global_compiler_lock, warnings.catch_warnings(), folding.bounded():
        warnings.simplefilter("ignore")
        asked = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
        try:
            yield
        finally:
            dispatcher.get_current_device = asked


WARMING = program.Program(
    (
        program.Function(
            name="warming",
            file="<warming>",
            line=1,
            text="""def warming(target, count):
    tile = cuda.shared.array(32, float32)
    i = cuda.grid(1)
    if i < count:
        tile[cuda.threadIdx.x] = scale(target[i], 2)
        cuda.syncthreads()
        cuda.atomic.add(target, i, math.exp(tile[0]))
""",
            bindings=(
                program.Binding("cuda.shared.array", program.NAME, "numba.cuda.shared.array"),
                program.Binding("cuda.grid", program.NAME, "numba.cuda.grid"),
                program.Binding("cuda.threadIdx", program.NAME, "numba.cuda.threadIdx"),
                program.Binding("cuda.syncthreads", program.NAME, "numba.cuda.syncthreads"),
                program.Binding("cuda.atomic.add", program.NAME, "numba.cuda.atomic.add"),
                program.Binding("math.exp", program.NAME, "math.exp"),
                program.Binding("float32", program.CONSTANT, ("type", "float32")),
                program.Binding("scale", program.FUNCTION, 1),
            ),
        ),
        program.Function("scale", "<warming>", 9, "def scale(value, factor):\n    return value * factor\n"),
    )
)
"""A kernel of the usual parts: a grid, shared memory, a barrier, an atomic, a function of ``math``, a device function."""


def warm() -> None:
    """Make Numba load what it loads on demand, by one small compile; for the zygote. Leaves no thread."""
    versions()
    compile_kernel(gate.check(WARMING), void(float32[::1], int32), Options(), (8, 0))
