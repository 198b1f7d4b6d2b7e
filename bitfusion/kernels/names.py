"""The allow-list: every name from outside that a kernel may refer to, by its dotted path. Both sides read it.

A kernel sees ``math``, ``cmath`` and ``operator``, NumPy's scalar types and elementwise functions, Numba's types, the device side
of ``numba.cuda``, and some of Python's builtins. Nothing that acts on the host is in it: Numba evaluates attributes of modules while
it compiles, so what is not listed here must not even be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitfusion.kernels.types import NAMES as TYPE_NAMES


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MATH = _words(
    "acos acosh asin asinh atan atan2 atanh ceil copysign cos cosh degrees e erf erfc exp exp2 expm1 fabs floor fmod frexp"
    " gamma hypot inf isfinite isinf isnan ldexp lgamma log log10 log1p log2 modf nan nextafter pi pow radians remainder sin"
    " sinh sqrt tan tanh tau trunc"
)

CMATH = _words(
    "acos acosh asin asinh atan atanh cos cosh e exp inf infj isfinite isinf isnan log log10 nan nanj phase pi polar rect"
    " sin sinh sqrt tan tanh tau"
)

OPERATOR = _words(
    "add and_ eq floordiv ge getitem gt iadd iand ifloordiv ilshift imod imul invert ior ipow irshift is_ is_not isub"
    " itruediv ixor le lshift lt mod mul ne neg not_ or_ pos pow rshift setitem sub truediv xor"
)

NUMPY_TYPES = _words(
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp uintp byte ubyte short ushort intc uintc int_ uint longlong"
    " ulonglong float16 float32 float64 half single double complex64 complex128 csingle cdouble"
)

NUMPY_ARRAYS = _words(
    "all any argmax argmin average count_nonzero mean nanmean nanprod nanstd nansum nanvar prod searchsorted shape size std sum var"
)
"""What takes an array and gives a number, or its shape; one thread does it, without memory of its own."""

NUMPY = (NUMPY_TYPES | NUMPY_ARRAYS) | _words(
    "acos acosh angle arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh bitwise_and"
    " bitwise_not bitwise_or bitwise_xor conj conjugate cos cosh deg2rad degrees divide e equal euler_gamma"
    " fmax fmin greater greater_equal hypot imag inf invert isnan left_shift less less_equal log log10 log2 logical_and logical_not"
    " logical_or logical_xor maximum minimum nan newaxis not_equal pi rad2deg radians real right_shift sin sinc sinh tan tanh true_divide"
)
"""What Numba's CUDA target has for numbers (numba/cuda/ufuncs.py): far from all that its typing knows. A test compiles each."""

INSTEAD: Mapping[str, str] = {
    **{
        f"numpy.{name}": f"math.{name}(x)"
        for name in _words("ceil exp exp2 expm1 fabs floor isfinite isinf log1p sqrt trunc")
    },
    **{f"numpy.{name}": f"math.{name}(x, y)" for name in _words("copysign fmod nextafter")},
    "numpy.ldexp": "math.ldexp(x, 3)",
    "numpy.abs": "abs(x)",
    "numpy.absolute": "abs(x)",
    "numpy.add": "x + y",
    "numpy.cbrt": "cuda.cbrt(x)",
    "numpy.float_power": "x ** y",
    "numpy.floor_divide": "x // y",
    "numpy.logaddexp": "max(x, y) + math.log1p(math.exp(-abs(x - y)))",
    "numpy.logaddexp2": "max(x, y) + math.log2(1 + math.exp2(-abs(x - y)))",
    "numpy.mod": "x % y",
    "numpy.multiply": "x * y",
    "numpy.negative": "-x",
    "numpy.positive": "+x",
    "numpy.power": "x ** y",
    "numpy.reciprocal": "1 / x",
    "numpy.remainder": "x % y",
    "numpy.rint": "cuda.libdevice.rint(x)",
    "numpy.round": "round(x)",
    "numpy.sign": "(x > 0) - (x < 0)",
    "numpy.signbit": "math.copysign(1.0, x) < 0",
    "numpy.spacing": "math.nextafter(x, math.inf) - x",
    "numpy.square": "x * x",
    "numpy.subtract": "x - y",
    "operator.abs": "abs(x)",
    "operator.truth": "bool(x)",
}
"""Functions that people write in kernels and Numba's CUDA target does not have, and what does the same there."""

_MAKES_ARRAY = (
    "kernels make no arrays on a heap; cuda.local.array(shape, dtype) makes one for each thread, cuda.shared.array(shape, dtype) one for"
    " each block, both with a constant shape and with whatever is there"
)
_IS_A_DATE = "Numba makes no dates and times in kernels; give it a name outside, which is a constant in the kernel"

ADVICE: Mapping[str, str] = {
    **{path: f"Numba's CUDA target does not have it; write {instead}" for path, instead in INSTEAD.items()},
    **{
        f"numpy.{name}": _MAKES_ARRAY
        for name in _words(
            "arange array asarray ascontiguousarray copy empty empty_like eye full full_like identity linspace ndarray ones ones_like"
            " zeros zeros_like"
        )
    },
    **dict.fromkeys(("numpy.datetime64", "numpy.timedelta64"), _IS_A_DATE),
}
"""What is said of those, and of what has no expression that does the same."""

CUDA = _words(
    "activemask all_sync any_sync ballot_sync blockDim blockIdx brev cbrt clz eq_sync ffs fma grid gridDim gridsize laneid"
    " lanemask_lt ldca ldcg ldcs ldcv ldlu match_all_sync match_any_sync nanosleep popc selp shfl_down_sync shfl_sync"
    " shfl_up_sync shfl_xor_sync stcg stcs stwb stwt syncthreads syncthreads_and syncthreads_count syncthreads_or syncwarp"
    " threadIdx threadfence threadfence_block threadfence_system warpsize"
)

VECTORS = frozenset(
    [f"{sign}int{bits}x{count}" for sign in ("", "u") for bits in (8, 16, 32, 64) for count in range(1, 5)]
    + [f"float{bits}x{count}" for bits in (32, 64) for count in range(1, 5)]
    + [
        f"{sign}{word}{count}"
        for sign in ("", "u")
        for word in ("char", "short", "int", "long", "longlong")
        for count in range(1, 5)
    ]
    + [f"{word}{count}" for word in ("float", "double") for count in range(1, 5)]
)
"""The vector types of ``numba.cuda`` and CUDA's names for them (numba/cuda/vector_types.py)."""

RANDOM = _words(
    "xoroshiro128p_next xoroshiro128p_jump xoroshiro128p_uniform_float32 xoroshiro128p_uniform_float64"
    " xoroshiro128p_normal_float32 xoroshiro128p_normal_float64 xoroshiro128p_type init_xoroshiro128p_state"
)

FP16 = _words(
    "habs hadd hceil hcos hdiv heq hexp hexp10 hexp2 hfloor hfma hge hgt hle hlog hlog10 hlog2 hlt hmax hmin hmul hne hneg hrcp"
    " hrint hrsqrt hsin hsqrt hsub htrunc"
)

TYPES = frozenset(TYPE_NAMES)

LIBDEVICE = "numba.cuda.libdevice"
"""The one module whose names are not listed: the gate takes any of its functions."""

NAMESPACES: Mapping[str, frozenset[str]] = {
    "math": MATH,
    "cmath": CMATH,
    "operator": OPERATOR,
    "numpy": NUMPY,
    "numba": TYPES,
    "numba.types": TYPES,
    "numba.cuda": CUDA | VECTORS | TYPES,
    "numba.cuda.atomic": _words("add sub and_ or_ xor inc dec exch max min nanmax nanmin cas compare_and_swap"),
    "numba.cuda.shared": _words("array"),
    "numba.cuda.local": _words("array"),
    "numba.cuda.const": _words("array_like"),
    "numba.cuda.cg": _words("this_grid"),
    "numba.cuda.random": RANDOM,
    "numba.cuda.fp16": FP16,
    "numba.cuda.misc.special": _words("literal_unroll"),
    LIBDEVICE: frozenset(),
}
"""Namespaces a kernel may refer to, and in each the names it may use. A namespace's own name stands only before a dot."""

OBJECTS = frozenset({"numba.cuda.atomic", "numba.cuda.shared", "numba.cuda.local", "numba.cuda.const"})
"""Namespaces that are no modules of their own."""

TYPE_NAMESPACES = frozenset({"numba", "numba.types", "numba.cuda"})
"""Where Numba's types stand."""

MEMBERS: Mapping[str, frozenset[str]] = {
    f"numba.cuda.{name}": _words("x y z") for name in ("threadIdx", "blockIdx", "blockDim", "gridDim")
}
"""Names that are values with members of their own."""

ALIASES: Mapping[str, str] = {
    "bitfusion.cuda": "numba.cuda",
    "bitfusion.kernels.types": "numba.types",
    "numba.core.types": "numba.types",
    "numba.cuda.types": "numba.types",
    "numba.literal_unroll": "numba.cuda.misc.special.literal_unroll",
    "numba.cuda.literal_unroll": "numba.cuda.misc.special.literal_unroll",
    "numba.misc.special": "numba.cuda.misc.special",
}
"""Other names of the namespaces, as modules on the client call themselves."""

EXCEPTIONS = _words(
    "ArithmeticError AssertionError Exception IndexError KeyError NotImplementedError OverflowError RuntimeError TypeError"
    " ValueError ZeroDivisionError"
)

BUILTINS = EXCEPTIONS | _words(
    "abs bool complex divmod enumerate float int len max min pow print range round slice sum tuple zip"
)
"""Python's builtins that Numba's CUDA target knows and that touch nothing."""


def canonical(path: str) -> str:
    """A module's dotted path by the name it has here: ``bitfusion.cuda.random`` is ``numba.cuda.random``."""
    for alias, name in ALIASES.items():
        if path == alias or path.startswith(alias + "."):
            return name + path[len(alias) :]
    return path


def module_of(path: str) -> str:
    """The module that an allowed path starts with: ``numba.cuda`` for ``numba.cuda.atomic.add``."""
    namespace = path.rpartition(".")[0]
    return namespace.rpartition(".")[0] if namespace in OBJECTS or namespace in MEMBERS else namespace


def type_name(path: str) -> str | None:
    """The name of the Numba type at ``path``, None for anything else: ``numba.cuda.float32`` is ``float32``."""
    namespace, _, name = path.rpartition(".")
    return name if namespace in TYPE_NAMESPACES and name in TYPES else None


def is_namespace(path: str) -> bool:
    """Whether ``path`` names something that stands only before a dot."""
    return path in NAMESPACES


def is_allowed(path: str) -> bool:
    """Whether a kernel may use the value at ``path``."""
    namespace, _, name = path.rpartition(".")
    if namespace == LIBDEVICE:
        return name.isidentifier() and not name.startswith("_")
    return name in NAMESPACES.get(namespace, ()) or name in MEMBERS.get(namespace, ())


def refusal(path: str) -> str:
    """Why a kernel may not use ``path``, with what to write instead where that is known."""
    return f"a kernel cannot use {path:.80}" + (f": {ADVICE[path]}" if path in ADVICE else "")
