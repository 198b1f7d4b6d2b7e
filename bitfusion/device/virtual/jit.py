"""LLVM IR to machine code that can be called, through llvmlite.

Owns the target, the optimiser's settings and the list of what machine code may call; keeps no cache (``objects``).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import llvmlite.binding as llvm

from bitfusion.device.virtual.layout import RUNTIME_FUNCTIONS
from bitfusion.errors import InvalidValueError, UnsupportedError

OPTIMIZATION_LEVEL: Final = 3
"""The vectoriser and the unswitching of guarded loops are worth the compile time: saxpy is 3 x slower without."""

_ROUNDING = ("rint", "nearbyint", "trunc", "floor", "ceil", "round", "roundeven")
_TRIGONOMETRY = ("sin", "cos", "sincos", "tan", "tanh")
_EXPONENTIAL = ("exp", "exp2", "exp10", "log", "log2", "log10", "pow", "ldexp")
_ARITHMETIC = ("sqrt", "fma", "fmod", "fmin", "fmax")

SYSTEM_FUNCTIONS: Final = frozenset(
    {"memcpy", "memmove", "memset", "bzero", "sem_post", "sem_wait", "clock_gettime"}
    | {name + suffix for name in _ROUNDING + _TRIGONOMETRY + _EXPONENTIAL + _ARITHMETIC for suffix in ("", "f")}
)
"""What LLVM makes of an instruction the CPU lacks; no other function of the process can be called from a PTX text."""

OWN_FUNCTIONS: Final = frozenset(RUNTIME_FUNCTIONS) | {"__truncsfhf2", "__truncdfhf2", "__extendhfsf2"}
"""What the run-time defines for kernels."""

_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym (System V ABI, Symbol Table): name, info, other, section index, value, size."""

_UNDEFINED: Final = 0  # SHN_UNDEF


@cache
def _target() -> llvm.Target:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple()


def target_name() -> str:
    """What machine code depends on besides its IR: the CPU, its features, LLVM's version and the optimiser's level."""
    version = ".".join(map(str, llvm.llvm_version_info))
    return f"{llvm.get_host_cpu_name()} {_features()} LLVM {version} O{OPTIMIZATION_LEVEL}"


@cache
def _features() -> str:
    return str(llvm.get_host_cpu_features().flatten())


def _machine() -> llvm.TargetMachine:
    return _target().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_features(),
        opt=OPTIMIZATION_LEVEL,
        reloc="static",
        codemodel="jitdefault",
        jit=True,
    )


def _module(ir: str) -> llvm.ModuleRef:
    """Parsed and verified IR. InvalidValueError for what LLVM refuses, such as operands of types that do not go together."""
    _target()
    try:
        module = llvm.parse_assembly(f'target triple = "{llvm.get_process_triple()}"\n{ir}')
        module.verify()
    except RuntimeError as error:
        raise InvalidValueError(f"the PTX makes no sense to LLVM: {error}") from error
    return module


def compile_ir(ir: str, *, pack: bool = True) -> bytes:
    """Object code (ELF) of LLVM IR text without a target triple; InvalidValueError if it is not IR.

    ``pack``: look for scalars of one thread that make a vector (LLVM's SLP vectoriser).
    """
    module = _module(ir)
    machine = _machine()
    tuning = llvm.create_pipeline_tuning_options(speed_level=OPTIMIZATION_LEVEL)
    tuning.loop_vectorization, tuning.slp_vectorization = True, pack
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


class Code:
    """Object code in executable memory, for as long as this lives."""

    def __init__(self, object_code: bytes) -> None:
        """UnsupportedError if it calls what it must not."""
        elf = llvm.ObjectFileRef.from_data(object_code)
        for name in _undefined_symbols(elf):
            if name not in OWN_FUNCTIONS:
                _bind(name)
        self._engine = llvm.create_mcjit_compiler(_module(""), _machine())
        self._engine.add_object_file(elf)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function lies."""
        address = int(self._engine.get_function_address(name))
        assert address, f"the object code does not define {name}"
        return address

    def publish(self, names: Iterable[str]) -> None:
        """Let code that is loaded later call these functions by name.

        This code must then live as long as the process.
        """
        for name in names:
            llvm.add_symbol(name, self.address(name))


@cache
def _bind(name: str) -> None:
    """Let the linker find a function of the C library."""
    function = getattr(ctypes.CDLL(None), name, None) if name in SYSTEM_FUNCTIONS else None
    if function is None:
        raise UnsupportedError(f"the virtual GPU has no function {name}", feature=name)
    llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)


def _undefined_symbols(elf: llvm.ObjectFileRef) -> Iterator[str]:
    """Names that the linker must find elsewhere: it would silently take 0 for those it does not find."""
    tables = {
        section.name(): section.data() for section in elf.sections() if section.name() in (b".symtab", b".strtab")
    }
    symbols, names = tables[b".symtab"], tables[b".strtab"]
    for name, _info, _other, section, _value, _size in _SYMBOL.iter_unpack(symbols):
        if name and section == _UNDEFINED:
            yield names[name : names.index(b"\0", name)].decode()
