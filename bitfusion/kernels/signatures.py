"""Signatures as text and as a message: parsing without evaluation, encoding, strict decoding of a peer's tree.

Owns both forms and their limits. A scalar travels as its name; the rest as arrays that start with a word:
``["array", dtype, ndim, layout]`` (``"readonly"`` for one that is not written to), ``["nested", dtype, shape]``,
``["record", [[name, type, offset], ...], size, aligned]``,
``["tuple", [type, ...]]``, ``["named", name, [field, ...], [type, ...]]``, ``["enum", name, integer, [[member, value], ...]]``,
``["chars", kind, count]``, ``["pointer", type]``, ``["signature", return type, [type, ...]]``. docs/reference/wire.md describes the same.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TypeAlias

from bitfusion.errors import KernelTypeError, RemoteProtocolError
from bitfusion.kernels.named import EnumMember, Member, NamedTuple
from bitfusion.kernels.types import (
    DATES,
    NAMES,
    SCALARS,
    Array,
    Chars,
    CPointer,
    NestedArray,
    Record,
    Scalar,
    Signature,
    Tuple,
    Type,
    UniTuple,
)

Tree: TypeAlias = str | int | float | bool | Sequence["Tree"]

DEPTH_MAX = 16
"""Nesting of a type: records in records in arrays; four is already unusual."""

COUNT_MAX = 1024
"""Types in one signature, all levels: CUDA takes 4 KiB of arguments, so 1024 would be of four bytes each."""

MODULES = frozenset({"types", "numba", "nb", "cuda", "np", "numpy"})
"""What may stand before a type's name in a text, as in ``nb.float32``; the name alone counts."""

TEXT_SIZE_MAX = 16 * 1024
"""Characters of a signature given as text."""


def parse_signature(text: str) -> Signature:
    """``"void(float32[:, ::1], int32)"`` or ``"(float32[:], int32)"`` as a signature, read with ``ast`` and never evaluated.

    Without a return type it is ``none``. KernelTypeError says which part is not understood.
    """
    parsed = parse_type(text)
    if isinstance(parsed, Tuple):
        return Signature(SCALARS["none"], *parsed.elements)
    if isinstance(parsed, Signature):
        return parsed
    raise KernelTypeError(f"{text!r} is a type, not a signature; a signature looks like 'void(float32[:], int32)'")


def parse_type(text: str) -> Type | Signature:
    """A type or signature from its text; a bare ``(a, b)`` is a Tuple."""
    if len(text) > TEXT_SIZE_MAX:
        raise KernelTypeError(f"a signature of {len(text)} characters is too long (at most {TEXT_SIZE_MAX})")
    try:
        return _from_node(ast.parse(text.strip(), mode="eval").body, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise KernelTypeError(
            f"{text!r} is not a signature ({error}); write for instance 'void(float32[:, ::1], int32)'"
        ) from None


def _type_from(node: ast.expr, depth: int) -> Type:
    found = _from_node(node, depth)
    if isinstance(found, Signature):
        raise KernelTypeError(f"{ast.unparse(node)!r} is a signature where a type must stand")
    return found


def _from_node(node: ast.expr, depth: int) -> Type | Signature:
    if depth > DEPTH_MAX:
        raise KernelTypeError("a signature is nested too deeply")
    match node:
        case ast.Name(id=name) if name in NAMES:
            return NAMES[name]
        case ast.Name(id="voidptr") | ast.Attribute(attr="voidptr"):
            return CPointer(SCALARS["none"])
        case ast.Constant(value=None):
            return SCALARS["none"]
        case ast.Attribute(attr=name, value=ast.Name(id=module)) if name in NAMES and module in MODULES:
            return NAMES[name]
        case ast.Subscript(value=inner, slice=index):
            dimensions = index.elts if isinstance(index, ast.Tuple) else [index]
            return _type_from(inner, depth + 1)[tuple(map(_slice, dimensions))]
        case ast.Tuple(elts=items):
            return Tuple([_type_from(item, depth + 1) for item in items])
        case ast.Call(func=inner, args=arguments, keywords=[]):
            return _from_call(inner, arguments, depth)
    raise KernelTypeError(
        f"{ast.unparse(node)!r} is not a type; known are {', '.join(sorted(set(SCALARS) - set(DATES)))} and arrays such as float32[:, ::1]"
    )


def _from_call(function: ast.expr, arguments: list[ast.expr], depth: int) -> Type | Signature:
    match function, arguments:
        case ast.Name(id="CPointer") | ast.Attribute(attr="CPointer"), [inner]:
            return CPointer(_type_from(inner, depth + 1))
        case ast.Name(id="UniTuple"), [inner, ast.Constant(value=int(count))] if 0 <= count <= COUNT_MAX:
            return UniTuple(_type_from(inner, depth + 1), count)
        case ast.Name(id="Tuple"), [ast.Tuple(elts=items) | ast.List(elts=items)]:
            return Tuple([_type_from(item, depth + 1) for item in items])
    return Signature(_type_from(function, depth + 1), *(_type_from(argument, depth + 1) for argument in arguments))


def _slice(node: ast.expr) -> slice:
    match node:
        case ast.Slice(lower=None, upper=None, step=None):
            return slice(None)
        case ast.Slice(lower=None, upper=None, step=ast.Constant(value=1)):
            return slice(None, None, 1)
    raise KernelTypeError(f"{ast.unparse(node)!r} is not a dimension; write ':' or '::1'")


def encode(kind: Type | Signature) -> Tree:
    """The type as plain values for the wire."""
    match kind:
        case Array():
            return ("readonly" if kind.readonly else "array", encode(kind.dtype), kind.ndim, kind.layout)
        case NestedArray():
            return ("nested", encode(kind.dtype), kind.shape)
        case Record():
            return (
                "record",
                tuple((name, encode(field), offset) for name, field, offset in kind.fields),
                kind.size,
                kind.aligned,
            )
        case NamedTuple():
            return ("named", kind.class_name, kind.fields, tuple(map(encode, kind.elements)))
        case EnumMember():
            return ("enum", kind.class_name, kind.integer, tuple(map(_member_tree, kind.members)))
        case CPointer():
            return ("pointer", encode(kind.dtype))
        case Chars():
            return ("chars", kind.kind, kind.count)
        case Tuple():
            return ("tuple", tuple(map(encode, kind.elements)))
        case Signature():
            return ("signature", encode(kind.return_type), tuple(map(encode, kind.args)))
        case _:
            return kind.name


def _member_tree(member: Member) -> Tree:
    """A member's value as it travels: a complex number as a pair."""
    name, value = member
    return (name, (value.real, value.imag)) if isinstance(value, complex) else (name, value)


def _member(tree: object) -> Member:
    match tree:
        case [str(name), (bool() | int() | float()) as value]:
            return name, value
        case [str(name), [float(real), float(imag)]]:
            return name, complex(real, imag)
    raise RemoteProtocolError("a member of an enum must be [name, number]")


def decode_signature(tree: object) -> Signature:
    """The signature a peer sent. RemoteProtocolError for a malformed one, KernelTypeError for types that cannot be."""
    match tree:
        case ["signature", result, [*arguments]]:
            decoder = _Decoder()
            return Signature(decoder.decode(result, 1), *(decoder.decode(argument, 1) for argument in arguments))
    raise RemoteProtocolError("a kernel's signature must be ['signature', return type, [types]]")


def decode(tree: object) -> Type:
    """The type a peer sent, checked before it is built: depth, count, names, ranges."""
    return _Decoder().decode(tree, 0)


class _Decoder:
    """Counts what one tree holds while it is read."""

    def __init__(self) -> None:
        self._count = 0

    def decode(self, tree: object, depth: int) -> Type:
        self._count += 1
        if depth > DEPTH_MAX or self._count > COUNT_MAX:
            raise RemoteProtocolError(f"a signature has more than {COUNT_MAX} types or {DEPTH_MAX} levels")
        match tree:
            case str():
                if tree not in SCALARS:
                    raise RemoteProtocolError(f"type {tree[:40]!r} is not known")
                return SCALARS[tree]
            case [("array" | "readonly") as word, dtype, int(ndim), str(layout)] if type(ndim) is int:
                return Array(self._element(dtype, depth), ndim, layout, word == "readonly")
            case ["nested", dtype, [*sizes]]:
                shape = tuple(size for size in sizes if type(size) is int)
                if len(shape) == len(sizes):
                    return NestedArray(self._element(dtype, depth), shape)
            case ["record", [*fields], int(size), bool(aligned)] if type(size) is int and 0 < size < 2**31:
                return Record(tuple(self._field(field, size, depth) for field in fields), size, aligned)
            case ["tuple", [*elements]]:
                return Tuple([self.decode(element, depth + 1) for element in elements])
            case ["named", str(name), [*fields], [*elements]] if all(isinstance(field, str) for field in fields):
                return NamedTuple(
                    name, [str(field) for field in fields], [self.decode(item, depth + 1) for item in elements]
                )
            case ["enum", str(name), bool(integer), [*members]]:
                return EnumMember(name, integer, tuple(map(_member, members)))
            case ["chars", ("S" | "U") as kind, int(count)] if type(count) is int:
                return Chars(kind, count)
            case ["pointer", inner]:
                return CPointer(self.decode(inner, depth + 1))
        raise RemoteProtocolError(
            "a type must be a name or one of array, readonly, nested, record, tuple, named, enum, chars, pointer with its fields"
        )

    def _element(self, tree: object, depth: int) -> Type:
        kind = self.decode(tree, depth + 1)
        if not isinstance(kind, Scalar | Chars | Record):
            raise RemoteProtocolError(f"an array cannot hold {kind}")
        return kind

    def _field(self, tree: object, size: int, depth: int) -> tuple[str, Type, int]:
        match tree:
            case [str(name), kind, int(offset)] if type(offset) is int and 0 <= offset < size:
                return name, self.decode(kind, depth + 1), offset
        raise RemoteProtocolError("a record's field must be [name, type, offset]")
