"""``@vectorize``: a Python function of numbers becomes one of arrays, NumPy's way, computed on the GPU (numba.cuda's CUDA ufuncs).

Owns which signature serves which arguments, broadcasting, and where results go. The kernels are those of ``loops``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bitfusion.client.array import DeviceArray
from bitfusion.client.client import Client
from bitfusion.client.core import check_memory, check_session
from bitfusion.cuda.compiler import compile
from bitfusion.cuda.current import current
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.decorators import jit
from bitfusion.cuda.dispatcher import Dispatcher
from bitfusion.cuda.loops import Loops, Operand
from bitfusion.cuda.memory import as_cuda_array, is_cuda_array
from bitfusion.cuda.reduction import Reduce
from bitfusion.errors import KernelTypeError
from bitfusion.kernels.types import Scalar, Signature, Type, none

THREADS_MAX = 2**30
"""``max_blocksize`` before a program sets it: no limit of its own."""

SCALARS = (bool, int, float, complex, np.generic)
"""Arguments that take the type a signature asks for, where arrays must have it."""


def vectorize(ftylist_or_function: Any = (), target: str = "cuda", **options: Any) -> Any:
    """Make a ufunc of a function of numbers: ``@vectorize(["float32(float32, float32)", ...])``.

    Nothing is compiled before it is used, if the signatures say what it returns. Only the target ``cuda`` is here. KeyError for options
    that it does not have, TypeError, ValueError, KernelError.
    """
    check_target(target)

    def make(function: Callable[..., Any]) -> UFunc:
        identity, cache = options.pop("identity", None), options.pop("cache", False)
        builder = CUDAVectorize(function, identity=identity, cache=cache, targetoptions=options)
        for declared in signature_list(ftylist_or_function):
            builder.add(declared)
        return builder.build_ufunc()

    return make


def check_target(target: str) -> None:
    """ValueError unless ``target`` is the GPU."""
    if target != "cuda":
        raise ValueError(f"Unsupported target: {target}; bitfusion compiles for 'cuda', Numba itself for the others")


def signature_list(given: Any) -> Iterable[Any]:
    """One signature or several as several; KernelTypeError for the function itself, where a decorator was used without brackets."""
    if isinstance(given, str | Signature):
        return [given]
    if not isinstance(given, Iterable):
        raise KernelTypeError(
            "a ufunc for the GPU needs its signatures: @vectorize(['float32(float32, float32)'], target='cuda')"
        )
    return given


class CUDAVectorize:
    """Gathers the signatures of a ufunc and builds it: what Numba's own ``vectorize`` asks of a target."""

    def __init__(
        self,
        func: Callable[..., Any],
        identity: Any = None,
        cache: bool = False,
        targetoptions: dict[str, Any] | None = None,
    ) -> None:
        if cache:
            raise TypeError("caching is not supported: the appliance keeps every compiled kernel by itself")
        for option in targetoptions or {}:
            if option != "nopython":
                raise KeyError(f"Unrecognized options. cuda vectorize target does not support option: '{option}'")
            warnings.warn("nopython kwarg for cuda target is redundant", RuntimeWarning, stacklevel=3)
        self.py_func = getattr(func, "py_func", func)
        self.identity = identity
        self._signatures: list[Signature] = []

    def add(self, sig: Any) -> None:
        """One more signature of numbers. Without a result the compiler says what the function returns, which needs the session."""
        declared = as_signature(sig)
        if declared.return_type is none:
            declared = Signature(compile(self.py_func, declared.args)[1], *declared.args)
        self._signatures.append(_of_numbers(declared))

    def disable_compile(self) -> None:
        """All signatures are known; nothing is compiled before it is used anyway."""

    def build_ufunc(self) -> UFunc:
        """The ufunc."""
        return UFunc(self.py_func, self._signatures)


def _of_numbers(signature: Signature) -> Signature:
    for kind in (*signature.args, signature.return_type):
        if not isinstance(kind, Scalar) or kind.dtype is None:
            raise KernelTypeError(
                f"a ufunc takes and returns numbers, but its signature is {signature}; write for instance 'float32(float32, float32)'"
            )
    return signature


def dtype_of(kind: Type) -> np.dtype[Any]:
    """NumPy's dtype of a number's type."""
    assert isinstance(kind, Scalar)
    assert kind.dtype is not None
    return kind.dtype


class _Version:
    """A ufunc for one signature."""

    def __init__(self, function: Callable[..., Any], signature: Signature) -> None:
        self.args = tuple(map(dtype_of, signature.args))
        self.result = dtype_of(signature.return_type)
        self.core: Dispatcher = jit(signature, device=True)(function)
        self.loops = Loops(self.core, returns=True)

    @functools.cached_property
    def reduction(self) -> Reduce:
        """The same function over all elements of an array. TypeError where a result cannot be an argument again."""
        if len(self.args) != 2 or {*self.args} != {self.result}:
            raise TypeError(f"reduce needs a function of two numbers of one type that returns it, not {self.core}")
        return Reduce(self.core)


class UFunc:
    """A function of arrays that runs on the GPU. ``max_blocksize`` bounds its blocks, in threads.

    Results stay on the GPU if an argument was there, or else come back to the host.
    """

    def __init__(self, function: Callable[..., Any], signatures: Sequence[Signature]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.max_blocksize = THREADS_MAX
        self.types = list(signatures)
        self._versions = [_Version(function, signature) for signature in signatures]

    def __repr__(self) -> str:
        return f"<ufunc {self.py_func.__qualname__} on the GPU>"

    def __call__(self, *arguments: Any, out: Any = None, stream: Any = 0, **unknown: Any) -> Any:
        """Apply it to numbers, host arrays and device arrays, broadcast. TypeError for no such signature, ValueError for shapes.

        Array arguments have the exact types of a signature; nothing is cast. ``out`` is an array of the result's shape and type.
        """
        if unknown:
            warnings.warn(f"unrecognized keywords: {', '.join(unknown)}", stacklevel=2)
        given = [ready(argument) for argument in arguments]
        version = self._version(given)
        shape = _broadcast_shape([value.shape for value in given if not isinstance(value, SCALARS)] or [(1,)])
        client = current()
        operands = [
            _operand(client, value, dtype, shape, stream) for value, dtype in zip(given, version.args, strict=True)
        ]
        result, back = output(client, out, shape, version.result, stream)
        version.loops.run(shape, [*operands, Operand(result)], stream, self.max_blocksize)
        if back is None and out is None and not any(isinstance(value, DeviceArray) for value in given):
            return result.copy_to_host(stream=stream)
        return result.copy_to_host(back, stream) if back is not None else result

    def reduce(self, arg: Any, stream: Any = 0) -> Any:
        """The function over all elements of a 1-D array, pairwise in any order. TypeError for anything else."""
        values = ready(arg)
        if values.ndim != 1:
            raise TypeError("only an array with one dimension can be reduced")
        if not values.size:
            raise TypeError("Reduction on an empty array.")
        return self._version([values] * 2).reduction(values, init=None, stream=stream)

    def _version(self, given: Sequence[Any]) -> _Version:
        """The version whose types are the arguments'; if there is none, Python and NumPy scalars may be any."""
        exact = [version for version in self._versions if _fits(version, given, any_scalar=False)]
        found = exact or [version for version in self._versions if _fits(version, given, any_scalar=True)]
        if not found:
            raise TypeError(
                f"No matching version of {self.py_func.__qualname__} for ({', '.join(map(_type_name, given))}): arrays need the exact"
                f" types of a signature, as with casting='no'. There are: {'; '.join(map(str, self.types)) or 'none'}"
            )
        if len(found) > 1:
            raise TypeError(
                f"Failed to resolve {self.py_func.__qualname__}: ambiguous signature, too many untyped scalars;"
                " give them a type, for instance numpy.float32(x)"
            )
        return found[0]


def ready(value: Any) -> Any:
    """An argument as a scalar, a host array or a device array of the current session. SessionClosedError, InvalidAddressError."""
    if is_cuda_array(value):
        array = as_cuda_array(value)
        check_session(current().core, array.client.core)
        check_memory(array.allocation)
        return array
    return value if isinstance(value, SCALARS) else np.asarray(value)


def _type_name(value: Any) -> str:
    return str(value.dtype) if hasattr(value, "dtype") else type(value).__name__


def _fits(version: _Version, given: Sequence[Any], *, any_scalar: bool) -> bool:
    if len(version.args) != len(given):
        return False
    for value, dtype in zip(given, version.args, strict=True):
        if isinstance(value, SCALARS):
            if not any_scalar and np.asarray(value).dtype != dtype:
                return False
        elif value.dtype != dtype:
            return False
    return True


def _broadcast_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The common shape; of nothing but scalars one element, as numba.cuda has it. ValueError."""
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"failed to broadcast the shapes {', '.join(map(str, shapes))}") from None
    return shape


def _operand(client: Client, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], stream: Any) -> Operand:
    if isinstance(value, SCALARS):
        return Operand(dtype.type(value))
    array = value if isinstance(value, DeviceArray) else client.to_device(value, stream)
    return Operand(array.laid_out(array.layout.broadcast(shape)))


def output(
    client: Client, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Any
) -> tuple[DeviceArray, Any]:
    """Where a kernel writes, and the host array it is copied to afterwards, if the program gave one. ValueError, TypeError."""
    if out is None:
        return client.device_array(shape, dtype, stream=stream), None
    if is_cuda_array(out):
        out = ready(out)
    elif not isinstance(out, np.ndarray):
        raise TypeError(f"out is an array, not an object of type {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"output shape mismatch: out is {out.shape}, the result {shape}")
    if out.dtype != dtype:
        raise TypeError(f"out is of {out.dtype}, the result of {dtype}")
    if isinstance(out, DeviceArray):
        return out, None
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return client.device_array(shape, dtype, stream=stream), out
