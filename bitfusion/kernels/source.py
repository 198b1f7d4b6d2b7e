"""Capture: a Python function on the client becomes bytes that a worker can compile. Needs neither Numba nor CUDA.

Owns where the text comes from (``linecache``, so notebook cells and doctests work as files do; ``executed`` for what a program compiles
itself) and what the function's names stand for: a path on the allow-list (``names``), another function, or a constant by value. Values
are those of the moment of capture, as in Numba.
The same text and values give the same bytes in every process.
"""

from __future__ import annotations

import builtins
import difflib
import enum
import inspect
import itertools
import linecache
import math
import re
import struct
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np

from bitfusion.errors import KernelSourceError, KernelTypeError
from bitfusion.kernels import executed, names, program, syntax
from bitfusion.kernels.constants import DeviceConstant, Plain, encode_constant
from bitfusion.kernels.external import ExternalFunction
from bitfusion.kernels.lambdas import lambda_as_function
from bitfusion.kernels.packing import Argument
from bitfusion.kernels.program import Link
from bitfusion.kernels.signatures import encode as encode_signature
from bitfusion.kernels.types import NAMES as TYPE_NAMES
from bitfusion.kernels.types import Array, Signature, from_dtype

PLAIN_VALUES = (bool, int, float, complex, str, tuple, np.generic, np.ndarray)
"""Values that are constants whatever else they are: ``from math import pi`` is a number."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A kernel as it travels: ``data``, named by its SHA-256."""

    name: str
    data: bytes
    digest: bytes
    exceptions: Mapping[str, type[Exception]] = field(default_factory=dict)
    """The classes of the program's own that it may raise, by the names they travel under."""
    kept: tuple[Any, ...] = ()
    """Device arrays that it closes over: by their addresses, so they must live as long as it does."""
    foreign: tuple[object, ...] = ()
    """And other libraries' arrays, which say only where they are."""
    printed_max: int = 0
    """The most values that one ``print`` in it is given."""


def capture(function: Any, *, name: str | None = None, links: Iterable[Link] = ()) -> Captured:
    """Capture a kernel with the device functions and constants it uses.

    ``function`` is a Python function, or an object that holds one as ``py_func``; device functions are found the same way. ``links`` is
    code that is linked to it, beside what the external functions it calls bring.
    KernelSourceError says with the user's file and line what cannot be captured and what to do.
    """
    plain = _python_function(function)
    if plain is None:
        raise KernelSourceError(
            f"a kernel must be a Python function, not an object of type {type(function).__qualname__}"
        )
    captured = _Capture(links)
    captured.number(plain)
    functions = tuple(captured.functions(name))
    data = program.encode(program.Program(functions, tuple(captured.links)))
    return Captured(
        functions[0].name,
        data,
        sha256(data).digest(),
        captured.exceptions,
        tuple(captured.kept),
        tuple(captured.foreign),
        captured.printed_max,
    )


def _python_function(value: object) -> FunctionType | None:
    inner = getattr(value, "py_func", value)
    return inner if isinstance(inner, FunctionType) else None


_Options: TypeAlias = tuple[tuple[str, Any], ...]

_Declared: TypeAlias = tuple[FunctionType, tuple[Signature, ...], _Options]
"""A function, and the signatures and options that its decorator was given."""


def _signatures(dispatcher: object) -> tuple[Signature, ...]:
    """What a device function of this package was declared with; Numba's own dispatchers are taken without."""
    declared = getattr(dispatcher, "declared", ())
    return declared if isinstance(declared, tuple) and all(isinstance(item, Signature) for item in declared) else ()


def _options(dispatcher: object) -> _Options:
    """The options of a device function of this package, as pairs in the order of their names."""
    options = getattr(dispatcher, "options", {}) if hasattr(dispatcher, "declared") else {}
    return tuple(sorted(options.items()))


class _Capture:
    """The functions of one program, in the order in which they are met, and what they call and raise beside each other."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._numbers: dict[_Declared, int] = {}
        self.links: dict[Link, None] = dict.fromkeys(links)
        self.exceptions: dict[str, type[Exception]] = {}
        self.kept: list[Any] = []
        self.foreign: list[object] = []
        self.printed_max = 0

    def number(self, function: FunctionType, signatures: tuple[Signature, ...] = (), options: _Options = ()) -> int:
        """The number of a function as it is declared; a new one waits to be captured."""
        number = self._numbers.setdefault((function, signatures, options), len(self._numbers))
        if number >= program.FUNCTION_COUNT_MAX:
            raise KernelSourceError(f"a kernel can use {program.FUNCTION_COUNT_MAX} device functions at most")
        return number

    def functions(self, name: str | None) -> Iterator[program.Function]:
        """Capture them all; each may name further ones. ``name`` is the first one's."""
        done = 0
        while done < len(self._numbers):
            function, signatures, options = list(self._numbers)[done]
            captured = self._function(function, name if done == 0 else None)
            declared: Any = tuple(map(encode_signature, signatures))
            yield replace(captured, signatures=declared, options=options)
            done += 1

    def _function(self, function: FunctionType, name: str | None) -> program.Function:
        bare = _read(function, name)
        parsed = syntax.parse(bare)
        _check_still_the_same(function.__code__, bare, parsed)
        self.printed_max = max(self.printed_max, syntax.printed_max(parsed.tree))
        bindings = tuple(self._bindings(function, bare, parsed))
        defaults = tuple(_default(bare, value) for value in function.__defaults__ or ())
        return program.Function(bare.name, bare.file, bare.line, bare.text, bindings, defaults)

    def _bindings(
        self, function: FunctionType, bare: program.Function, parsed: syntax.Parsed
    ) -> Iterator[program.Binding]:
        done: set[str] = set()
        for reference in parsed.references:
            try:
                binding = self._resolve(function, reference.path)
            except (_UnfitError, KernelTypeError) as error:
                raise syntax.refuse(bare, reference.node.lineno, str(error)) from None
            if binding is not None and binding.key not in done:
                done.add(binding.key)
                yield binding

    def _resolve(self, function: FunctionType, path: str) -> program.Binding | None:
        """What the name at the start of ``path`` stands for, through modules as far as they go; None for an allowed builtin."""
        root, *rest = path.split(".")
        value = _lookup(function, root)
        key = root
        if value is getattr(builtins, root, _MISSING) and root in names.BUILTINS:
            return None
        while (place := _namespace(value)) is not None:
            if not rest:
                raise _UnfitError(f"{key!r} is a module; a kernel can only use what is in it")
            value = _member(value, place, rest[0])
            key = f"{key}.{rest.pop(0)}"
        kind, target = self._classify(key, value)
        return program.Binding(key, kind, target)

    def _classify(self, key: str, value: object) -> tuple[str, Plain]:
        path = value.path if isinstance(value, _Listed) else _own_path(value)
        if path is not None:
            return _by_path(path)
        if getattr(value, "py_func", None) is not None and (inner := _python_function(value)) is not None:
            return program.FUNCTION, self.number(inner, _signatures(value), _options(value))
        if isinstance(value, ExternalFunction):
            self.links.update(dict.fromkeys(value.links))
            return program.EXTERNAL, value.as_plain()
        if isinstance(value, type) and issubclass(value, Exception):
            return program.EXCEPTION, self._exception(value)
        if not isinstance(value, PLAIN_VALUES) and (path := _known_path(value)) is not None:
            return _by_path(path)
        if callable(value) and (path := _missing_path(value)) is not None:
            raise _UnfitError(names.refusal(path))
        if isinstance(value, FunctionType):
            raise _UnfitError(
                f"{key!r} is a plain Python function; a kernel can call it once it is decorated with @cuda.jit(device=True), and"
                " not by an @overload or @register_jitable, which are for a compiler in this process"
            )
        try:
            return program.CONSTANT, encode_constant(self._in_device_memory(value))
        except KernelTypeError as error:
            raise _UnfitError(f"{key!r} cannot be used in a kernel: {error.message}{_advice(value)}") from None

    def _in_device_memory(self, value: Any) -> object:
        """What a kernel closes over of a device array: where it is, and how it lies there. Others are what they are."""
        argument = getattr(value, "__bitfusion_argument__", None)
        if isinstance(argument, Argument) and isinstance(argument.type, Array):
            self.kept.append(value)
            _, _, _, _, address, *layout = struct.unpack(f"<5Q{2 * argument.type.ndim}q", argument.data)
            shape, strides = layout[: argument.type.ndim], layout[argument.type.ndim :]
            return DeviceConstant(argument.type.dtype, address, tuple(shape), tuple(strides))
        interface = None if isinstance(value, type) else getattr(value, "__cuda_array_interface__", None)
        return self._foreign_array(value, interface) if isinstance(interface, dict) else value

    def _foreign_array(self, value: object, interface: dict[str, Any]) -> DeviceConstant:
        """The same for another library's array (CUDA Array Interface, version 3)."""
        if not {"typestr", "shape", "data"} <= interface.keys():
            raise KernelTypeError(f"the {type(value).__qualname__} has no whole __cuda_array_interface__")
        dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
        strides = interface.get("strides") or tuple(
            dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))
        )
        self.foreign.append(value)
        return DeviceConstant(from_dtype(dtype), interface["data"][0], shape, tuple(strides))

    def _exception(self, raised: type[Exception]) -> str:
        """The name under which a class travels: its own, numbered if another class has it."""
        plain = raised.__name__ if program.is_name(raised.__name__) else "error"
        names = (plain if number == 1 else f"{plain}_{number}" for number in itertools.count(1))
        name = next(name for name in names if self.exceptions.get(name, raised) is raised)
        self.exceptions[name] = raised
        return name


class _UnfitError(Exception):
    """A name that cannot be captured; the text says why."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """Something on the allow-list, known by its path alone: the module need not even be installed here."""

    path: str


_MISSING = object()


def _by_path(path: str) -> tuple[str, Plain]:
    """A name of the allow-list. Types go by value, so that their many names are one."""
    name = names.type_name(path)
    if name is not None:
        return program.CONSTANT, encode_constant(TYPE_NAMES[name])
    if not names.is_allowed(path):
        raise _UnfitError(names.refusal(path))
    return program.NAME, path


def _default(bare: program.Function, value: object) -> Plain:
    try:
        return encode_constant(value)
    except KernelTypeError as error:
        raise syntax.refuse(bare, bare.line, f"a default value cannot travel: {error.message}") from None


# where the text comes from


def _read(function: FunctionType, name: str | None) -> program.Function:
    """The function with its text, before its names are known."""
    code = function.__code__
    called = name or ("kernel" if function.__name__ == "<lambda>" else function.__name__)
    if not program.is_name(called):
        raise KernelSourceError(f"{called!r:.60} cannot be a kernel's name; name it by a plain identifier")
    file, line = code.co_filename, code.co_firstlineno
    linecache.checkcache(file)
    lines = executed.lines_of(code) or linecache.getlines(file, function.__globals__)
    if len(lines) < line:
        raise KernelSourceError(
            f"{file}:{line}: the source of {called!r} is not available; a kernel travels as source, so define it in a file or a"
            " notebook cell, or put its text into linecache",
            file=file,
            line=line,
        )
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise KernelSourceError(f"{file}:{line}: a kernel cannot be a generator or async", file=file, line=line)
    if function.__name__ == "<lambda>":
        line, text = lambda_as_function(code, lines, called)
    else:
        text = "".join(inspect.getblock(lines[line - 1 :]))
    found = program.Function(called, _shown(file), line, text)
    if len(text) > program.TEXT_SIZE_MAX or line > program.LINE_MAX:
        raise syntax.refuse(
            found,
            line,
            f"a kernel can have {program.TEXT_SIZE_MAX} characters and stand on line {program.LINE_MAX} at most",
        )
    return found


def _shown(file: str) -> str:
    """A file's name as text for messages: whatever a name may hold, the end of it if it is very long."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in file)
    return printable[-program.FILE_SIZE_MAX :] or "?"


def _check_still_the_same(code: CodeType, function: program.Function, parsed: syntax.Parsed) -> None:
    """Whether the file still holds what was imported: the parameters are the code's, and its names stand in the text."""
    arguments = [argument.arg for argument in (*parsed.tree.args.posonlyargs, *parsed.tree.args.args)]
    used = _code_names(code)
    words = set(re.findall(r"\w+", unicodedata.normalize("NFKC", function.text)))  # as Python reads identifiers
    rewritten = any(name.startswith("@") for name in used)  # by pytest, which writes other names into assertions
    if list(code.co_varnames[: code.co_argcount]) != arguments or not (rewritten or used <= words):
        raise syntax.refuse(
            function, function.line, "the file no longer holds the function that runs; start the program again"
        )


def _code_names(code: CodeType) -> set[str]:
    """Names from outside that the code, or the functions in it, use."""
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _code_names(constant)
    return found


# what the names stand for


def _lookup(function: FunctionType, name: str) -> object:
    """The value of a name as Python would find it: closure, globals, builtins."""
    code = function.__code__
    if name in code.co_freevars:
        assert function.__closure__ is not None
        try:
            return function.__closure__[code.co_freevars.index(name)].cell_contents
        except ValueError:
            raise _UnfitError(f"the name {name!r} has no value yet when the kernel is captured") from None
    value = function.__globals__.get(name, _MISSING)
    if value is _MISSING:
        value = getattr(builtins, name, _MISSING)
        if value is _MISSING:
            raise _UnfitError(f"the name {name!r} is not defined")
        if name not in names.BUILTINS:
            raise _UnfitError(f"a kernel cannot use the builtin {name!r}")
    return value


def _namespace(value: object) -> str | None:
    """The dotted path of a module, or of what stands for one; None for any other value."""
    if isinstance(value, ModuleType) or (isinstance(value, type) and issubclass(value, enum.Flag)):
        return names.canonical(value.__name__)
    path = value.path if isinstance(value, _Listed) else _own_path(value)
    if path is None:
        path = _known_namespaces().get(id(value))
    return path if path is not None and names.is_namespace(path) else None


def _own_path(value: object) -> str | None:
    """What an object of ``bitfusion.cuda`` says it stands for."""
    path = getattr(value, "__bitfusion_path__", None)
    return names.canonical(path) if isinstance(path, str) else None


def _member(value: object, place: str, name: str) -> object:
    """What ``name`` is in a module: on the allow-list known by its path, in the user's own modules by its value."""
    path = names.canonical(f"{place}.{name}")
    if names.is_allowed(path) or names.is_namespace(path):
        return _Listed(path)
    if any(known.startswith(f"{path}.") for known in names.NAMESPACES):
        return _Listed(path)
    if names.is_namespace(place):
        close = [] if path in names.ADVICE else difflib.get_close_matches(name, names.NAMESPACES[place], 1)
        raise _UnfitError(names.refusal(path) + (f"; did you mean {place}.{close[0]}?" if close else ""))
    try:
        return getattr(value, name)
    except AttributeError:
        raise _UnfitError(f"{place} has no attribute {name!r}") from None


_paths: tuple[tuple[tuple[object, ...], ...], dict[int, str]] = ((), {})
"""Objects of the allow-list by identity, and the modules they were taken from."""


def _known_path(value: object) -> str | None:
    """The path of an object that is on the allow-list under some name: ``from math import sin as s``."""
    global _paths
    holders = tuple(map(_holders, names.NAMESPACES))
    if _paths[0] != holders:
        _paths = (holders, dict(_scan(holders)))
    return _paths[1].get(id(value))


def _missing_path(value: object) -> str | None:
    """The path of an object that Numba's CUDA target does not have but something else for: ``from numpy import sqrt``."""
    places = (path.rpartition(".") for path in names.ADVICE)
    return next((f"{place}.{name}" for place, _, name in places if getattr(_holder(place), name, None) is value), None)


def _known_namespaces() -> dict[int, str]:
    return {id(holder): path for path in names.NAMESPACES if (holder := _holder(path)) is not None}


def _scan(holders: tuple[tuple[object, ...], ...]) -> Iterator[tuple[int, str]]:
    for (place, words), found in zip(names.NAMESPACES.items(), holders, strict=True):
        for holder in found:
            for word in sorted(words or vars(holder)):
                value = getattr(holder, word, None)
                if value is not None and not isinstance(value, PLAIN_VALUES) and names.is_allowed(f"{place}.{word}"):
                    yield id(value), f"{place}.{word}"


def _holder(place: str) -> object | None:
    """The module or object that ``place`` names, here or in Numba, if it has been imported; nothing is imported for it."""
    return next(iter(_holders(place)), None)


def _holders(place: str) -> tuple[object, ...]:
    """All that ``place`` names, by its own name and others: Numba and numba-cuda have some modules twice."""
    called = (place, *(alias for alias, known in names.ALIASES.items() if known == place))
    found = tuple(module for name in called if (module := sys.modules.get(name)) is not None)
    if not found:
        parent, _, name = place.rpartition(".")
        inner = getattr(sys.modules.get(parent), name, None)
        found = () if inner is None else (inner,)
    return found


def _advice(value: object) -> str:
    if isinstance(value, list):
        return "; use a tuple or an array"
    if hasattr(value, "__bitfusion_argument__") or hasattr(value, "__cuda_array_interface__"):
        return "; pass device arrays as arguments"
    return ""
