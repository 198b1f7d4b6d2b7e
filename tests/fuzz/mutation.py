"""Texts that are nearly right: real ones with a few tokens or statements changed, which get past the first check to the next.

A token's place is mostly taken by one of its own kind (a register, an opcode, a number, a directive), seldom by any other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

TOKEN = re.compile(r'\s+|//[^\n]*|"[^"]*"|[\w$.%]+|.', re.DOTALL)

NUMBERS = ("0", "1", "3", "8", "16", "255", "65536", "2147483648", "4294967295", "18446744073709551615", "9" * 40)
"""Values at which sizes, counts, offsets and alignments go wrong."""


def kind(token: str) -> str:
    """What may take a token's place: the same kind of word; signs are of the kind of their own."""
    if token[0].isdigit():
        return "number"
    if token[0] in "%.":
        return token[0]
    if token[0].isalpha() or token[0] in "_$":
        return "dotted" if "." in token else "word"
    return "sign"


class Mutation:
    """Changes of the tokens and lines of one text."""

    def __init__(self, draw: st.DrawFn, text: str, pool: dict[str, list[str]], lines: Sequence[str]) -> None:
        self.draw, self.pool, self.strange = draw, pool, lines
        self.lines = text.splitlines()

    def line(self) -> None:
        """Without a line, one twice, two in each other's place, or one from elsewhere."""
        index = self.draw(st.integers(0, len(self.lines) - 1))
        match self.draw(st.integers(0, 3)):
            case 0:
                self.lines[index] = ""
            case 1:
                self.lines.insert(index, self.lines[index])
            case 2:
                other = self.draw(st.integers(0, len(self.lines) - 1))
                self.lines[index], self.lines[other] = self.lines[other], self.lines[index]
            case 3:
                self.lines.insert(index, self.draw(st.sampled_from(self.strange)))

    def token(self) -> None:
        """Another token of the same kind; one in eight times any, or none."""
        filled = [index for index, line in enumerate(self.lines) if line.strip()]
        if not filled:
            return
        at = self.draw(st.sampled_from(filled))
        parts = TOKEN.findall(self.lines[at])
        index = self.draw(st.sampled_from([index for index, part in enumerate(parts) if not part.isspace()]))
        chosen = kind(parts[index])
        how = self.draw(st.integers(0, 15))
        if how == 0:
            parts[index] = ""
        elif how == 1:
            parts[index] = self.draw(st.sampled_from(self.pool[self.draw(st.sampled_from(sorted(self.pool)))]))
        elif chosen == "dotted" and how < 9:
            parts[index] = self.modified(parts[index])
        elif chosen != "sign":
            parts[index] = self.draw(st.sampled_from(self.pool[chosen]))
        self.lines[at] = "".join(parts)

    def modified(self, token: str) -> str:
        """``add.s32`` with another last part or one more: what an instruction does not have."""
        parts = token.split(".")
        index = self.draw(st.integers(1, len(parts)))
        parts[index : index + self.draw(st.integers(0, 1))] = [self.draw(st.sampled_from(self.pool["modifier"]))]
        return ".".join(parts)


def mutated(corpus: Sequence[str], words: Iterable[str] = (), changes: int = 4) -> st.SearchStrategy[str]:
    """Texts of the corpus after up to ``changes`` changes; new tokens are numbers, ``words``, and tokens of all texts."""
    found = {token for text in corpus for token in TOKEN.findall(text) if not token.isspace()} | {*words, *NUMBERS}
    pool = defaultdict(list)
    for token in sorted(found):
        pool[kind(token)].append(token)
    pool["modifier"] = sorted({part for token in pool["dotted"] for part in token.split(".")[1:]})
    lines = sorted({line for text in corpus for line in text.splitlines() if line.strip()})

    @st.composite
    def changed(draw: st.DrawFn) -> str:
        mutation = Mutation(draw, draw(st.sampled_from(corpus)), pool, lines)
        for _ in range(draw(st.integers(1, changes))):
            draw(st.sampled_from([mutation.line, mutation.token, mutation.token]))()
        text = "\n".join(mutation.lines)
        return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 20)) == 0 else text

    return changed()
