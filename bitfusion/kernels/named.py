"""Named tuples and enums: types that are classes in the program, and classes of the same names and values on the worker.

What travels is names and numbers. The classes are made from these after each has been checked, once for each, so that one type's arguments
and the constants of it that a kernel names have one class.
"""

from __future__ import annotations

import collections
import enum
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.types import NAME_SIZE_MAX, Scalar, Tuple, Type, boolean, complex128, float64, int64, uint64

Number = bool | int | float | complex
Member = tuple[str, Number]

FIELD_COUNT_MAX = 1024
"""Fields of a named tuple, members of an enum."""


def check_name(name: str) -> str:
    """The name, KernelTypeError unless it is a plain identifier that means nothing to Python: classes are made with it."""
    if not name.isidentifier() or name.startswith("_") or len(name) > NAME_SIZE_MAX:
        raise KernelTypeError(f"a class, its fields and members must be named by plain identifiers, not {name[:40]!r}")
    return name


class NamedTuple(Tuple):
    """A tuple whose class is a named one."""

    __slots__ = ("class_name", "fields")

    class_name: str
    fields: tuple[str, ...]

    def __new__(cls, class_name: str, fields: Sequence[str], elements: Sequence[Type]) -> Self:
        if len(fields) != len(elements):
            raise KernelTypeError(f"a named tuple of {len(fields)} fields cannot have {len(elements)} elements")
        tuple_class(class_name, tuple(fields))
        name = f"{class_name}({', '.join(f'{field}: {kind}' for field, kind in zip(fields, elements, strict=True))})"
        self, fresh = cls._make(name, class_name, tuple(fields), *elements)
        if fresh:
            self.class_name, self.fields, self.elements = class_name, tuple(fields), tuple(elements)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedTuple, (self.class_name, self.fields, self.elements)


class EnumMember(Type):
    """A member of an enum class; ``integer`` for one of ``IntEnum``. ``dtype`` is what all its values are."""

    __slots__ = ("class_name", "dtype", "integer", "members")

    class_name: str
    integer: bool
    members: tuple[Member, ...]
    dtype: Scalar

    def __new__(cls, class_name: str, integer: bool, members: Sequence[Member]) -> Self:
        kinds = {_number_type(value) for _, value in members}
        if len(kinds) != 1:
            raise KernelTypeError(
                f"the enum {class_name} has values of several types or none; kernels take those of one"
            )
        enum_class(class_name, integer, tuple(members))
        shown = tuple((name, type(value), value) for name, value in members)  # 1, 1.0 and True are equal
        self, fresh = cls._make(f"enum {class_name}", class_name, integer, shown)
        if fresh:
            self.class_name, self.integer, self.members = class_name, integer, tuple(members)
            (self.dtype,) = kinds
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return EnumMember, (self.class_name, self.integer, self.members)


def _number_type(value: object) -> Scalar:
    match value:
        case bool():
            return boolean
        case int():
            return int64 if -(2**63) <= value < 2**63 else uint64
        case float():
            return float64
        case complex():
            return complex128
    raise KernelTypeError(f"an enum that is an argument of a kernel has numbers as values, not {type(value).__name__}")


def enum_parts(found: enum.EnumMeta) -> tuple[str, bool, tuple[Member, ...]]:
    """What a class is made of: its name, whether it is of ``IntEnum``, its members with their values."""
    by_name: Mapping[str, Any] = found.__members__
    members = tuple((name, member.value) for name, member in by_name.items())
    return found.__name__, issubclass(found, enum.IntEnum), members


def tuple_class(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """The named tuple class of these fields. KernelTypeError for names that cannot be."""
    if len(fields) > FIELD_COUNT_MAX:
        raise KernelTypeError(
            f"a named tuple of {len(fields)} fields is too large for a kernel ({FIELD_COUNT_MAX} at most)"
        )
    for word in (name, *fields):
        check_name(word)
    return _tuple_class(name, fields)


@functools.lru_cache(maxsize=1024)
def _tuple_class(name: str, fields: tuple[str, ...]) -> type[tuple[Any, ...]]:
    try:
        return collections.namedtuple(name, fields)
    except ValueError as error:  # keywords, fields twice
        raise KernelTypeError(f"{name} cannot be a named tuple: {error}") from None


def enum_class(name: str, integer: bool, members: tuple[tuple[str, Any], ...]) -> type[enum.Enum]:
    """The enum class of these members, whose values are numbers or tuples of them. KernelTypeError for what cannot be one."""
    if len(members) > FIELD_COUNT_MAX:
        raise KernelTypeError(
            f"an enum of {len(members)} members is too large for a kernel ({FIELD_COUNT_MAX} at most)"
        )
    for word in (name, *(member for member, _ in members)):
        check_name(word)
    if integer and not all(isinstance(value, int) for _, value in members):
        raise KernelTypeError(f"{name} cannot be an IntEnum: its values must be integers")
    return _enum_class(name, integer, members, repr(members))


@functools.lru_cache(maxsize=1024)
def _enum_class(name: str, integer: bool, members: tuple[tuple[str, Any], ...], shown: str) -> type[enum.Enum]:
    """``shown`` tells members apart that are equal and not the same: 1, 1.0 and True."""
    base: Any = enum.IntEnum if integer else enum.Enum
    try:
        made: type[enum.Enum] = base(name, list(members))
    except (ValueError, TypeError) as error:  # "mro", members twice
        raise KernelTypeError(f"{name} cannot be an enum: {error}") from None
    return made
