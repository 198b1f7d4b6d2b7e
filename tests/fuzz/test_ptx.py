"""Whatever PTX a client sends, the virtual GPU's compiler answers with machine code, or with one of the errors listed here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.device.virtual import jit
from bitfusion.device.virtual.compile import compile_module
from bitfusion.errors import DeviceMemoryError, InvalidValueError, UnsupportedError
from tests.fuzz.mutation import mutated
from tests.fuzz.ptx_corpus import CORPUS, HEADER, WORDS
from tests.kernels.canary import canary

ALLOWED = (InvalidValueError, UnsupportedError, DeviceMemoryError)


def translate(text: str) -> int:
    """Everything up to LLVM, for every kernel of the text; ill-typed operands are LLVM's to find. How many kernels were made."""
    with canary():
        made = list(translated(text))
    for ir in made:
        with suppress(*ALLOWED):
            jit._module(ir)
    return len(made)


def translated(text: str) -> Iterator[str]:
    """The IR of the kernels that can be translated."""
    try:
        module = compile_module(text)
        _ = module.initial_values, module.relocations
    except ALLOWED:
        return
    for name in module.kernels:
        with suppress(*ALLOWED):
            yield module.kernel(name).ir


@pytest.mark.parametrize("text", CORPUS)
def test_the_corpus_is_right(text):
    assert translate(text) == 1


@settings(max_examples=400, deadline=None)
@given(mutated(CORPUS, WORDS))
def test_the_compiler_takes_what_is_nearly_ptx(text):
    translate(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | st.text('0123456789.;{}[]()@%abr,<>"\n/*-+', max_size=200))
def test_the_parser_takes_any_text(text):
    translate(text)
    translate(HEADER + text)


@settings(max_examples=15, deadline=None)
@given(mutated(CORPUS, WORDS))
def test_machine_code_is_made_of_what_is_accepted(text):
    """In a process of its own each, because LLVM ends the process where it finds itself wrong."""
    for ir in translated(text):
        child = os.fork()
        if not child:
            status = 1
            try:
                with suppress(*ALLOWED):
                    jit.compile_ir(ir)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the compiler's process ended with status {status:#x}"
