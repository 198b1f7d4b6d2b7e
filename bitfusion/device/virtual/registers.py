"""PTX registers as LLVM values: a stack slot for each, and a cache of what is known within one basic block.

PTX registers have a size but hardly a type: the same bits are read as f32 and as b32. The cache keeps a value in every
type it was asked for, so that ``mov.b32 %r1, %f1`` costs nothing. Slots are written only when the block ends and the
register is still needed; LLVM's SROA turns them into SSA values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from bitfusion.device.virtual.builder import Builder, Value
from bitfusion.device.virtual.datatypes import BITS_OF_LLVM, Type
from bitfusion.errors import InvalidValueError

Views = dict[str, Value]


class RegisterFile:
    """The registers of one function under construction."""

    def __init__(self, builder: Builder, types: Mapping[str, Type]) -> None:
        self._builder = builder
        self._types = types
        self._views: dict[str, Views] = {}
        self._dirty: dict[str, None] = {}
        self._slots: dict[str, str] = {}

    def storage(self, name: str) -> str:
        """The LLVM type a register is kept in."""
        datatype = self._types.get(name)
        if datatype is None:
            raise InvalidValueError(f"register {name} is not declared")
        return datatype.storage

    def get(self, name: str, type_: str) -> Value:
        """The register's bits as an LLVM type: the low ones if it is narrower, with zeros above if it is wider."""
        views = self._views.get(name)
        if views is None:
            storage = self.storage(name)
            views = self._views[name] = {storage: self._builder.load(storage, self._slot(name))}
        if type_ not in views:
            bits = BITS_OF_LLVM[type_]
            nearest = next((view for view in views.values() if view.bits == bits), next(iter(views.values())))
            views[type_] = self._builder.bits(nearest, type_)
        return views[type_]

    def known_type(self, name: str) -> str:
        """An LLVM type the register can be had in for nothing."""
        views = self._views.get(name)
        return next(iter(views)) if views else self.storage(name)

    def set(self, name: str, value: Value, signed: bool = False) -> None:
        """Write a value; a narrower one is extended, a wider one cut (PTX ISA, 9.4.1 "Operand Size Exceeding
        Instruction-Type Size").
        """
        bits = BITS_OF_LLVM[self.storage(name)]
        builder = self._builder
        if value.bits < bits:
            value = builder.extend(builder.bitcast(value, f"i{value.bits}"), f"i{bits}", signed)
        elif value.bits > bits:
            value = builder.bits(value, f"i{bits}")
        self._views[name] = {value.type: value}
        self._dirty[name] = None

    def store(self, needed: Collection[str] | None = None) -> None:
        """Write changed registers (of those ``needed``, if given) to their slots."""
        for name in self._dirty:
            if needed is None or name in needed:
                self._builder.store(self.get(name, self.storage(name)), self._slot(name))
        self._dirty = {}

    def forget(self) -> None:
        """A new basic block begins: nothing is known."""
        self._views = {}
        self._dirty = {}

    def known(self) -> dict[str, Views]:
        """What is known now, to go back to with ``restore`` after code that may not have run."""
        return {name: dict(views) for name, views in self._views.items()}

    def restore(self, known: dict[str, Views], except_for: Iterable[str]) -> None:
        self._views = known
        for name in except_for:
            self._views.pop(name, None)

    def allocas(self) -> list[str]:
        """The slots that were used, as lines for the top of the function.

        Zeros: what LLVM knows to be undefined may be one value for a check and another for the access behind it.
        """
        made = [f'  %"R{name}" = alloca {type_}' for name, type_ in self._slots.items()]
        return made + [f'  store {type_} zeroinitializer, ptr %"R{name}"' for name, type_ in self._slots.items()]

    def _slot(self, name: str) -> Value:
        self._slots.setdefault(name, self.storage(name))
        return Value("ptr", f'%"R{name}"')
