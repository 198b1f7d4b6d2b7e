"""numba.cuda.extending, whose decorators teach Numba's compiler: the compiler is the appliance's, and takes no Python to run in itself.

Each says so, and what to write instead, when it is used, so that a module that only imports them can be imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from bitfusion.cuda.refused import refuse

FUNCTIONS = (
    "write a @cuda.jit(device=True) function and call it; it is compiled for each of the types it is called with"
)
CODE = "write a @cuda.jit(device=True) function, or declare one of CUDA C++ or PTX with cuda.declare_device(name, signature, link=...)"
TYPES = "pass the object's parts as arrays, records, named tuples or numbers"

INSTEAD = {
    **dict.fromkeys(("overload", "overload_method", "overload_attribute", "overload_classmethod"), FUNCTIONS),
    "register_jitable": FUNCTIONS,
    **dict.fromkeys(("intrinsic", "lower_builtin", "lower_cast", "type_callable", "infer", "infer_getattr"), CODE),
    **dict.fromkeys(("lower_getattr", "lower_getattr_generic", "lower_setattr", "lower_setattr_generic"), TYPES),
    **dict.fromkeys(("register_model", "make_attribute_wrapper", "typeof_impl", "as_numba_type"), TYPES),
    **dict.fromkeys(("box", "unbox", "reflect"), TYPES),
}
"""What a program does without each."""


def _refused(name: str) -> Callable[..., NoReturn]:
    def function(*arguments: Any, **keywords: Any) -> NoReturn:
        refuse(
            f"numba.cuda.extending.{name} runs Python inside the compiler, which is the appliance's: {INSTEAD[name]}",
            f"extending.{name}",
        )

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"UnsupportedError: {INSTEAD[name]}."
    function.register = function  # type: ignore[attr-defined]  # typeof_impl.register(type)
    return function


globals().update({name: _refused(name) for name in INSTEAD})

__all__ = list(INSTEAD)
