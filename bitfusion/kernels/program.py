"""A captured kernel as data: its function, the device functions it calls, and what each of their names from outside stands for.

Owns the records and both directions of their bytes (docs/reference/wire.md, section 9), with the limits. Reading here checks shapes
and sizes only; what a kernel may contain and refer to is the gate's business.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass, replace
from hashlib import sha256

from bitfusion.errors import KernelSourceError, RemoteProtocolError
from bitfusion.kernels.constants import Plain
from bitfusion.wire import codec

FORMAT = 3
"""The number of this form; a receiver refuses others."""

FUNCTION_COUNT_MAX = 256
"""Functions of one kernel: its own and all device functions below it. Libraries of device code have some dozens."""

BINDING_COUNT_MAX = 1024
"""Names from outside in one function."""

SIGNATURE_COUNT_MAX = 64
"""Declared signatures of one device function; those of all types in pairs are 49."""

TEXT_SIZE_MAX = 256 * 1024
"""Characters of one function: 4000 lines. Numba would need minutes for it."""

FILE_SIZE_MAX = 1024
"""Characters of a file's name; PATH_MAX of Linux is 4096, what people have is below 200."""

NAME_SIZE_MAX = 128
"""Characters of a function's name; Numba's mangled entry names are several times as long."""

KEY_SIZE_MAX = 512
"""Characters of a binding's key: some names with dots between them."""

LINE_MAX = 1_000_000
"""The highest line number: messages need a table with a place for every line before it."""

LINK_COUNT_MAX = 64
"""Pieces of other code linked to one kernel."""

LINK_KINDS = ("ptx", "cu")
"""Code that can be linked: PTX text, and CUDA C++ that the worker compiles to it."""

NAME, FUNCTION, CONSTANT, EXTERNAL, EXCEPTION = "name", "function", "constant", "external", "exception"
"""What a binding may be: a path on the allow-list, the number of a function in the program, a constant by value, a function of linked
code (``[name, signature, abi, cooperative]``), or an exception class of the client's by name.
"""


@dataclass(frozen=True, slots=True)
class Binding:
    """What ``key``, a name from outside as it stands in the text (``cuda.threadIdx``), refers to."""

    key: str
    kind: str
    value: Plain


@dataclass(frozen=True, slots=True)
class Function:
    """One function: the lines of its definition as they stand in ``file`` from ``line`` on, and its names from outside.

    ``defaults`` are the values (as constants) of its last parameters. ``signatures`` are what a device function was declared with:
    arguments are converted to them and its result to their return type (``none``: whatever it is). ``options`` are a device function's
    own, as pairs; a kernel's travel with its signature.
    """

    name: str
    file: str
    line: int
    text: str
    bindings: tuple[Binding, ...] = ()
    defaults: tuple[Plain, ...] = ()
    signatures: tuple[Plain, ...] = ()
    options: tuple[Plain, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """Code that is linked to the kernel: its kind, its name for messages, and its text."""

    kind: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel, which is the first function, the device functions it uses, and other code that they call."""

    functions: tuple[Function, ...]
    links: tuple[Link, ...] = ()

    @property
    def places(self) -> bool:
        """Whether a device function's options put file names and line numbers into the code."""
        return any(("debug", True) in f.options or ("lineinfo", True) in f.options for f in self.functions)

    def identity(self, *, places: bool) -> bytes:
        """The SHA-256 of what decides the compiled code; with ``places`` file names and line numbers count as well.

        Without them a kernel that has only moved in its file, or that other clients keep elsewhere, is the same one.
        """
        functions = self.functions
        if not places:
            functions = tuple(replace(function, file="", line=0) for function in functions)
        return sha256(encode(Program(functions, self.links))).digest()


def encode(program: Program) -> bytes:
    """The program's bytes; equal programs have equal bytes."""
    functions = [
        (
            *(f.name, f.file, f.line, f.text),
            [(b.key, b.kind, b.value) for b in f.bindings],
            *(f.defaults, f.signatures, f.options),
        )
        for f in program.functions
    ]
    return codec.pack(("kernel", FORMAT, functions, [(link.kind, link.name, link.data) for link in program.links]))


def decode(data: bytes) -> Program:
    """The program a peer sent. KernelSourceError if the bytes are not one."""
    try:
        value = codec.unpack(data)
    except RemoteProtocolError as error:
        raise KernelSourceError(f"what was sent is not a captured kernel: {error.message}") from None
    match value:
        case ("kernel", int(number), (_, *_) as functions, (*links,)) if (
            number == FORMAT and len(functions) <= FUNCTION_COUNT_MAX and len(links) <= LINK_COUNT_MAX
        ):
            return Program(
                tuple(_decode_function(item, len(functions)) for item in functions), tuple(map(_decode_link, links))
            )
        case ("kernel", int(number), *_) if number != FORMAT:
            raise KernelSourceError(f"the kernel was captured in form {number}, this server takes form {FORMAT}")
    raise KernelSourceError(
        f"what was sent is not a captured kernel: it must be ['kernel', {FORMAT}, [function, ...], [link, ...]]"
        f" with at most {FUNCTION_COUNT_MAX} functions and {LINK_COUNT_MAX} links"
    )


def _decode_link(value: object) -> Link:
    match value:
        case (str(kind), str(name), bytes(data)) if (
            kind in LINK_KINDS and 0 < len(name) <= FILE_SIZE_MAX and name.isprintable() and b"\0" not in data
        ):
            return Link(kind, name, data)
    raise KernelSourceError("linked code must be ['ptx' | 'cu', name, bytes] without zero bytes")


def _decode_function(value: object, count: int) -> Function:
    match value:
        case (
            str(name),
            str(file),
            int(line),
            str(text),
            tuple(bindings),
            tuple(defaults),
            tuple(signatures),
            tuple(options),
        ) if (
            is_name(name)
            and 0 < len(file) <= FILE_SIZE_MAX
            and file.isprintable()
            and type(line) is int
            and 1 <= line <= LINE_MAX
            and 0 < len(text) <= TEXT_SIZE_MAX
            and "\0" not in text
            and len(bindings) <= BINDING_COUNT_MAX
            and len(signatures) <= SIGNATURE_COUNT_MAX
        ):
            names = tuple(_decode_binding(item, count) for item in bindings)
            return Function(name, file, line, text, names, defaults, signatures, options)
    raise KernelSourceError(
        "a captured function must be [name, file, line, text, bindings, defaults, signatures, options] within the limits of the wire"
    )


def _decode_binding(value: object, count: int) -> Binding:
    match value:
        case (str(key), str(kind), target) if is_key(key):
            match kind, target:
                case ("name" | "exception", str()) | ("external", tuple()) | ("constant", _):
                    return Binding(key, kind, target)  # type: ignore[arg-type]  # msgpack's subset without maps is Plain
                case ("function", int(index)) if type(index) is int and 0 <= index < count:
                    return Binding(key, kind, index)
    raise KernelSourceError(
        "a captured name must be [key, 'name' | 'function' | 'constant' | 'external' | 'exception', value]"
    )


def is_name(text: str) -> bool:
    """Whether ``text`` can name a function or a parameter: an identifier that is not a keyword and means nothing to Python."""
    return (
        text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("__") and len(text) <= NAME_SIZE_MAX
    )


def is_key(text: str) -> bool:
    """Whether ``text`` is a name or names with dots between them."""
    return len(text) <= KEY_SIZE_MAX and all(map(is_name, text.split(".")))
