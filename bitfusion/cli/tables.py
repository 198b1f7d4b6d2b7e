"""The tables of ``smi`` and ``top``: the GPUs with their memory as a bar, the leases and sessions on them, the queue.

Which columns are there depends on the width: the least telling ones go first, so that 80 columns are enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bitfusion.cli.view import Gpu, Lease, Pool, Session, Waiter
from bitfusion.cli.words import counted, gpus_text, memory_text, part_text, time_text

IDLE_S = 600
"""From when on an idle lease is marked: ten minutes, the time-out seen with Bitfusion."""

FULL, SOME, NONE = "█", "▓", "░"
"""Of the memory bar: used by sessions, leased and not used, free."""


def pool_tables(pool: Pool, width: int, sort: str = "gpu") -> RenderableType:
    """Everything there is to see, for ``width`` columns. Leases in the order of ``sort``, one of SORTS."""
    parts: list[RenderableType] = [gpu_table(pool, width)]
    if pool.lease_count:
        parts.append(lease_table(pool, width, sort))
    if pool.waiters:
        parts.append(waiter_table(pool.waiters, width))
    return Group(*parts)


def headline(pool: Pool) -> Text:
    """Which pool, and its counts."""
    counts = [gpus_text(len(pool.gpus)), counted(pool.lease_count, "lease")]
    if pool.waiters:
        counts.append(f"{len(pool.waiters)} waiting")
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("bitfusion ", "bold").append(pool.software)
    line.append(f"  {', '.join(pool.servers)}  ", "cyan").append(", ".join(counts))
    return line


# GPUs


def gpu_table(pool: Pool, width: int) -> Table:
    """One row for every GPU."""
    several = len(pool.servers) > 1
    table = _table()
    table.title, table.title_justify, table.title_style = headline(pool), "left", ""
    table.add_column("GPU", justify="right", no_wrap=True)
    if several:
        table.add_column("Server", no_wrap=True, overflow="ellipsis", max_width=max(16, width // 5), style="cyan")
    table.add_column("Name", no_wrap=True, overflow="ellipsis", ratio=1, min_width=8)
    if width >= 160:
        table.add_column("UUID", no_wrap=True, overflow="ellipsis", style="dim")
    bar_width = max(8, min(40, (width - 60 - 20 * several) // 2))
    table.add_column("Memory", no_wrap=True)
    table.add_column("Leased", justify="right", no_wrap=True)
    if width >= 100:
        table.add_column("Used", justify="right", no_wrap=True)
    table.add_column("Util", justify="right", no_wrap=True)
    for name, known in (("Temp", "temperature_c"), ("Power", "power_w")):
        if any(getattr(gpu, known) is not None for gpu in pool.gpus):
            table.add_column(name, justify="right", no_wrap=True)
    for gpu in pool.gpus:
        table.add_row(*_gpu_cells(gpu, pool, several, width, bar_width))
    if not pool.gpus:
        table.add_row(*["-"] * len(table.columns))
    return table


def _gpu_cells(gpu: Gpu, pool: Pool, several: bool, width: int, bar_width: int) -> Iterable[RenderableType]:
    yield str(gpu.index)
    if several:
        yield gpu.server
    yield Text(gpu.name)
    if width >= 160:
        yield gpu.uuid
    yield memory_bar(gpu, bar_width)
    yield f"{memory_text(gpu.leased_size)} / {memory_text(gpu.memory_size)}"
    if width >= 100:
        yield memory_text(gpu.used_size)
    yield Text(part_text(gpu.utilization), _heat(gpu.utilization))
    if any(other.temperature_c is not None for other in pool.gpus):
        yield "" if gpu.temperature_c is None else f"{gpu.temperature_c:.0f} °C"
    if any(other.power_w is not None for other in pool.gpus):
        yield "" if gpu.power_w is None else f"{gpu.power_w:.0f} W"


def memory_bar(gpu: Gpu, width: int) -> Text:
    """What sessions use, what is leased beyond that, what is free. Anything there is shows, if only as one cell."""
    used = _cells(gpu.used_size, gpu.memory_size, width)
    leased = max(_cells(gpu.leased_size, gpu.memory_size, width), used)
    if gpu.leased_size < gpu.memory_size:
        leased = min(leased, width - 1)
        used = min(used, leased)
    bar = Text(no_wrap=True)
    colour = _heat(gpu.leased_size / gpu.memory_size if gpu.memory_size else 0)
    return bar.append(FULL * used, colour).append(SOME * (leased - used), colour).append(NONE * (width - leased), "dim")


def _cells(size: int, whole: int, width: int) -> int:
    if not size or not whole:
        return 0
    return max(1, min(width, round(size / whole * width)))


def _heat(part: float | None) -> str:
    if part is None:
        return ""
    return "green" if part < 0.7 else "yellow" if part < 0.95 else "red"


# leases

LEASE_WIDTHS = {
    "Server": {"max_width": 18},
    "User": {"ratio": 1, "min_width": 8},
    "Program": {"ratio": 2, "min_width": 8},
}

SORTS = ("gpu", "memory", "idle", "user")
"""What ``top`` can sort leases by."""


def lease_table(pool: Pool, width: int, sort: str = "gpu") -> Table:
    """A row for every lease on every GPU, below it one for every session of it; a lease of one session has both in one."""
    several = len(pool.servers) > 1
    table = _table()
    for name, at_least, justify in _lease_columns(several):
        if width >= at_least:
            wide = LEASE_WIDTHS.get(name, {})
            table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", **wide)  # type: ignore[arg-type]  # a width, or nothing
    kept = [at_least <= width for _, at_least, _ in _lease_columns(several)]
    for gpu, lease in _sorted(pool, sort):
        for cells in _lease_rows(gpu, lease, several):
            table.add_row(*(cell for cell, keep in zip(cells, kept, strict=True) if keep))
    return table


def _lease_columns(several: bool) -> tuple[tuple[str, int, str], ...]:
    """Name, the width from which on it is there, and how it is set."""
    return (
        ("Server", 0 if several else 10_000, "left"),
        ("GPU", 0, "right"),
        ("Lease", 100 if several else 76, "left"),
        ("User", 0, "left"),
        ("PID", 70, "right"),
        ("Program", 0, "left"),
        ("Host", 110, "left"),
        ("Used", 0, "right"),
        ("Leased", 0, "right"),
        ("Share", 100, "right"),
        ("Busy", 100, "right"),
        ("Idle", 60, "right"),
        ("Ends in", 110, "right"),
    )


def _sorted(pool: Pool, sort: str) -> list[tuple[Gpu, Lease]]:
    rows = [(gpu, lease) for gpu in pool.gpus for lease in gpu.leases]
    if sort == "memory":
        rows.sort(key=lambda row: -row[1].memory)
    elif sort == "idle":
        rows.sort(key=lambda row: -(row[1].idle_s or 0))
    elif sort == "user":
        rows.sort(key=lambda row: row[1].user)
    return rows


def _lease_rows(gpu: Gpu, lease: Lease, several: bool) -> Iterable[Sequence[RenderableType]]:
    one = lease.sessions[0] if len(lease.sessions) == 1 else None
    yield _lease_cells(gpu, lease, one)
    if one is None:
        for session in lease.sessions:
            yield _session_cells(session)


def _lease_cells(gpu: Gpu, lease: Lease, one: Session | None) -> Sequence[RenderableType]:
    used = sum(session.memory or 0 for session in lease.sessions)
    busy = [session.busy for session in lease.sessions if session.busy is not None]
    return (
        gpu.server,
        str(gpu.index),
        Text(lease.id[:8], "dim"),
        Text(lease.user),
        str(one.pid if one else lease.pid),
        Text(one.program if one else lease.program or "-"),
        Text(lease.hostname),
        memory_text(used),
        memory_text(lease.memory),
        share_text(lease),
        part_text(sum(busy) if busy else None),
        Text(time_text(lease.idle_s), "yellow" if (lease.idle_s or 0) >= IDLE_S else ""),
        time_text(lease.left_s),
    )


def _session_cells(session: Session) -> Sequence[RenderableType]:
    return (
        "",
        "",
        "",
        "",
        str(session.pid),
        Text(f"╶ {session.program}", "dim"),
        "",
        memory_text(session.memory),
        "",
        "",
        part_text(session.busy),
        time_text(session.idle_s),
        "",
    )


def share_text(lease: Lease) -> str:
    """Its weight beside others, and its cap."""
    if lease.exclusive:
        return "alone"
    return f"{lease.weight}" if lease.cap is None else f"{lease.weight}, <= {lease.cap} %"


# the queue


def waiter_table(waiters: Sequence[Waiter], width: int) -> Table:
    """Who waits, in the order in which they will be served."""
    table = _table("Waiting")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("User", no_wrap=True, overflow="ellipsis", max_width=max(8, width // 6))
    table.add_column("Asks for", no_wrap=True, overflow="ellipsis", max_width=max(16, width // 4))
    table.add_column("Since", justify="right", no_wrap=True)
    table.add_column("Why", ratio=1, min_width=10, no_wrap=True, overflow="ellipsis")
    for waiter in waiters:
        table.add_row(
            str(waiter.position), Text(waiter.user), Text(waiter.asked), time_text(waiter.waited_s), Text(waiter.reason)
        )
    return table


def _table(title: str | None = None) -> Table:
    return Table(
        box=box.ROUNDED, title=title, title_justify="left", header_style="bold", border_style="dim", expand=True
    )
