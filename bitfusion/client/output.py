"""What kernels print, as text where the program shows it: on its own standard output, or where ``on_output`` takes it."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Callable
from typing import TextIO, TypeAlias

from bitfusion.errors import ConfigError
from bitfusion.session.output import STDERR, STDOUT, Output

OnOutput: TypeAlias = Callable[[str], object]
"""Takes text as it comes: parts of lines, lines, many lines."""


class Screen:
    """Shows a session's ``output``. Letters in UTF-8 that pieces cut apart are put together again."""

    def __init__(self, output: Output, on_output: OnOutput | None = None) -> None:
        self._output = output
        self._on_output = on_output
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {descriptor: decoder("replace") for descriptor in (STDOUT, STDERR)}

    def show(self) -> None:
        """Show what there is. Raises what ``on_output`` raises; standard output that cannot be written to is passed over."""
        while (printed := self._output.pop()) is not None:
            self._show(printed.descriptor, self._decoders[printed.descriptor].decode(printed.data))

    def end(self) -> None:
        """Show what there is and half a letter, should there be one: nothing more will come."""
        self.show()
        for descriptor, decoder in self._decoders.items():
            self._show(descriptor, decoder.decode(b"", final=True))

    def _show(self, descriptor: int, text: str) -> None:
        if text and self._on_output is not None:
            self._on_output(text)
        elif text:
            _write(sys.stdout if descriptor == STDOUT else sys.stderr, text)


def check_on_output(on_output: object) -> OnOutput | None:
    """ConfigError for what cannot take text."""
    if on_output is None or callable(on_output):
        return on_output
    raise ConfigError(f"on_output must be a function that takes text, not {on_output!r}")


def _write(file: TextIO | None, text: str) -> None:
    """Write as a print that never fails: the stream may be closed, of bytes, gone with its reader, or not there (pythonw)."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        try:
            file.write(text)  # type: ignore[union-attr]  # None too
        except UnicodeEncodeError:
            encoding = getattr(file, "encoding", None) or "ascii"
            file.write(text.encode(encoding, "replace").decode(encoding))  # type: ignore[union-attr]  # there, as it cannot encode
