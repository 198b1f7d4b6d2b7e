"""Quantities in words, as short as a column of a table wants them."""

from __future__ import annotations

from bitfusion.types import format_size

MIB = 1 << 20


def time_text(seconds: float | None) -> str:
    """The two largest units that matter: ``0.4s``, ``12s``, ``3m5s``, ``2h10m``, ``4d3h``; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for size, unit, below_size, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count}{unit}{rest // below_size}{below}" if rest // below_size else f"{count}{unit}"
    return f"{whole}s"


def part_text(part: float | None) -> str:
    """A part of a whole in per cent; nothing for None."""
    return "" if part is None else f"{part * 100:.0f} %"


def memory_text(size: int | None) -> str:
    """As ``format_size``, with one digit after the point at most; nothing for None."""
    if not size:
        return "" if size is None else "0"
    text = format_size(size)
    number, _, unit = text.partition(" ")
    return f"{round(float(number), 1):g} {unit}"


def mib_text(size: int) -> str:
    """In MiB, as Bitfusion says it in its start-up lines."""
    return f"{size / MIB:.0f} MiB" if size >= MIB else format_size(size)


def gpus_text(count: int) -> str:
    """``1 GPU``, ``2 GPUs``."""
    return counted(count, "GPU")


def counted(count: int, what: str) -> str:
    """``1 lease``, ``2 leases``, ``0 leases``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def shown(text: str, size_max: int = 256) -> str:
    """What a peer wrote, for a terminal: what could move its cursor or forge a line becomes "?"."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:size_max])
