"""``@guvectorize``: a Python function of arrays, applied to each of many on the GPU (numba.cuda's generalized CUDA ufuncs).

Owns which signature serves which arguments, casts of host arrays, and where results go. Shapes are ``core_shape``'s, kernels ``loops``'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bitfusion.client.array import DeviceArray
from bitfusion.client.client import Client
from bitfusion.client.layout import Layout
from bitfusion.cuda.core_shape import CoreShape, Shape
from bitfusion.cuda.current import current
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.decorators import jit
from bitfusion.cuda.loops import Loops, Operand
from bitfusion.cuda.ufunc import SCALARS, THREADS_MAX, check_target, dtype_of, output, ready, signature_list
from bitfusion.errors import KernelTypeError
from bitfusion.kernels.types import Array, Scalar, Signature, Type, none


def guvectorize(ftylist: Any, signature: str, target: str = "cuda", **options: Any) -> Any:
    """Make a generalized ufunc: ``@guvectorize(["void(float32[:], float32[:])"], "(n)->(n)")``.

    The function gets arrays of the inner axes and writes its results into the last ones; a result without axes is an array of one
    element. TypeError, ValueError, NameError.
    """
    check_target(target)

    def make(function: Callable[..., Any]) -> GUFunc:
        own = {name: options.pop(name) for name in ("identity", "cache", "writable_args") if name in options}
        builder = CUDAGUFuncVectorize(function, signature, targetoptions=options, **own)
        for declared in signature_list(ftylist):
            builder.add(declared)
        return builder.build_ufunc()

    return make


class CUDAGUFuncVectorize:
    """Gathers the signatures of a generalized ufunc and builds it: what Numba's own ``guvectorize`` asks of a target."""

    def __init__(
        self,
        func: Callable[..., Any],
        sig: str,
        identity: Any = None,
        cache: bool = False,
        targetoptions: dict[str, Any] | None = None,
        writable_args: Sequence[Any] = (),
    ) -> None:
        if cache:
            raise TypeError("caching is not supported: the appliance keeps every compiled kernel by itself")
        if writable_args:
            raise TypeError("writable_args are not supported")
        options = dict(targetoptions or {})
        if not options.pop("nopython", True):
            raise TypeError("nopython flag must be True")
        if options:
            raise TypeError(f"The following target options are not supported: {', '.join(map(repr, options))}")
        self.py_func = getattr(func, "py_func", func)
        self.identity = identity
        self.signature = sig
        self._core_shape = CoreShape.parse(sig)
        self._signatures: list[Signature] = []

    def add(self, sig: Any) -> None:
        """One more signature: the inner arrays' types, inputs first."""
        declared = as_signature(sig)
        if declared.return_type is not none:
            raise TypeError(
                f"guvectorized functions cannot return values: signature {sig} specifies {declared.return_type} return type"
            )
        axes = [*self._core_shape.inputs, *self._core_shape.outputs]
        if len(axes) != len(declared.args):
            raise ValueError(
                f"the layout {self.signature} has {len(axes)} arrays, the signature {declared} {len(declared.args)}"
            )
        for kind, symbols in zip(declared.args, axes, strict=True):
            _check_axes(kind, len(symbols))
        self._signatures.append(declared)

    def disable_compile(self) -> None:
        """All signatures are known; nothing is compiled before it is used anyway."""

    def build_ufunc(self) -> GUFunc:
        """The generalized ufunc."""
        return GUFunc(self.py_func, self._core_shape, self._signatures)


def _check_axes(kind: Type, count: int) -> None:
    """Whether a type is what the function gets for ``count`` inner axes: as many dimensions, and for none a number, or an array of one."""
    if isinstance(kind, Array) and isinstance(kind.dtype, Scalar):
        if kind.ndim != max(count, 1):
            raise ValueError(f"gufunc signature mismatch: {kind} for {count} inner dimensions")
    elif not isinstance(kind, Scalar) or kind.dtype is None:
        raise KernelTypeError(f"a generalized ufunc takes arrays and numbers, not {kind}")
    elif count:
        raise ValueError("gufunc signature mismatch: ndim>0 for scalar")


class _Version:
    """A generalized ufunc for one signature."""

    def __init__(self, function: Callable[..., Any], signature: Signature, inputs: int) -> None:
        self.kinds = signature.args
        dtypes = [dtype_of(kind.dtype if isinstance(kind, Array) else kind) for kind in signature.args]
        self.inputs, self.outputs = dtypes[:inputs], dtypes[inputs:]
        self.loops = Loops(jit(signature, device=True)(function), returns=False)

    def takes(self, dtypes: Sequence[np.dtype[Any]], casting: Any) -> bool:
        """Whether these can be cast to what the signature takes."""
        return all(np.can_cast(given, wanted, casting) for given, wanted in zip(dtypes, self.inputs, strict=True))


class GUFunc:
    """A function applied to each array of many, on the GPU. ``max_blocksize`` bounds its blocks, in threads.

    Results stay on the GPU if an argument was there, or else come back to the host.
    """

    def __init__(self, function: Callable[..., Any], core_shape: CoreShape, signatures: Sequence[Signature]) -> None:
        functools.update_wrapper(self, function)
        self.py_func = function
        self.max_blocksize = THREADS_MAX
        self.types = list(signatures)
        self._core_shape = core_shape
        self._versions = [_Version(function, signature, len(core_shape.inputs)) for signature in signatures]

    def __repr__(self) -> str:
        return f"<generalized ufunc {self.py_func.__qualname__} on the GPU>"

    def __call__(self, *arguments: Any, out: Any = None, stream: Any = 0) -> Any:
        """Apply it: to the inputs, or to the inputs and arrays for the results. TypeError, ValueError.

        Host arrays are cast to a signature's types where none has theirs; device arrays must have them.
        """
        inputs, outs = self._sorted(arguments, out)
        given = [ready(value) for value in inputs]
        schedule = self._core_shape.schedule([np.shape(value) for value in given])
        version = self._version([np.asarray(value).dtype if _is_scalar(value) else value.dtype for value in given])
        client = current()
        operands = [
            _input(client, value, dtype, kind, schedule.loop, inner, stream)
            for value, dtype, kind, inner in zip(given, version.inputs, version.kinds, schedule.inputs, strict=False)
        ]
        results, backs = zip(
            *(
                output(client, target, (*schedule.loop, *inner), dtype, stream)
                for target, inner, dtype in zip(outs, schedule.outputs, version.outputs, strict=True)
            ),
            strict=True,
        )
        written = [
            _array(result, kind, schedule.loop, inner)
            for result, kind, inner in zip(results, version.kinds[len(given) :], schedule.outputs, strict=True)
        ]
        version.loops.run(schedule.loop, [*operands, *written], stream, self.max_blocksize)
        on_device = any(isinstance(value, DeviceArray) for value in given)
        done = tuple(
            result if back is None and (on_device or target is not None) else result.copy_to_host(back, stream)
            for result, back, target in zip(results, backs, outs, strict=True)
        )
        return done[0] if len(done) == 1 else done

    def _sorted(self, arguments: Sequence[Any], out: Any) -> tuple[Sequence[Any], Sequence[Any]]:
        """The arguments as inputs and the places of the results, None for those that have none."""
        taken, made = len(self._core_shape.inputs), len(self._core_shape.outputs)
        if out is not None and len(arguments) > taken:
            raise ValueError("cannot specify argument 'out' as both positional and keyword")
        if len(arguments) not in (taken, taken + made):
            raise TypeError(
                f"This gufunc accepts {_positional(taken)} (when providing input only) or {_positional(taken + made)}"
                f" (when providing input and output). Got {_positional(len(arguments))}."
            )
        if out is not None:
            outs = tuple(out) if isinstance(out, tuple) else (out,)
            if len(outs) != made:
                raise ValueError(f"out takes {made} arrays, as a tuple")
            return arguments, outs
        return arguments[:taken], arguments[taken:] or (None,) * made

    def _version(self, dtypes: Sequence[np.dtype[Any]]) -> _Version:
        """The first version whose types are the arguments', or which they can be cast to: without loss, or else at all."""
        for casting in ("no", "safe", "same_kind"):
            for version in self._versions:
                if version.takes(dtypes, casting):
                    return version
        raise TypeError(
            f"no matching signature of {self.py_func.__qualname__} for ({', '.join(map(str, dtypes))});"
            f" there are: {'; '.join(map(str, self.types)) or 'none'}"
        )


def _positional(count: int) -> str:
    return f"{count} positional argument{'s' * (count != 1)}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, SCALARS)


def _input(
    client: Client, value: Any, dtype: np.dtype[Any], kind: Type, loop: Shape, inner: Shape, stream: Any
) -> Operand:
    """An argument as the kernel takes it: cast, on the device, and repeated along the loop axes it does not have."""
    if isinstance(kind, Scalar) and _is_scalar(value):
        return Operand(dtype.type(value))
    if not isinstance(value, DeviceArray):
        value = client.to_device(np.asarray(value).astype(dtype, copy=False), stream)
    elif value.dtype != dtype:
        raise TypeError(
            f"compatible signature is possible by casting but a device array does not support .astype(): {value.dtype} to {dtype}"
        )
    return _array(value, kind, loop, inner)


def _array(array: DeviceArray, kind: Type, loop: Shape, inner: Shape) -> Operand:
    """An array with the loop axes first; where the function takes an array for no inner axes, one of one element."""
    layout = array.layout
    while len(layout.shape) > len(loop) + len(inner):  # one element, where the loop has no axis for it
        layout = layout[0]
    layout = layout.broadcast((*loop, *inner))
    if isinstance(kind, Array) and not inner:
        layout = Layout(layout.offset, (*layout.shape, 1), (*layout.strides, layout.itemsize), layout.itemsize)
    return Operand(array.laid_out(layout), len(layout.shape) - len(loop))
