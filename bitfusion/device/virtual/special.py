"""Special registers (PTX ISA, chapter 10): where each value comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from bitfusion.device.virtual.builder import FALSE, Value, constant
from bitfusion.device.virtual.layout import THREADS_MAX, WARP_SIZE

if TYPE_CHECKING:
    from bitfusion.device.virtual.emitter import Emitter

_ZERO: Final = constant("i32", 0)
_ONE: Final = constant("i32", 1)
_CLOCK_REALTIME: Final = 0  # time.h


def special_register(e: Emitter, name: str) -> Value:
    """The value of ``%name`` as i32, i64 or i1."""
    base, _, component = name.partition(".")
    component = component or "x"
    if base in _VECTORS and component in ("x", "y", "z", "w"):
        return _ZERO if component == "w" else _VECTORS[base](e, component)
    if base in _SCALARS:
        return _SCALARS[base](e)
    if base.startswith(("envreg", "pm", "reserved_smem", "current_graph_exec")):
        return _ZERO
    raise e.invalid(f"unknown special register %{name}")


def _named(stem: str) -> Callable[[Emitter, str], Value]:
    """A value the prologue loads."""
    return lambda _, component: Value("i32", f"%{stem}_{component}")


def _tid(e: Emitter, component: str) -> Value:
    return {"x": e.thread.x, "y": e.thread.y, "z": e.thread.z}[component]


_VECTORS: Final[dict[str, Callable[[Emitter, str], Value]]] = {
    "tid": _tid,
    "ntid": _named("ntid"),
    "ctaid": _named("ctaid"),
    "nctaid": _named("nctaid"),
    # every block is a cluster of its own
    "clusterid": _named("ctaid"),
    "nclusterid": _named("nctaid"),
    "cluster_ctaid": lambda _e, _component: _ZERO,
    "cluster_nctaid": lambda _e, _component: _ONE,
}


def lane(e: Emitter) -> Value:
    return e.op("and", e.thread.linear, WARP_SIZE - 1)


def _lanemask(kind: str) -> Callable[[Emitter], Value]:
    """%lanemask_eq and its relatives (PTX ISA, 10.11 to 10.15)."""

    def value(e: Emitter) -> Value:
        equal = e.op("shl", _ONE, lane(e))
        less = e.op("sub", equal, 1)
        less_equal = e.op("or", equal, less)
        match kind:
            case "eq":
                return equal
            case "lt":
                return less
            case "le":
                return less_equal
            case "gt":
                return e.invert(less_equal)
        return e.invert(less)

    return value


def _cycles(e: Emitter) -> Value:
    return e.call_foreign("declare i64 @llvm.readcyclecounter()", "i64")


def _nanoseconds(e: Emitter) -> Value:
    """%globaltimer (PTX ISA, 10.26): nanoseconds since 1970, from the system's clock."""
    time = e.alloca("[2 x i64]")
    e.call_foreign("declare i32 @clock_gettime(i32, ptr)", "i32", f"i32 {_CLOCK_REALTIME}, {time}")
    seconds, rest = e.load("i64", time), e.load("i64", e.offset(time, 8))
    return e.op("add", e.op("mul", seconds, 1_000_000_000), rest)


def _cycles_high(e: Emitter) -> Value:
    return e.field(_cycles(e), 32, "i32")


def _grid_workspace_high(e: Emitter) -> Value:
    """Cooperative groups find the grid's workspace in %envreg1 (high half of the pointer) and %envreg2 (low half)."""
    return e.field(e.grid_workspace(), 32, "i32")


_SCALARS: Final[dict[str, Callable[[Emitter], Value]]] = {
    "laneid": lane,
    "warpid": lambda e: e.op("lshr", e.thread.linear, WARP_SIZE.bit_length() - 1),
    "nwarpid": lambda _e: constant("i32", THREADS_MAX // WARP_SIZE),
    "smid": lambda e: e.block_field("WORKER", "i32"),
    "nsmid": lambda e: e.launch_field("WORKERS", "i32"),
    "gridid": lambda e: e.launch_field("GRID_ID", "i64"),
    "lanemask_eq": _lanemask("eq"),
    "lanemask_lt": _lanemask("lt"),
    "lanemask_le": _lanemask("le"),
    "lanemask_gt": _lanemask("gt"),
    "lanemask_ge": _lanemask("ge"),
    "clock": _cycles,
    "clock64": _cycles,
    "clock_hi": _cycles_high,
    "globaltimer": _nanoseconds,
    "globaltimer_lo": lambda e: e.trunc(_nanoseconds(e), "i32"),
    "globaltimer_hi": lambda e: e.field(_nanoseconds(e), 32, "i32"),
    "dynamic_smem_size": lambda e: e.launch_field("DYNAMIC_SIZE", "i32"),
    "total_smem_size": lambda e: e.launch_field("SHARED_SIZE", "i32"),
    "aggr_smem_size": lambda e: e.launch_field("SHARED_SIZE", "i32"),
    "envreg1": _grid_workspace_high,
    "envreg2": lambda e: e.trunc(e.grid_workspace(), "i32"),
    "cluster_ctarank": lambda _e: _ZERO,
    "cluster_nctarank": lambda _e: _ONE,
    "is_explicit_cluster": lambda _e: FALSE,
}
