"""PTX text -> syntax: declarations of a module (PTX ISA, chapters 5 and 11). Function bodies are read by parse_body."""

from __future__ import annotations

from dataclasses import replace

from bitfusion.device.virtual.parse_body import BodyParser
from bitfusion.device.virtual.parse_declaration import VARIABLE_COUNT_MAX, parse_parameter, parse_variables
from bitfusion.device.virtual.syntax import Declaration, Function, Module
from bitfusion.device.virtual.tokens import Tokens, syntax_error

_LINKAGE = {".visible", ".extern", ".weak", ".common"}
_SPACES = {".global", ".const", ".shared", ".local", ".param"}
_FLAG_DIRECTIVES = {"noreturn", "blocksareclusters", "explicitcluster"}


def parse(text: str) -> Module:
    """The module a PTX text describes. Raises InvalidValueError with the line of the first mistake."""
    return ModuleParser(text).module()


class ModuleParser:
    """Reads one module, statement by statement."""

    def __init__(self, text: str) -> None:
        self.tokens = Tokens(text)
        self.result = Module()
        self._aliases: dict[str, str] = {}

    def module(self) -> Module:
        while token := self.tokens.peek():
            match token:
                case ".version" | ".address_size":
                    self.tokens.next()
                    self.tokens.next()
                case ".target":
                    self._list()
                case ".file":
                    self._list()
                case ".section":
                    self._section()
                case ".pragma":
                    self.tokens.skip_past(";")
                case ".alias":
                    self._alias()
                case ";":
                    self.tokens.next()
                case _:
                    self._declaration()
        for name, target in self._aliases.items():
            self._resolve_alias(name, target)
        return self.result

    def _alias(self) -> None:
        """``.alias name, function;`` (PTX ISA, 5.4.8): ``name`` is declared, ``function`` may be defined later."""
        self.tokens.next()
        name = self.tokens.name()
        self.tokens.expect(",")
        self._aliases[name] = self.tokens.name()
        self.tokens.expect(";")

    def _resolve_alias(self, name: str, target: str) -> None:
        function = self.result.functions.get(target)
        if function is None or function.body is None or function.entry:
            raise syntax_error(0, f"alias {name} names no function: {target}")
        self.result.functions[name] = replace(function, name=name)

    def _list(self) -> None:
        """A directive whose operands are separated by commas or stand side by side: .target a, b or .file 1 "name"."""
        self.tokens.next()
        self.tokens.next()
        while self.tokens.accept(",") or self.tokens.peek().startswith('"'):
            self.tokens.next()

    def _section(self) -> None:
        """Debug information (PTX ISA, 11.5.3): skipped."""
        self.tokens.skip_past("{")
        depth = 1
        while depth:
            token = self.tokens.next()
            depth += (token == "{") - (token == "}")

    def _declaration(self) -> None:
        linkage = ""
        while self.tokens.peek() in _LINKAGE or self.tokens.peek() in (".unified", ".managed"):
            token = self.tokens.next()
            linkage = linkage or token[1:]
        token = self.tokens.peek()
        if token in (".entry", ".func"):
            self._function()
        elif token in _SPACES:
            for variable in parse_variables(self.tokens, linkage):
                if len(self.result.variables) >= VARIABLE_COUNT_MAX:
                    self.tokens.fail("too many variables")
                known = self.result.variables.get(variable.name)
                if known is None or known.linkage == "extern":
                    self.result.variables[variable.name] = variable
        else:
            self.tokens.fail(f"unexpected {token!r}")

    def _function(self) -> None:
        entry = self.tokens.next() == ".entry"
        while self.tokens.peek() == ".attribute":
            self.tokens.skip_past(")")
        results = [] if entry else self._parameters()
        function = Function(self.tokens.name(), entry, results, self._parameters())
        self._directives(function)
        if not self.tokens.accept(";"):
            BodyParser(self.tokens, self.result, function).parse()
        known = self.result.functions.get(function.name)
        if known is None or known.body is None:
            self.result.functions[function.name] = function

    def _parameters(self) -> list[Declaration]:
        found: list[Declaration] = []
        if self.tokens.accept("("):
            while not self.tokens.accept(")"):
                found.append(parse_parameter(self.tokens))
                if not self.tokens.accept(",") and self.tokens.peek() != ")":
                    self.tokens.fail(f"expected ',' or ')', found {self.tokens.peek()!r}")
        return found

    def _directives(self, function: Function) -> None:
        """Performance-tuning directives between a kernel's parameters and its body (PTX ISA, 11.4)."""
        while self.tokens.peek().startswith("."):
            name = self.tokens.next()[1:]
            if name in _FLAG_DIRECTIVES:
                function.directives[name] = ()
            elif name == "pragma":
                self.tokens.next()
                self.tokens.accept(";")
            else:
                values = [self.tokens.integer()]
                while self.tokens.accept(","):
                    values.append(self.tokens.integer())
                function.directives[name] = tuple(values)
