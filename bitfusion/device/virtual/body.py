"""The blocks of a function body in LLVM: instructions, and how control passes from one block to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitfusion.device.virtual import metadata
from bitfusion.device.virtual.builder import constant
from bitfusion.device.virtual.datatypes import U32
from bitfusion.device.virtual.emitter import LAUNCH_POINTER, Emitter
from bitfusion.device.virtual.flow import Block, Branch, End, Graph, Jump, Suspend, Switch, reach, running
from bitfusion.device.virtual.instructions import emit_instruction
from bitfusion.device.virtual.layout import LAUNCH


@dataclass(frozen=True, slots=True)
class Body:
    """How to write the blocks of a graph.

    ``suffix`` tells copies of a block apart, ``end`` is where a finished thread goes.
    """

    emitter: Emitter
    graph: Graph
    suffix: str
    end: str
    results: frozenset[str]
    """Registers that are read after the end."""
    suspend: Callable[[Suspend, Block], None]
    through: str = ""
    """A block whose suspension point is passed."""

    def label(self, name: str) -> str:
        return f'"bb.{name}{self.suffix}"'

    def emit(self, names: list[str]) -> None:
        """Write the blocks ``names``, starting with a jump to the first."""
        for name in names:
            block = self.graph[name]
            self.emitter.label(self.label(name))
            self.emitter.registers.forget()
            for instruction in block.instructions:
                emit_instruction(self.emitter, instruction)
            self._terminate(block)

    def _terminate(self, block: Block) -> None:
        e = self.emitter
        if isinstance(block.terminator, Suspend) and block.name != self.through:
            self.suspend(block.terminator, block)
            return
        live = set(e.liveness.live_out(block))
        match block.terminator:
            case Jump(target) | Suspend(_, target):
                e.registers.store(live)
                self._jump(block.name, target)
            case Branch(predicate, taken, other):
                condition = e.read_pred(predicate)
                e.registers.store(live)
                self._branch(block.name, condition.name, taken, other)
            case Switch(index, targets):
                selector = e.read(index, U32)
                e.registers.store(live)
                if any(self._guarded(block.name, target) for target in targets):
                    self._stop_if_aborted()
                cases = " ".join(f"i32 {value}, label %{self.label(target)}" for value, target in enumerate(targets))
                e.emit(f"switch {selector}, label %{self.label(targets[0])} [{cases}]")
            case End():
                e.registers.store(self.results)
                e.jump(self.end)

    def _branch(self, source: str, condition: str, taken: str, other: str) -> None:
        e = self.emitter
        if not self._guarded(source, taken):
            e.emit(f"br i1 {condition}, label %{self.label(taken)}, label %{self.label(other)}")
            return
        back = e.new_label("back")
        e.emit(f"br i1 {condition}, label %{back}, label %{self.label(other)}")
        e.label(back)
        self._jump(source, taken)

    def _jump(self, source: str, target: str) -> None:
        """A backward jump looks at the abort flag first, so that an endless loop can be stopped."""
        if self._guarded(source, target):
            self._stop_if_aborted()
        self.emitter.jump(self.label(target))

    def _stop_if_aborted(self) -> None:
        e = self.emitter
        flag, going = e.offset(LAUNCH_POINTER, LAUNCH["ABORT"]), e.new_label("going")
        aborted = e.icmp("ne", e.let("i32", f"load atomic i32, {flag} monotonic, align 4"), constant("i32", 0))
        e.branch(aborted, self.end, going, metadata.NEVER)
        e.label(going)

    def _guarded(self, source: str, target: str) -> bool:
        """Whether the jump closes a loop in which no thread stops: at a suspension point the scheduler looks itself."""
        backward = self.graph[target].position <= self.graph[source].position
        return (
            self.emitter.options.watchdog and backward and source in reach([target], running(self.graph, self.through))
        )
