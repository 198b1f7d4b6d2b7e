"""PTX text -> syntax: the body of a function (PTX ISA, 4.2 "Statements" and chapter 6 "Instruction Operands")."""

from __future__ import annotations

import re
from dataclasses import replace

from bitfusion.device.virtual.datatypes import PRED, TYPES
from bitfusion.device.virtual.effects import CARRY, STACK_FRAME, YIELD
from bitfusion.device.virtual.parse_constant import begins_constant, parse_constant, parse_offset
from bitfusion.device.virtual.parse_declaration import VARIABLE_COUNT_MAX, parse_variables
from bitfusion.device.virtual.syntax import (
    Address,
    Call,
    Discard,
    Function,
    Immediate,
    Instruction,
    Label,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    SpecialRegister,
    Symbol,
    Vector,
)
from bitfusion.device.virtual.tokens import Tokens

REGISTER_COUNT_MAX = 1 << 20
"""Registers of all functions of a module; the largest kernels known to us have some ten thousand."""

SCOPE_DEPTH_MAX = 64

_NUMBERED = re.compile(r"envreg\d+|pm\d(_64)?")
_COMPONENTS = "xyzw"
_COLOURS = {"r": "x", "g": "y", "b": "z", "a": "w"}
_TABLES = (".callprototype", ".branchtargets", ".calltargets")

_SPECIAL_REGISTERS = frozenset(
    [
        "tid",
        "ntid",
        "ctaid",
        "nctaid",
        "laneid",
        "warpid",
        "nwarpid",
        "smid",
        "nsmid",
        "gridid",
        "clock",
        "clock64",
        "clock_hi",
        "globaltimer",
        "globaltimer_lo",
        "globaltimer_hi",
        "lanemask_eq",
        "lanemask_lt",
        "lanemask_le",
        "lanemask_gt",
        "lanemask_ge",
        "dynamic_smem_size",
        "total_smem_size",
        "aggr_smem_size",
        "clusterid",
        "nclusterid",
        "cluster_ctaid",
        "cluster_nctaid",
        "cluster_ctarank",
        "cluster_nctarank",
        "current_graph_exec",
        "is_explicit_cluster",
        "reserved_smem_offset_begin",
        "reserved_smem_offset_end",
        "reserved_smem_offset_cap",
    ]
)


def is_special_register(token: str) -> bool:
    """Whether ``%name`` or ``%name.x`` is a special register (PTX ISA, chapter 10)."""
    name = token[1:].partition(".")[0]
    if name in _SPECIAL_REGISTERS or name.startswith("reserved_smem"):
        return True
    return bool(_NUMBERED.fullmatch(name))


class BodyParser:
    """Fills ``function`` with its body.

    Names declared in inner scopes get a suffix, so that the result needs no scopes.
    """

    def __init__(self, tokens: Tokens, module: Module, function: Function) -> None:
        self.tokens = tokens
        self.module = module
        self.function = function
        self.body: list[Instruction | Label] = []
        self._scopes: list[dict[str, str]] = [{}]
        self._renamed = 0
        self._has_frame = False
        self._vectors: dict[str, int] = {}

    def parse(self) -> None:
        self.function.registers[CARRY] = PRED
        for parameter in self.function.parameters + self.function.results:
            if parameter.space == "reg":
                self.function.registers[parameter.name] = parameter.type
        self.tokens.expect("{")
        self.function.body = self.body
        self._scope()

    # scopes
    def _scope(self) -> None:
        """Statements up to the closing brace."""
        while not self.tokens.accept("}"):
            self._statement()

    def _inner_scope(self) -> None:
        if len(self._scopes) > SCOPE_DEPTH_MAX:
            self.tokens.fail("scopes are nested too deeply")
        self._scopes.append({})
        self._declare_labels()
        self._scope()
        self._scopes.pop()

    def _declare_labels(self) -> None:
        """Labels may be used before they stand in the text: look for those of the scope that begins here."""
        depth, ahead = 1, 0
        while depth and (token := self.tokens.peek(ahead)):
            depth += (token == "{") - (token == "}")
            ahead += 1
            if depth == 1 and token not in "{};" and self.tokens.peek(ahead) == ":":
                self._declare(token)

    def _declare(self, name: str) -> str:
        if len(self._scopes) == 1:
            return name
        self._renamed += 1
        unique = f"{name}.{self._renamed}"
        self._scopes[-1][name] = unique
        return unique

    def _resolve(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return name

    # statements
    def _statement(self) -> None:
        token = self.tokens.peek()
        match token:
            case "{":
                self.tokens.next()
                self._inner_scope()
            case ".reg":
                self._registers()
            case ".local" | ".shared" | ".param" | ".global" | ".const":
                self._variables()
            case ".loc":
                self._location()
            case ".pragma" | ".file":
                self.tokens.skip_past(";")
            case ";":
                self.tokens.next()
            case _ if self.tokens.peek(1) == ":":
                self._label()
            case _:
                self.body.append(self._instruction())

    def _registers(self) -> None:
        """``.reg .b32 %r<10>;`` or ``.reg .v4 .f32 v;`` (PTX ISA, 5.1.1)"""
        self.tokens.next()
        vector_size, datatype = 1, None
        while self.tokens.peek().startswith("."):
            token = self.tokens.next()[1:]
            if token in ("v2", "v4"):
                vector_size = int(token[1:])
            elif token in TYPES:
                datatype = TYPES[token]
        if datatype is None:
            self.tokens.fail("registers need a type")
        registers = self.function.registers
        while True:
            names = self._register_names()
            self.module.register_count += len(names) * vector_size
            for name in names:
                unique = self._declare(name)
                if vector_size == 1:
                    registers[unique] = datatype
                else:
                    self._vectors[unique] = vector_size
                    registers.update((f"{unique}.{component}", datatype) for component in _COMPONENTS[:vector_size])
            if self.module.register_count > REGISTER_COUNT_MAX:
                self.tokens.fail("too many registers")
            if not self.tokens.accept(","):
                break
        self.tokens.expect(";")

    def _register_names(self) -> list[str]:
        name = self.tokens.name()
        if not self.tokens.accept("<"):
            return [name]
        count = self.tokens.integer()
        self.tokens.expect(">")
        if not 0 <= count <= REGISTER_COUNT_MAX:
            self.tokens.fail("too many registers")
        return [f"{name}{index}" for index in range(count)]

    def _variables(self) -> None:
        for variable in parse_variables(self.tokens):
            if len(self.function.variables) >= VARIABLE_COUNT_MAX:
                self.tokens.fail("too many variables")
            if variable.space in ("local", "param"):
                unique = self._declare(variable.name)
                self.function.variables[unique] = replace(variable, name=unique)
            elif len(self.module.variables) >= VARIABLE_COUNT_MAX:
                self.tokens.fail("too many variables")
            else:  # one object per module, however often the function is inlined
                unique = f"{self.function.name}::{variable.name}"
                self._scopes[-1][variable.name] = unique
                self.module.variables[unique] = replace(variable, name=unique)

    def _location(self) -> None:
        """``.loc 1 23 5, function_name label+8, inlined_at 1 2 3`` (PTX ISA, 11.5.2): faults name lines of the PTX
        text, so skipped.
        """
        for _ in range(4):
            self.tokens.next()
        if self.tokens.accept(","):
            self.tokens.next()
            self.tokens.name()
            parse_offset(self.tokens)
            self.tokens.expect(",")
            for _ in range(4):
                self.tokens.next()

    def _label(self) -> None:
        name = self._resolve(self.tokens.name())
        self.tokens.expect(":")
        kind = self.tokens.peek()
        if kind not in _TABLES:
            self.body.append(Label(name))
            return
        self.tokens.next()
        targets = []
        while (token := self.tokens.next()) != ";":
            if kind == ".branchtargets" and token != ",":
                targets.append(self._resolve(token))
        if kind == ".branchtargets":
            self.function.branch_targets[name] = tuple(targets)

    def _instruction(self) -> Instruction:
        line = self.tokens.line
        predicate: Register | Negated | None = None
        if self.tokens.accept("@"):
            negated = self.tokens.accept("!")
            name = self._register()
            predicate = Negated(name) if negated else Register(name)
        opcode, *modifiers = self.tokens.name().split(".")
        call: Call | None = None
        operands: tuple[Operand, ...] = ()
        if opcode == "call":
            call = self._call()
        elif self.tokens.peek() != ";":
            operands = tuple(self._operands())
        self.tokens.expect(";")
        self._prepare(opcode, modifiers, line)
        return Instruction(opcode, tuple(modifiers), operands, predicate, line, call)

    def _prepare(self, opcode: str, modifiers: list[str], line: int) -> None:
        """What must happen before some instructions (see ``effects``)."""
        if opcode == "mbarrier" and ("test_wait" in modifiers or "try_wait" in modifiers):
            self.body.append(Instruction(YIELD, (), (), None, line))
        elif opcode == "alloca" and self.function.entry and not self._has_frame:
            self._has_frame = True
            self.body.insert(0, Instruction(STACK_FRAME, (), (), None, line))

    def _call(self) -> Call:
        """``(results), target, (arguments), prototype`` (PTX ISA, 9.7.12.5)"""
        results: tuple[Operand, ...] = ()
        if self.tokens.peek() == "(":
            results = self._call_list()
            self.tokens.expect(",")
        target = self._name()
        arguments: tuple[Operand, ...] = ()
        if self.tokens.accept(","):
            if self.tokens.peek() == "(":
                arguments = self._call_list()
                if self.tokens.accept(","):
                    self.tokens.name()
            else:
                self.tokens.name()
        return Call(results, target, arguments)

    def _call_list(self) -> tuple[Operand, ...]:
        items: list[Operand] = []
        self.tokens.expect("(")
        while not self.tokens.accept(")"):
            items.append(self._operand())
            if self.tokens.peek() != ")":
                self.tokens.expect(",")
        return tuple(items)

    # operands
    def _operands(self) -> list[Operand]:
        operands = [self._any_operand()]
        while self.tokens.accept(","):
            operands.append(self._any_operand())
        return operands

    def _any_operand(self) -> Operand:
        if self.tokens.accept("["):
            return self._address()
        operand = self._vector() if self.tokens.peek() == "{" else self._operand()
        if isinstance(operand, Register) and self.tokens.peek() in ("+", "-"):
            return self._sum(operand)
        if self.tokens.accept("|"):
            return Pair(operand, self._operand())
        return operand

    def _sum(self, register: Register) -> Register:
        """``%r1 + 4`` as a value: an addition of its own in front of the instruction."""
        line, datatype = self.tokens.line, self.function.registers[register.name]
        if datatype.kind not in "bus" or datatype.size not in (2, 4, 8):
            self.tokens.fail(f"a constant cannot be added to a .{datatype.name} register here")
        total = Register(f"{register.name}+{len(self.body)}.{self._renamed}")
        self._renamed += 1
        self.function.registers[total.name] = datatype
        operands = (total, register, Immediate(parse_offset(self.tokens)))
        self.body.append(Instruction("add", (f"u{datatype.bits}",), operands, None, line))
        return total

    def _address(self) -> Address:
        """``[base+offset]``, or ``[array, {x, y}]`` of the texture instructions as a vector"""
        if self.tokens.peek() == "{":
            base: Operand = self._vector()
        else:
            base = self._operand()
        if self.tokens.peek() == ",":
            items = [base]
            while self.tokens.accept(","):
                items.append(self._vector() if self.tokens.peek() == "{" else self._operand())
            base = Vector(tuple(items))
        offset = parse_offset(self.tokens)
        if isinstance(base, Symbol):
            base, offset = Symbol(base.name), offset + base.offset
        self.tokens.expect("]")
        return Address(base, offset)

    def _vector(self) -> Vector:
        self.tokens.expect("{")
        items = [self._operand()]
        while self.tokens.accept(","):
            items.append(self._operand())
        self.tokens.expect("}")
        return Vector(tuple(items))

    def _operand(self) -> Operand:
        token = self.tokens.peek()
        if token == "!" and self.tokens.peek(1)[:1] not in "(0123456789":
            self.tokens.next()
            return Negated(self._register())
        if begins_constant(token):
            return parse_constant(self.tokens)
        if token == "_":
            self.tokens.next()
            return Discard()
        if token == "WARP_SZ":
            self.tokens.next()
            return Immediate(32)
        return self._name()

    def _name(self) -> Operand:
        """A register, a special register or a symbol with its constant."""
        token = self.tokens.name()
        name = self._resolve(token)
        registers = self.function.registers
        if name in registers:
            return Register(name)
        if name in self._vectors:
            return Vector(tuple(Register(f"{name}.{component}") for component in _COMPONENTS[: self._vectors[name]]))
        base, dot, component = token.rpartition(".")
        if dot and self._resolve(base) in self._vectors:
            name = f"{self._resolve(base)}.{_COLOURS.get(component, component)}"
            if name not in registers:
                self.tokens.fail(f"{base} has no component {component}")
            return Register(name)
        if token[0] == "%":
            if is_special_register(token):
                return SpecialRegister(token[1:])
            self.tokens.fail(f"register {token} is not declared")
        return Symbol(name, parse_offset(self.tokens))

    def _register(self) -> str:
        """The name of a register that must be declared."""
        token = self.tokens.name()
        name = self._resolve(token)
        if name not in self.function.registers:
            self.tokens.fail(f"register {token} is not declared")
        return name
