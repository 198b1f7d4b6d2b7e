"""Every limit that protects one side from the other, with its reason. Owns numbers only.

The welcome tells the client those that bind it; docs/reference/wire.md section 7 lists them.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

METADATA_SIZE_MAX = 4 * MIB
"""Metadata of one frame: a full batch is 64 KiB, the largest single message a kernel's source or a PTX image."""

HELLO_SIZE_MAX = 16 * KIB
"""Metadata of a hello or welcome: it comes from a peer that has not shown who it is."""

PAYLOAD_SIZE_MAX = 64 * MIB
"""Payload of one frame: nobody can make the other side wait for more than this before a message may pass."""

CHUNK_SIZE = 4 * MIB
"""Payload of one frame of a large copy. See docs/design/data-path.md for the measurement."""

INLINE_SIZE_MAX = 16 * KIB
"""A host-to-device copy up to this size travels inside a batch: the copy costs less than a frame of its own."""

BATCH_SIZE = 32 * KIB
"""Bytes of posted operations after which a batch is sent: some hundred launches, about one socket write's fixed cost."""

BATCH_COUNT_MAX = 1024
"""Posted operations in one frame, at most: bounds what the server executes before it looks at the socket again."""

FLUSH_DELAY_S = 0.001
"""How long posted work may sit in a batch while the program is idle."""

CREDIT_COUNT = 16384
"""Posted operations a client may have sent that the worker has not yet executed; like CUDA's launch queue (1024), but for batches."""

OUTPUT_SIZE_MAX = 16 * MIB
"""What kernels have printed and the program has not been shown yet. CUDA's own buffer is 1 MiB, emptied at every launch; ours is emptied
at every call, which may be many launches later.
"""

OUTPUT_PIECE_SIZE = 32 * KIB
"""Printed bytes of one frame: with its head it fits the receiver's reused buffer."""

OUTPUT_METADATA_SIZE_MAX = OUTPUT_PIECE_SIZE + 64
"""Metadata of one frame of output: a piece and what msgpack puts around it."""

ARGUMENTS_SIZE_MAX = 4096
"""Packed kernel arguments (CUDA C++ Programming Guide, __global__ parameters: 4 KiB before sm_70; numba's kernels need far less)."""

PATTERN_SIZE_MAX = 256
"""Bytes of a fill pattern: one array element of any ordinary dtype."""

SOURCE_SIZE_MAX = 1 * MIB
"""A kernel's captured source with its device functions and constants."""

NAME_SIZE_MAX = 1024
"""Characters of a function's name in a module: a mangled one has some hundred."""

IMAGE_SIZE_MAX = 3 * MIB
"""A PTX, cubin or fatbin image sent in one message; below METADATA_SIZE_MAX."""

HANDLE_COUNT_MAX = 65536
"""Streams, events, functions or modules of one session, each: a leak in a client stays the client's."""

ALLOCATION_COUNT_MAX = 1 << 20
"""Live allocations of one session."""

ADDRESS_ALIGNMENT = 256
"""Alignment of allocations in bytes (CUDA C++ Programming Guide, Device Memory Accesses: at least 256)."""

MEMORY_CHUNK_SIZE = 2 * MIB
"""Mapping granularity: what cuMemGetAllocationGranularity reports on every current NVIDIA GPU."""

LEASE_TEXT_SIZE_MAX = 64
"""Characters of a lease's id or key: ours have 16 and 43."""

FILTER_COUNT_MAX = 32
"""Filters of one request: there are fewer keys than that to filter by."""

FILTER_SIZE_MAX = 256
"""Characters of one filter: a key, a comparison and a host's name."""

WAITING_REASON_COUNT_MAX = 64
"""GPUs whose reasons a WAITING frame names; of the others it gives the count."""

WAITING_TEXT_SIZE_MAX = 200
"""Characters of each text in a WAITING frame: all of them fit into its metadata."""

HELLO_TIMEOUT_S = 10.0
"""A peer that connects and says nothing is dropped after this."""
