"""The compiler: accepted functions and a signature become PTX, by Numba's CUDA JIT. Needs neither a driver nor a GPU.

Owns all that is said to Numba. Private names of numba-cuda are used where it offers no others (setup.cfg pins its version): the code
library behind ``numba.cuda.compile``, the device that its dispatchers ask for, and the pass that evaluates constant conditions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

from numba import cuda
from numba.cuda import compiler as numba_compiler
from numba.cuda import dispatcher
from numba.cuda import types as numba_types
from numba.cuda.core.compiler_lock import global_compiler_lock
from numba.cuda.cudadrv import nvvm
from numba.cuda.cudadrv.linkable_code import LinkableCode

from bitfusion.errors import KernelCompileError, KernelError, KernelTypeError
from bitfusion.kernels import folding, gate, program, raised
from bitfusion.kernels.build import build
from bitfusion.kernels.cache import Compiled, versions
from bitfusion.kernels.cuda_cpp import to_ptx
from bitfusion.kernels.failure import failure
from bitfusion.kernels.foreign import foreign_type
from bitfusion.kernels.linking import joined, ptx_of
from bitfusion.kernels.listing import listing
from bitfusion.kernels.numba_types import declared_types, numba_arguments
from bitfusion.kernels.options import Options
from bitfusion.kernels.places import without_places
from bitfusion.kernels.program import Link
from bitfusion.kernels.types import Signature, Type, float32, int32, none, void
from bitfusion.kernels.wanted import TEXT_SIZE_MAX, Wanted

Capability = tuple[int, int]

HEADERS = Path(dispatcher.__file__).parent / "include" / "13"
"""What Numba's own CUDA C++ includes, for NVRTC of CUDA 13."""


def compile_kernel(
    accepted: Sequence[gate.Accepted],
    signature: Signature,
    options: Options,
    capability: Capability,
    links: Sequence[Link] = (),
) -> Compiled:
    """Compile a kernel for a signature and a compute capability.

    KernelCompileError has Numba's message with the user's file and line, whatever went wrong inside; KernelTypeError for a signature
    that no kernel can have.
    """
    arguments = numba_arguments(signature)
    with _numba_set_up(capability), _reported(accepted), raised.listed(options.debug) as raises:
        made = _Made(accepted, arguments, numba_types.void, options, Wanted(), capability)
        return Compiled(made.ptx(links).encode(), made.entry, raises)


def compile_text(
    accepted: Sequence[gate.Accepted],
    signature: Signature,
    options: Options,
    wanted: Wanted,
    capability: Capability,
) -> tuple[bytes, Type]:
    """What ``wanted`` asks for, and the type that the function returns. KernelCompileError, KernelTypeError."""
    arguments, result = declared_types(signature)
    with _numba_set_up(capability), _reported(accepted):
        made = _Made(accepted, arguments, result, options, wanted, capability)
        found = foreign_type(made.result)
        if not wanted.device and found is not none:
            raise KernelTypeError(f"CUDA kernel must have void return type, not {found}")
        code = made.output(wanted.output)
    if len(code) > TEXT_SIZE_MAX:
        raise KernelCompileError(f"the {wanted.output} has {len(code)} bytes; {TEXT_SIZE_MAX} can be sent")
    return code, found


@contextmanager
def _reported(accepted: Sequence[gate.Accepted]) -> Iterator[None]:
    """Within it, whatever Numba raises becomes a KernelCompileError."""
    with listing(item.source for item in accepted) as names:
        try:
            yield
        except KernelError:
            raise
        except Exception as error:  # Numba raises errors of every class for what it does not understand
            raise failure(error, accepted[0], names) from None


class _Maker:
    """What the kernel calls, as objects of Numba's."""

    def __init__(self) -> None:
        self.cooperative = False

    def device_function(self, function: FunctionType, options: Options) -> object:
        return cuda.jit(
            device=True,
            fastmath=options.fastmath,
            debug=options.debug,
            lineinfo=options.lineinfo,
            opt=options.opt,
            inline=options.inline,
            forceinline=options.forceinline,
        )(function)

    def declare(self, device_function: Any, signature: Signature) -> None:
        """From then on it is compiled for no other types than those declared."""
        device_function.compile_device(*declared_types(signature))
        device_function.disable_compile()

    def external(self, function: gate.External) -> object:
        arguments, result = declared_types(function.signature)
        returned = numba_types.none if result is None else result
        return cuda.declare_device(
            function.name, returned(*arguments), use_cooperative=function.cooperative, abi=function.abi
        )


class _Made:
    """A function that Numba has compiled to LLVM, and what can be made of that."""

    def __init__(
        self,
        accepted: Sequence[gate.Accepted],
        arguments: tuple[Any, ...],
        result: Any,
        options: Options,
        wanted: Wanted,
        capability: Capability,
    ) -> None:
        compiled = numba_compiler.compile_cuda(
            build(accepted, _Maker()),
            result,
            arguments,
            debug=options.debug,
            lineinfo=options.lineinfo,
            forceinline=options.forceinline and wanted.device,
            fastmath=options.fastmath,
            nvvm_options=_nvvm_options(options),
            cc=capability,
            abi=wanted.abi,
            abi_info={"abi_name": wanted.abi_name} if wanted.abi_name else {},
        )
        self.entry: str = compiled.fndesc.llvm_func_name
        self.result = compiled.signature.return_type
        self._arguments = arguments
        self._annotation = compiled.type_annotation
        self._library = compiled.library
        self._options = options
        self._wanted = wanted
        self._capability = capability
        if not wanted.device:
            self._make_kernel()

    def _make_kernel(self) -> None:
        kernel = self._library.get_function(self.entry)
        self._library._entry_name = self.entry
        numba_compiler.kernel_fixup(kernel, self._options.debug)
        if self._options.launch_bounds:
            nvvm.set_launch_bounds(kernel, self._options.launch_bounds)

    def output(self, kind: str) -> bytes:
        """The function in one of the forms of ``wanted.OUTPUTS``."""
        match kind:
            case "ptx" if self._wanted.device:  # as it is: linking would drop what no kernel calls
                return "\n".join(self._library.get_asm_strs(cc=self._capability)).encode()
            case "ptx":
                return self.ptx(()).encode()
            case "lto_ptx":
                return _linked(self._library, self._capability).encode()
            case "ltoir":
                return bytes(self._library.get_ltoir(cc=self._capability))
            case "llvm":
                return without_places(str(self._library.get_llvm_str())).encode()
        rules = f"{self.entry} {self._arguments}", "-" * 80, str(self._annotation), "=" * 80
        return re.sub(r" at 0x[0-9a-f]+", "", "\n".join(rules) + "\n").encode()

    def ptx(self, links: Sequence[Link]) -> str:
        """Its PTX with what is linked to it."""
        text = _ptx(self._library, self._capability, ptx_of(links, self._capability))
        return _limit_registers(text, self.entry, self._options.max_registers)


def _nvvm_options(options: Options) -> dict[str, Any]:
    chosen: dict[str, Any] = {"fastmath": options.fastmath, "opt": 3 if options.opt else 0}
    if options.debug:
        chosen["g"] = None
    return chosen


def _ptx(library: Any, capability: Capability, others: list[str]) -> str:
    """The library's PTX: by NVVM alone, or linked by nvJitLink where Numba needs CUDA C++ beside it (float16, ``reshape``)."""
    if library._linking_files and not others:
        return _linked(library, capability)
    if len(library.modules) > 1:
        # NVVM writes debug information for one module only, and device functions are others
        library._nvvm_options.pop("g", None)
    (text,) = library.get_asm_strs(cc=capability)
    if any(name in text for name in dispatcher.reshape_funcs):
        library.add_linking_file(str(Path(dispatcher.__file__).with_name("reshape_funcs.cu")))
        if not others:
            return _linked(library, capability)
    return joined(str(text), [*others, *_numbas_own(library, capability)])


def _numbas_own(library: Any, capability: Capability) -> Iterator[str]:
    """The CUDA C++ that Numba links, as PTX, where the client's own has none that link-time optimisation could take."""
    for file in library._linking_files:
        code = LinkableCode.from_path_or_obj(file)
        yield to_ptx(str(code.data), "Numba's own CUDA C++", capability, [str(HEADERS)])


def _linked(library: Any, capability: Capability) -> str:
    library._lto = True
    text: str = library.get_lto_ptx(cc=capability)
    return text.rstrip("\0")


def _limit_registers(ptx: str, entry: str, count: int) -> str:
    """The kernel with ``.maxnreg`` (PTX ISA, Performance-Tuning Directives) between its parameters and its body."""
    start = ptx.find(f".entry {entry}(")
    if count == 0 or start < 0:
        return ptx
    end = ptx.index(")", start) + 1
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
