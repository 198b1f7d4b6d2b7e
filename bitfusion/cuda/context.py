"""The context of the leased GPU: what numba.cuda does through a CUDA context, on the session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bitfusion.client import operations
from bitfusion.client.client import Event, Stream
from bitfusion.client.host import writable
from bitfusion.client.operations import MemoryInfo
from bitfusion.cuda import current
from bitfusion.cuda.current import current as session
from bitfusion.cuda.mapped import ManagedArray, MappedArray, managed_array, mapped_array
from bitfusion.cuda.memory import pinned_array
from bitfusion.cuda.occupancy import blocks_per_multiprocessor, fullest_block
from bitfusion.cuda.pointers import BYTES, MemoryPointer
from bitfusion.cuda.refused import IMAGE, IPC, PEER, refuse

if TYPE_CHECKING:
    from bitfusion.cuda.devices import Device


class Deallocations:
    """What has died here and is not released on the device yet; the next operation releases it, and waits for nothing."""

    @property
    def is_disabled(self) -> bool:
        """Whether releases are put off."""
        return bool(session().core.put_off)

    def __len__(self) -> int:
        return len(session().core.dead)

    def clear(self) -> None:
        """Release it now."""
        client = session()
        client.run(operations.reap(client.core))

    @contextlib.contextmanager
    def disable(self) -> Iterator[None]:
        """A block in which nothing is released; it can be nested."""
        core = session().core
        core.put_off.append(None)
        try:
            yield
        finally:
            core.put_off.pop()


class Context:
    """The context of the leased GPU: there is one, and it is always the current one."""

    deallocations = Deallocations()

    def __init__(self, device: Device) -> None:
        self.device = device

    def __repr__(self) -> str:
        return f"<CUDA context of device {self.device.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and other.device is self.device

    def __hash__(self) -> int:
        return hash(self.device.id)

    @property
    def memory_manager(self) -> Context:
        """What holds the memory: the session, seen through this."""
        return self

    def get_memory_info(self) -> MemoryInfo:
        """Bytes of the lease: free and total."""
        return session().memory_info()

    def synchronize(self) -> None:
        """Wait for all work on the device. Raises what failed before."""
        session().synchronize()

    def reset(self) -> None:
        """End the session; the next use opens another."""
        current.close()

    def push(self) -> None:
        """Nothing: it is the current one."""

    def pop(self) -> None:
        """Nothing: there is no other."""

    def prepare_for_use(self) -> None:
        """Nothing: it is ready once there is a session."""

    def defer_cleanup(self) -> contextlib.AbstractContextManager[None]:
        """A block in which nothing is released; it can be nested."""
        return self.deallocations.disable()

    # streams and events

    def create_stream(self) -> Stream:
        """A new stream."""
        return session().stream()

    def create_external_stream(self, ptr: int) -> Stream:
        """A stream of this session by its number. UnsupportedError for any other."""
        return session().external_stream(ptr)

    def get_default_stream(self) -> Stream:
        """Stream 0."""
        return session().default_stream

    def get_legacy_default_stream(self) -> Stream:
        """Stream 0, by its rule."""
        return session().legacy_default_stream

    def get_per_thread_default_stream(self) -> Stream:
        """A stream of the calling thread's own."""
        return session().per_thread_default_stream

    def create_event(self, timing: bool = True) -> Event:
        """A new event."""
        return session().event(timing)

    # memory

    def memalloc(self, bytesize: int) -> MemoryPointer:
        """Device memory, its bytes not set. DeviceMemoryError."""
        return MemoryPointer(self, session().device_array(bytesize, BYTES))

    def memallocmanaged(self, bytesize: int, attach_global: bool = True) -> ManagedArray:
        """Managed memory: an array of bytes. DeviceMemoryError."""
        return managed_array(bytesize, BYTES)

    def memhostalloc(
        self, bytesize: int, mapped: bool = False, portable: bool = False, wc: bool = False
    ) -> np.ndarray[Any, Any]:
        """Host memory: an array of bytes, which kernels can take if it is ``mapped``. DeviceMemoryError."""
        return mapped_array(bytesize, BYTES) if mapped else pinned_array(bytesize, BYTES)

    def mempin(self, owner: Any, pointer: Any, size: int, mapped: bool = False) -> Any:
        """The host array ``owner``, with a mirror if it is to be ``mapped``. ValueError if it is read-only then."""
        return MappedArray.mirroring(writable(owner)) if mapped else owner

    # what one leased GPU does not have

    def get_ipc_handle(self, memory: Any) -> NoReturn:
        """UnsupportedError."""
        refuse(IPC, "IPC")

    def open_ipc_handle(self, handle: Any, size: int) -> NoReturn:
        """UnsupportedError."""
        refuse(IPC, "IPC")

    def can_access_peer(self, peer_device: int) -> bool:
        """No: the session leases one GPU."""
        return False

    def enable_peer_access(self, peer_context: Any, flags: int = 0) -> NoReturn:
        """UnsupportedError."""
        refuse(PEER, "peer access")

    def create_module_ptx(self, ptx: Any) -> NoReturn:
        """UnsupportedError: the client's ``load_module`` does it."""
        refuse(IMAGE, "modules")

    def create_module_image(self, image: Any, *arguments: Any) -> NoReturn:
        """UnsupportedError: the client's ``load_module`` does it."""
        refuse(IMAGE, "modules")

    def unload_module(self, module: Any) -> NoReturn:
        """UnsupportedError: a module goes when nobody holds it."""
        refuse(IMAGE, "modules")

    # occupancy

    def get_active_blocks_per_multiprocessor(self, func: Any, blocksize: int, memsize: int, flags: Any = None) -> int:
        """How many blocks of a kernel run at once on a multiprocessor; ``func`` is one of a kernel's ``overloads``."""
        return blocks_per_multiprocessor(func.info, session().device.attributes, blocksize, memsize)

    def get_max_potential_block_size(
        self, func: Any, b2d_func: Any, memsize: int, blocksizelimit: int, flags: Any = None
    ) -> tuple[int, int]:
        """(blocks, threads of a block) that fill the GPU; ``b2d_func`` gives the dynamic shared memory for a block's size, if it is any."""
        attributes = session().device.attributes
        dynamic = b2d_func or (lambda threads: memsize)
        held, threads = fullest_block(func.info, attributes, dynamic, blocksizelimit)
        return held * attributes.get("MULTIPROCESSOR_COUNT", 1), threads
