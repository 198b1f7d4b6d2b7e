"""Kernels as programs hold them: a dispatcher finds the specialisation for a launch's arguments, compiling it when it is new.

The way of a repeated launch is short: the arguments' types, in so far as they can differ, are the key to the specialisation, which packs
and posts. Everything unusual (new types, host arrays, tuples, a new session, errors) takes the slow way, which decides all again.
"""

from __future__ import annotations

import functools
import os
import threading
import types as python_types
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import numpy as np

from bitfusion.client import operations
from bitfusion.client.array import DeviceArray
from bitfusion.client.base import dim3
from bitfusion.client.client import Client
from bitfusion.cuda import arguments, current
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.inspection import Inspection, Overloads
from bitfusion.cuda.parameters import Parameters
from bitfusion.cuda.specialization import DeviceFunction, Specialization
from bitfusion.cuda.warned import warn_of_grid
from bitfusion.errors import InvalidValueError, KernelTypeError, LaunchError
from bitfusion.kernels.overloads import best_first, equally_close
from bitfusion.kernels.packing import Packer
from bitfusion.kernels.program import Link
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Signature, Type, int64, none
from bitfusion.types import Dim3
from bitfusion.wire.operations import CONFIG, Opcode

Key: TypeAlias = tuple[object, ...]
"""What of a launch's arguments decides its types: a device array's type, any other value's class."""

CONFIGURED_COUNT_MAX = 256
"""Launch configurations a kernel remembers; programs use a few."""

SHARED_SIZE_MAX = 2**32 - 1

THREADS_DEFAULT = 256
"""Threads per block that ``forall`` chooses: divides every GPU's threads per multiprocessor, and leaves room for registers."""


class UnconfiguredError(LaunchError, ValueError):
    """A kernel that was called like a function. Also a ``ValueError``, as in Numba."""


class DeviceFunctionError(LaunchError, RuntimeError):
    """A device function that was launched. Also a ``RuntimeError``, as in Numba."""


class Launch:
    """A kernel with its launch configuration: call it with the kernel's arguments."""

    __slots__ = ("blockdim", "config", "dispatcher", "griddim", "sharedmem", "stream")

    def __init__(self, dispatcher: Dispatcher, grid: Dim3, block: Dim3, stream: Any, sharedmem: int) -> None:
        self.dispatcher = dispatcher
        self.griddim = grid
        self.blockdim = block
        self.stream = stream
        self.sharedmem = sharedmem
        self.config = CONFIG.pack(*grid, *block, sharedmem)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its kernel is; a stream cannot go with it."""
        return Dispatcher.configure, (self.dispatcher, self.griddim, self.blockdim, self.stream, self.sharedmem)

    def __call__(self, *values: Any) -> None:
        """Launch: returns when it is posted; with host arrays when they are copied back. LaunchError, KernelError."""
        client, dispatcher = current.client, self.dispatcher
        owner, known = dispatcher.quick
        if client is owner:
            key: list[object] = []
            for value in values:
                if type(value) is DeviceArray:
                    if value.client is not client:
                        break
                    key.append(value.__bitfusion_argument__.type)
                else:
                    key.append(type(value))
            else:
                found = known.get(tuple(key))
                if found is not None and self.config in found.fitting:
                    self._post(client, found, values)
                    return
        dispatcher.launch(self, values)

    def _post(self, client: Any, found: Specialization, values: tuple[Any, ...]) -> None:
        try:
            data = found.pack(values)
        except KernelTypeError:  # a value beyond its class's usual type, such as an integer of more than 63 bits
            self.dispatcher.launch(self, values)
            return
        stream = self.stream
        number = client.stream_number(stream) if stream else 0
        core = client.core
        session = core.session
        if core.dead or session.full:
            client.run(operations.post(core, Opcode.LAUNCH, number, found.number, self.config, data))
        else:
            session.post(Opcode.LAUNCH, number, found.number, self.config, data)


class Dispatcher(Inspection):
    """A kernel, or a device function. ``py_func`` is the Python function, ``options`` what the compiler is told.

    ``declared`` are the signatures given to ``jit``: with one, arguments are converted to it; with several, the closest that fits
    is taken; with none, every new combination of argument types is compiled for itself.
    """

    def __init__(
        self,
        py_func: Callable[..., Any],
        options: dict[str, Any],
        declared: Sequence[Signature],
        *,
        device: bool,
        links: tuple[Link, ...] = (),
        extensions: Sequence[Any] = (),
    ) -> None:
        functools.update_wrapper(self, py_func)
        self.__qualname__ = py_func.__qualname__  # the wrapper sets it, which a type checker does not see
        self.py_func = py_func
        self.options = options
        self.declared = tuple(declared)
        self.device = device
        self.links = links
        self._extensions = list(extensions)
        self._extensible = bool(extensions)
        self.specializations: dict[Signature, Dispatcher] = {}
        """What ``specialize`` has made."""
        self._can_compile = True
        self._compiled_device: weakref.WeakKeyDictionary[Client, dict[tuple[Type, ...], DeviceFunction]]
        self._compiled_device = weakref.WeakKeyDictionary()
        self.quick: tuple[Client | None, dict[Key, Specialization]] = (None, {})
        """The quick way: a session and its specialisations by key, in one so that threads never see a half of each."""
        self._made: dict[Client, dict[Signature, Specialization]] = {}
        self._configured: dict[Any, Launch] = {}
        self._lock = threading.RLock()
        _dispatchers.add(self)

    def __repr__(self) -> str:
        return f"<{'device function' if self.device else 'kernel'} {self.__qualname__}>"

    def __reduce__(self) -> str:
        """Pickled by reference, as functions are: what no module holds cannot be, as its source would not go with it."""
        return str(self.__qualname__)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method: the instance is the first argument."""
        return self if instance is None else python_types.MethodType(self, instance)

    @property
    def extensions(self) -> list[Any]:
        """What may change arguments before a launch. Who asks for the list may add to it, so launches look at it from then on."""
        with self._lock:
            self._extensible = True
            self.quick = (None, {})
        return self._extensions

    # configuring

    def __getitem__(self, configuration: Any) -> Launch:
        """``kernel[grid, block]``, and after those a stream and bytes of dynamic shared memory."""
        try:
            return self._configured[configuration]
        except (KeyError, TypeError):  # new, or of lists
            pass
        return self._configure(configuration)  # what it raises has nothing to do with what was missing here

    def configure(self, griddim: Any, blockdim: Any, stream: Any = 0, sharedmem: int = 0) -> Launch:
        """The kernel with a launch configuration. LaunchError, TypeError, ValueError for what is none."""
        if self.device:
            self()
        if isinstance(sharedmem, bool) or not isinstance(sharedmem, int | np.integer):
            raise TypeError(f"shared memory is a number of bytes, not {sharedmem!r}")
        if not 0 <= sharedmem <= SHARED_SIZE_MAX:
            raise LaunchError(f"{sharedmem} bytes of shared memory cannot be")
        launch = Launch(self, dim3(griddim, "grid"), dim3(blockdim, "block"), stream, int(sharedmem))
        warn_of_grid(launch.griddim)
        return launch

    def _configure(self, configuration: Any) -> Launch:
        if not isinstance(configuration, tuple) or not 2 <= len(configuration) <= 4:
            raise ValueError(
                "a launch is kernel[grid, block], kernel[grid, block, stream] or kernel[grid, block, stream, sharedmem]"
            )
        launch = self.configure(*configuration)
        if len(configuration) == 2 or type(launch.stream) is int:  # a stream is not kept alive for this
            if len(self._configured) >= CONFIGURED_COUNT_MAX:
                self._configured.clear()
            try:
                self._configured[configuration] = launch
            except TypeError:
                pass
        return launch

    def forall(self, ntasks: int, tpb: int = 0, stream: Any = 0, sharedmem: int = 0) -> ForAll:
        """The kernel for at least ``ntasks`` threads in one dimension, ``tpb`` threads a block (0: chosen)."""
        if ntasks < 0:
            raise InvalidValueError(f"there cannot be {ntasks} tasks")
        return ForAll(self, ntasks, tpb, stream, sharedmem)

    def __call__(self, *values: Any, **keywords: Any) -> NoReturn:
        """LaunchError: kernels are launched, and device functions are called by kernels."""
        if self.device:
            raise DeviceFunctionError(
                f"Cannot compile a device function as a kernel: kernels call {self.__qualname__}, the host cannot"
            )
        raise UnconfiguredError(
            f"Kernel launch configuration was not specified. Say how to launch the kernel: {self.__qualname__}[grid, block](...)"
        )

    # launching

    def launch(self, launch: Launch, values: tuple[Any, ...]) -> None:
        """The slow way: any arguments, any session."""
        client = current.current()
        stream = client.stream_number(launch.stream)
        values, afterwards = arguments.extended(self._extensions, values, launch.stream)
        ready, around = arguments.on_device(client, self._parameters.taken(values), launch.stream)
        found = self._specialization(client, ready)
        data = self._pack(found, ready)
        found.check(launch.config, launch.griddim, launch.blockdim, launch.sharedmem)
        with client.turn:
            for array in around.mapped:
                array.send(launch.stream)
            client.run(operations.post(client.core, Opcode.LAUNCH, stream, found.number, launch.config, data))
        if self._waits:
            found.wait(launch.stream)
        arguments.copy_back(client, around.back, launch.stream)
        for action in afterwards:
            action()

    @functools.cached_property
    def _parameters(self) -> Parameters:
        return Parameters(self.py_func)

    def _pack(self, found: Specialization, values: list[Any]) -> bytes:
        try:
            return found.pack(values)
        except KernelTypeError as error:  # which knows the argument's number only
            raise self._parameters.named(error) from None

    def _specialization(self, client: Client, values: list[Any]) -> Specialization:
        """The specialisation for ready arguments; afterwards the quick way knows it, if it can."""
        given = self._parameters.types(values)
        with self._lock:
            if self.quick[0] is not client:
                self.quick = (client, {})
            found = (
                self._declared(client, values, given)
                if self.declared
                else self._made_for(client, Signature(none, *given))
            )
            if not self._waits and not self._extensible and all(map(_known_by_class, values, given)):
                self.quick[1][_key(values)] = found
            return found

    @property
    def _waits(self) -> bool:
        """Whether launches wait for their end, to raise what the kernel raised."""
        return bool(self.options.get("debug"))

    def _declared(self, client: Client, values: list[Any], given: list[Type]) -> Specialization:
        """Among several signatures the closest to what is given, of those that the values can be converted to."""
        if len(self.declared) == 1:
            return self._made_for(client, self.declared[0])
        _check_ambiguity(self.__qualname__, self.declared, given)
        for signature in best_first(self.declared, given):
            try:
                Packer(signature).pack(values)
            except KernelTypeError:
                continue
            return self._made_for(client, signature)
        raise KernelTypeError(
            f"{self.__qualname__}: No matching definition for argument type(s) {', '.join(map(str, given))};"
            f" there are {'; '.join(map(str, self.declared))}"
        )

    # compiling

    def compile(self, signature: Any) -> Any:
        """Compile for a signature, unless that has been done in this session. KernelError."""
        wanted = as_signature(signature)
        if self.device:
            return self.compile_device(wanted.args, wanted.return_type)
        if wanted.return_type is not none:
            raise KernelTypeError(f"a kernel returns nothing, but its signature is {wanted}")
        return self._made_for(current.current(), wanted)

    def compile_device(self, args: Any, return_type: Any = None) -> DeviceFunction:
        """A device function for argument types, as code to look at. KernelError."""
        client, wanted = current.current(), Signature(none if return_type is None else return_type, *args)
        with self._lock:
            made = self._compiled_device.setdefault(client, {})
            if wanted.args not in made:
                made[wanted.args] = DeviceFunction(self.py_func, wanted, self.options)
            return made[wanted.args]

    def disable_compile(self, val: bool = True) -> None:
        """Take no other argument types than those compiled so far; False takes all again."""
        self._can_compile = not val

    def _made_for(self, client: Client, wanted: Signature) -> Specialization:
        """The specialisation in this session, whichever another thread makes the current one meanwhile."""
        with self._lock:
            made = self._of(client)
            if wanted not in made:
                if not self._can_compile:
                    raise KernelTypeError(
                        f"{self.__qualname__} is not compiled for {wanted}, and compiling is disabled"
                    )
                made[wanted] = Specialization(client, self.py_func, wanted, self.options, self.links)
            return made[wanted]

    def _of(self, client: Client) -> dict[Signature, Specialization]:
        """What has been made for a session; those of ended sessions are forgotten."""
        if client not in self._made:
            for other in [other for other in self._made if other.closed]:
                del self._made[other]
            self._made[client] = {}
        return self._made[client]

    def specialize(self, *values: Any) -> Dispatcher:
        """A dispatcher for the types of these arguments (or for these types) only; others are converted to them, or refused."""
        if self.specialized:
            raise RuntimeError("Dispatcher already specialized")
        kinds = (value for value in values if not isinstance(value, Type))
        ready, _ = arguments.on_device(current.current(), tuple(kinds), 0)
        found = map(typeof, ready)
        wanted = Signature(none, *(value if isinstance(value, Type) else next(found) for value in values))
        if wanted not in self.specializations:
            self.specializations[wanted] = Dispatcher(
                self.py_func, self.options, [wanted], device=False, links=self.links, extensions=self._extensions
            )
        made = self.specializations[wanted]
        made.compile(wanted)
        return made

    # what there is

    @property
    def overloads(self) -> Overloads:
        """What has been compiled in the current session, by argument types."""
        client = current.current()
        if self.device:
            for signature in self.declared:
                self.compile_device(signature.args, signature.return_type)
            return Overloads(self._compiled_device.get(client, {}))
        return Overloads({signature.args: found for signature, found in self._of(client).items()})

    def recompile(self) -> None:
        """Compile everything anew that this session has, with what the kernel's names stand for now."""
        client = current.current()
        with self._lock:
            wanted = list(self._of(client))
            self._made.pop(client, None)
            self.quick = (None, {})
            for signature in wanted:
                self._made_for(client, signature)


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _unlock_all() -> None:
    """In a forked child: a thread of the parent may have been compiling, and is not here to release its lock."""
    for dispatcher in list(_dispatchers):
        dispatcher._lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock_all)


class ForAll:
    """A kernel for a number of tasks; the block is chosen when its arguments, and so its resources, are known."""

    def __init__(self, dispatcher: Dispatcher, ntasks: int, tpb: int, stream: Any, sharedmem: int) -> None:
        self._dispatcher = dispatcher
        self._ntasks = ntasks
        self._threads = tpb
        self._stream = stream
        self._sharedmem = sharedmem

    def __call__(self, *values: Any) -> None:
        """Launch; nothing if there are no tasks."""
        if self._ntasks:
            threads = self._threads or min((THREADS_DEFAULT, *self._dispatcher.options.get("launch_bounds", ())[:1]))
            blocks = -(-self._ntasks // threads)
            self._dispatcher[blocks, threads, self._stream, self._sharedmem](*values)


def _check_ambiguity(name: str, declared: Sequence[Signature], given: Sequence[Type]) -> None:
    """KernelTypeError if two signatures are equally close, as in Numba."""
    closest = equally_close(declared, given)
    if len(closest) > 1:
        listed = "\n".join(str(signature) for signature in closest)
        raise KernelTypeError(f"Ambiguous overloading for {name} ({', '.join(map(str, given))}):\n{listed}")


def _key(values: Sequence[Any]) -> Key:
    return tuple(value.__bitfusion_argument__.type if type(value) is DeviceArray else type(value) for value in values)


def _known_by_class(value: Any, kind: Type) -> bool:
    """Whether the next value with this value's part of the key has this type for certain."""
    if type(value) is int:
        return kind is int64
    return type(value) is DeviceArray or isinstance(value, bool | float | complex | None | np.number | np.bool_)
