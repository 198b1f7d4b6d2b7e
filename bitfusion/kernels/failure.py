"""What Numba raises, as one error of ours: its message, with the user's own file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import TracebackType

from numba.cuda.core.ir import Loc

from bitfusion.errors import KernelCompileError
from bitfusion.kernels.gate import Accepted
from bitfusion.kernels.places import without_places

HOLDERS = ("loc", "self", "inst", "stmt", "expr")
"""Variables by which Numba's passes hold a place, or something that has one."""

REPLACED = {
    "insert_unresolved_ref": "a device function that calls itself needs a signature: @cuda.jit('int64(int64)', device=True)",
    "set_try_status": "exceptions cannot be caught on a GPU",
}
"""Where Numba fails on a name of its own: what it means."""


RETURNED = re.compile(r"(?:Failed in [^\n]*\n)?No conversion from ([^\n]+) to none for '\$\w*return_value[^\n]*")
"""What Numba says of a kernel that returns a value."""


def failure(error: Exception, kernel: Accepted, names: Mapping[str, str]) -> KernelCompileError:
    """The error to report for ``error``. ``names``: how Numba may have written a file's name, and the user's own."""
    message = str(error).strip() or type(error).__name__
    message = next((text for mark, text in REPLACED.items() if mark in message), message)
    message = RETURNED.sub(
        r"CUDA kernel must have void return type, and this returns \1: write it to an array", message
    )
    places = [*_in_message(message, names), *_in_frames(error.__traceback__, names)]
    file, line, listing = places[0] if places else (kernel.source.file, kernel.tree.lineno, "")
    message = _as_the_user_knows_it(f"{file}:{line}: in {kernel.source.name}: {message}{listing}", names)
    return KernelCompileError(message, file=file, line=line, exception=type(error).__name__)


def _as_the_user_knows_it(message: str, names: Mapping[str, str]) -> str:
    """Files by the user's names for them, Numba's without where they are, and objects without their addresses in this process."""
    for shown, file in names.items():
        message = message.replace(f'"{shown}"', f'"{file}"')
    return re.sub(r" at 0x[0-9a-f]+", "", without_places(message))


def _in_message(message: str, names: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', message):
        if file in names:
            yield names[file], int(line), ""


def _in_frames(traceback: TracebackType | None, names: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """The places Numba was at, the inmost first. Some of its errors carry none (those of a call without an implementation)."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    for frame in reversed(frames):
        for name in HOLDERS:
            held = frame.f_locals.get(name)
            place = held if isinstance(held, Loc) else getattr(held, "loc", None)
            if isinstance(place, Loc) and place.filename in names.values():
                yield place.filename, place.line, f"\n{place.strformat()}"
