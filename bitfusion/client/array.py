"""Arrays in device memory: shape, strides and dtype on the client, elements on the GPU. The blocking face; aio.py has the other.

Indexing, reshaping and transposing make views and move nothing. An array keeps its allocation alive; when the last one that uses it
goes, the memory is released. Shapes and strides behave as NumPy's, copies as numba.cuda's DeviceNDArray, with strides of any kind.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bitfusion.client import copies
from bitfusion.client.core import LEGACY_STREAM, Core, Owned, check_memory, check_session
from bitfusion.client.host import HostArray, broadcast, cast, check_dtype, fitting, writable
from bitfusion.client.layout import Layout, c_strides, f_strides
from bitfusion.errors import UnsupportedError
from bitfusion.kernels.packing import Argument, array_argument, record_argument
from bitfusion.session.client import Operation

if TYPE_CHECKING:
    from typing import Self

    from bitfusion.client.base import BaseClient, BaseStream
    from bitfusion.client.client import Client

C = TypeVar("C", bound="BaseClient")


class BaseArray(Generic[C]):
    """What arrays of both faces are: a view of an allocation. ``stream`` is where its copies go unless told otherwise."""

    __cuda_memory__ = True
    __cuda_ndarray__ = True

    def __init__(
        self, client: C, allocation: Owned, layout: Layout, dtype: np.dtype[Any], stream: BaseStream[C] | int = 0
    ) -> None:
        self.client = client
        self.allocation = allocation
        self.layout = layout
        self.dtype = dtype
        self.stream = stream
        self.shape = layout.shape
        self.strides = layout.strides
        self._argument: Argument | None = None

    # what it is

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements."""
        return self.layout.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; the allocation may be larger."""
        return self.layout.size * self.dtype.itemsize

    @property
    def alloc_size(self) -> int:
        """Bytes from the view's first to its last."""
        low, high = self.layout.extent
        return high - low

    @property
    def address(self) -> int:
        """The device address of the first element; 0 for an array without elements. InvalidAddressError once freed."""
        check_memory(self.allocation)
        return self.allocation.number + self.layout.offset if self.layout.size else 0

    @property
    def device_ctypes_pointer(self) -> ctypes.c_size_t:
        """The device address, as numba.cuda gives it."""
        return ctypes.c_size_t(self.address)

    @property
    def flags(self) -> dict[str, bool]:
        """``C_CONTIGUOUS`` and ``F_CONTIGUOUS``."""
        return {"C_CONTIGUOUS": self.is_c_contiguous(), "F_CONTIGUOUS": self.is_f_contiguous()}

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """CUDA Array Interface version 3. Address and stream mean something in this session only."""
        return {
            "shape": self.shape,
            "strides": None if self.is_c_contiguous() else self.strides,
            "data": (self.address, False),
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": None if self.stream == 0 else int(self.stream) or LEGACY_STREAM,
            "version": 3,
        }

    def is_c_contiguous(self) -> bool:
        """Whether the last axis is the fastest and there are no gaps."""
        return self.layout.is_c_contiguous

    def is_f_contiguous(self) -> bool:
        """Whether the first axis is the fastest and there are no gaps."""
        return self.layout.is_f_contiguous

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without dimensions")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} shape={self.shape} dtype={self.dtype}>"

    def __copy__(self) -> Self:
        return self._view(self.layout)

    def __getstate__(self) -> object:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or deep-copied: its elements are on the leased GPU; "
            "copy_to_host() gives a host array, to_device(array) another one on the device"
        )

    @property
    def __bitfusion_argument__(self) -> Argument:
        """The array as a kernel's argument, made once. KernelTypeError for a dtype that kernels cannot use, InvalidAddressError."""
        argument = self._argument
        if argument is None:
            if self.shape or self.dtype.names is None:
                argument = array_argument(self.dtype, self.shape, self.strides, self.address)
            else:
                argument = record_argument(self.dtype, self.address)
            self._argument = argument
        elif not self.allocation.live:
            check_memory(self.allocation)
        return argument

    # views

    def for_reading(self) -> Self:
        """The same array for kernels that do not write to it: to others it does not fit."""
        view = self._view(self.layout)
        view._argument = self.__bitfusion_argument__.for_reading()
        return view

    @property
    def T(self) -> Self:  # noqa: N802 (NumPy's name)
        """The axes reversed."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Self:
        """The axes in another order; a view."""
        order = axes[0] if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], Sequence)) else axes or None
        return self._view(self.layout.transpose(order))

    def reshape(self, *shape: Any, order: str = "C") -> Self:
        """The same elements in another shape. UnsupportedError (a NotImplementedError) where that would need a copy."""
        return self._view(
            self.layout.reshape(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape, order)
        )

    def ravel(self, order: str = "C", stream: BaseStream[C] | int = 0) -> Self:
        """One dimension. UnsupportedError (a NotImplementedError) where that would need a copy."""
        return self._view(self.layout.reshape((-1,), order), stream=stream)

    def squeeze(self, axis: int | Sequence[int] | None = None, stream: BaseStream[C] | int = 0) -> Self:
        """Without axes of length one."""
        return self._view(self.layout.squeeze(axis), stream=stream)

    def view(self, dtype: DTypeLike) -> Self:
        """The same bytes as another dtype. ValueError, in NumPy's words, where the sizes do not divide."""
        new = check_dtype(dtype)
        layout, old = self.layout, self.dtype.itemsize
        if new.itemsize == old:
            return self._view(Layout(layout.offset, layout.shape, layout.strides, old), new)
        if not layout.shape or not layout.is_c_contiguous:
            raise ValueError("To change to a dtype of a different size, the array must be C-contiguous")
        last, rest = divmod(layout.shape[-1] * old, new.itemsize)
        if rest:
            raise ValueError(
                "When changing to a larger dtype, its size must be a divisor of the total size in bytes of the last axis of the array."
            )
        shape = (*layout.shape[:-1], last)
        return self._view(Layout(layout.offset, shape, c_strides(shape, new.itemsize), new.itemsize), new)

    def bind(self, stream: BaseStream[C] | int = 0) -> Self:
        """The same array with another stream for its copies."""
        return self._view(self.layout, stream=stream)

    def split(self, section: int, stream: BaseStream[C] | int = 0) -> Iterator[Self]:
        """Parts of ``section`` elements of a contiguous 1-D array; the last may be shorter. ValueError."""
        if section < 1:
            raise ValueError(f"parts have at least one element, not {section}")
        if self.ndim != 1 or not self.is_c_contiguous():
            raise ValueError("only a contiguous array with one dimension can be split")
        for start in range(0, self.size, section):
            yield self._view(self.layout[start : start + section], stream=stream)

    def get_ipc_handle(self) -> NoReturn:
        """UnsupportedError: every process has a session of its own."""
        raise UnsupportedError(
            "memory of a leased GPU cannot be shared between processes: copy the array to the host and send that",
            feature="IPC",
        )

    def free(self) -> None:
        """Release the memory now, for every view of it; using one later is an InvalidAddressError."""
        self.allocation.free()

    def _view(self, layout: Layout, dtype: np.dtype[Any] | None = None, stream: BaseStream[C] | int = 0) -> Self:
        return type(self)(self.client, self.allocation, layout, dtype or self.dtype, stream or self.stream)

    def laid_out(self, layout: Layout, dtype: np.dtype[Any] | None = None, stream: BaseStream[C] | int = 0) -> Self:
        """The same memory with another shape and other strides, which the caller knows to stay inside it."""
        return self._view(layout, dtype, stream)

    def _select(self, key: object) -> tuple[Layout, np.dtype[Any]]:
        """The layout and dtype that an index, or a field's name, selects."""
        if not isinstance(key, str):
            return self.layout[key], self.dtype
        if self.dtype.fields is None or key not in self.dtype.fields:
            raise IndexError(f"the dtype {self.dtype} has no field {key!r}")
        field, offset = self.dtype.fields[key][:2]
        base, layout = field.base, self.layout
        return Layout(
            layout.offset + offset,
            (*layout.shape, *field.shape),
            (*layout.strides, *c_strides(field.shape, base.itemsize)),
            base.itemsize,
        ), base

    def _get(self, key: object, stream: BaseStream[C] | int = 0) -> tuple[Self, bool]:
        """The view an index selects, and whether it is an element that is copied to the host."""
        layout, dtype = self._select(key)
        return self._view(layout, dtype, stream), not layout.shape and dtype.names is None and not _has_ellipsis(key)

    def _stream(self, stream: BaseStream[C] | int) -> int:
        return self.client.stream_number(stream or self.stream)

    # operations

    def _download(self, stream: BaseStream[C] | int, out: HostArray | None = None) -> Operation[HostArray]:
        core = self.client.core
        check_memory(self.allocation)
        if out is None:
            f_order = self.is_f_contiguous() and not self.is_c_contiguous()
            target: HostArray = np.empty(self.shape, self.dtype, order="F" if f_order else "C")
        else:
            target = fitting(writable(out), self.dtype, self.shape)
        yield from copies.download(core, self._stream(stream), self.allocation.number, self.layout, target)
        return target if out is None else out

    def _item(self, stream: BaseStream[C] | int) -> Operation[Any]:
        return (yield from self._download(stream))[()]

    def _assign(self, value: object, stream: BaseStream[C] | int, *, exact: bool = False) -> Operation[None]:
        """Set the elements from a scalar, a host array or a device array, broadcast and cast as NumPy does, unless ``exact``."""
        core = self.client.core
        check_memory(self.allocation)
        number, address = self._stream(stream), self.allocation.number
        if isinstance(value, BaseArray):
            yield from _copy(core, number, self, value, exact)
            return
        source = fitting(np.asarray(value), self.dtype, self.shape) if exact else cast(value, self.dtype)
        if source.ndim == 0 and self.ndim:
            yield from copies.fill(core, number, address, self.layout, source.tobytes())
        else:
            yield from copies.upload(core, number, address, self.layout, broadcast(source, self.shape))


class DeviceArray(BaseArray["Client"]):
    """An array in device memory. Methods that move data wait until the host's side of it is done."""

    def copy_to_host(
        self, out: HostArray | None = None, stream: BaseStream[Client] | int = 0, *, ary: HostArray | None = None
    ) -> HostArray:
        """The elements, in ``out`` (same shape and dtype, any strides) or in a new array. TypeError, ValueError if ``out`` does not fit."""
        host = self.client.run(self._download(stream, ary if out is None else out))
        self.client.refresh()
        return host

    def copy_to_device(self, ary: object, stream: BaseStream[Client] | int = 0) -> None:
        """Copy a host or device array of the same shape and dtype into this one."""
        self.client.run(self._assign(ary, stream, exact=True))

    def copy_from_host(self, ary: object, stream: BaseStream[Client] | int = 0) -> None:
        """Copy a host array of the same shape and dtype into this one."""
        self.client.run(self._assign(ary, stream, exact=True))

    def fill(self, value: object, stream: BaseStream[Client] | int = 0) -> None:
        """Set every element."""
        self.client.run(self._assign(value, stream))

    def getitem(self, key: object, stream: BaseStream[Client] | int = 0) -> Any:
        """A view; an element of a plain dtype is copied to the host and returned as a NumPy scalar."""
        view, element = self._get(key, stream)
        return self.client.run(view._item(stream)) if element else view

    def setitem(self, key: object, value: object, stream: BaseStream[Client] | int = 0) -> None:
        """Set elements from a scalar, a host array or a device array, broadcast and cast as NumPy does."""
        self.client.run(self._view(*self._select(key), stream)._assign(value, stream))

    def __getitem__(self, key: object) -> Any:
        return self.getitem(key)

    def __setitem__(self, key: object, value: object) -> None:
        self.setitem(key, value)

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> HostArray:
        if copy is False:
            raise ValueError("`copy=False` is not supported. A copy is always created.")
        host = self.copy_to_host()
        return host if dtype is None else host.astype(dtype, copy=False)


def new_layout(
    shape: object, dtype: np.dtype[Any], strides: Sequence[int] | int | None = None, order: str = "C"
) -> Layout:
    """The layout of a new array, its offset such that its lowest byte is its allocation's first. TypeError, ValueError."""
    lengths = _integers(shape)
    if any(length < 0 for length in lengths):
        raise ValueError(f"the shape {lengths} has a negative length")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    if strides is None or strides == ():
        steps = (c_strides if order == "C" else f_strides)(lengths, dtype.itemsize)
    else:
        steps = _integers(strides)
    if len(steps) != len(lengths):
        raise ValueError(f"strides {steps} do not fit the shape {lengths}")
    low = Layout(0, lengths, steps, dtype.itemsize).extent[0]
    return Layout(-low, lengths, steps, dtype.itemsize)


def _integers(value: object) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)
    if not all(isinstance(item, int | np.integer) for item in items):
        raise TypeError(f"a shape is an integer or a tuple of integers, not {value!r}")
    return tuple(int(item) for item in items)


def _has_ellipsis(key: object) -> bool:
    return key is Ellipsis or (isinstance(key, tuple) and any(item is Ellipsis for item in key))


def _copy(core: Core, stream: int, target: BaseArray[Any], source: BaseArray[Any], exact: bool) -> Operation[None]:
    """Between device arrays; a cast, which the device does not do, goes by way of the host."""
    check_session(core, source.client.core)
    check_memory(source.allocation)
    if exact and source.dtype != target.dtype:
        raise TypeError(f"incompatible dtype: {target.dtype} vs. {source.dtype}")
    if source.dtype != target.dtype:
        host: HostArray = np.empty(source.shape, source.dtype)
        yield from copies.download(core, stream, source.allocation.number, source.layout, host)
        values = broadcast(cast(host, target.dtype), target.shape)
        yield from copies.upload(core, stream, target.allocation.number, target.layout, values)
        return
    layout = source.layout
    if layout.shape != target.shape:
        layout = _device_broadcast(layout, target.layout, exact)
    yield from copies.copy(core, stream, (target.allocation.number, target.layout), (source.allocation.number, layout))


def _device_broadcast(source: Layout, target: Layout, exact: bool) -> Layout:
    """The source's layout in the target's shape: axes of length one repeat, leading ones may go. ValueError if it does not fit."""
    if exact and source.squeeze().shape != target.squeeze().shape:
        raise ValueError(f"incompatible shape: {target.shape} vs. {source.shape}")
    if exact:
        source = source.squeeze()[tuple(None if length == 1 else slice(None) for length in target.shape)]
    while len(source.shape) > len(target.shape) and source.shape[0] == 1:
        source = source[0]
    return source.broadcast(target.shape)
