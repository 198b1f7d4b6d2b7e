/* A small CUDA driver on the CPU: what the cuda device asks of libcuda, on host memory, and as lazy as CUDA may be.
 *
 * Work runs only when somebody waits for it, and then only what the streams' order demands: bytes reused before their copy has
 * run, a wait that was forgotten or memory unmapped under work show as wrong results. Memory is fresh with rubbish in it. What CUDA
 * leaves undefined ends the process. Kernels are known by name: `add`, `fault`, `forever`.
 * Semantics: CUDA Driver API; prototypes are checked against NVIDIA's own cuda.h when this is compiled.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CHUNK ((size_t)2 << 20)
#define CAPACITY 96 /* chunks */
#define COUNT_MAX 4096
#define SHARED_MAX (99 * 1024)
#define THREADS_HELD 2048 /* by a multiprocessor */
#define MULTIPROCESSORS 3
#define DIE(...) (fprintf(stderr, "double: " __VA_ARGS__), fputc('\n', stderr), abort())
#define REQUIRE(condition, result) do { if (!(condition)) return result; } while (0)
#define BAD CUDA_ERROR_INVALID_VALUE

enum kind { COPY, SET, LAUNCH, RECORD, WAIT };

struct operation {
    enum kind kind;
    int done, count;
    struct operation **before;
    CUdeviceptr target, source;
    size_t size, width;
    unsigned value;
    CUevent event;
    CUfunction function;
    unsigned char *arguments;
    unsigned threads;
};
struct CUstream_st { struct operation *last; int blocking, alive; };
struct CUevent_st { struct operation *last; int timing, alive; double ms; };
struct CUmod_st { char *image; int alive; };
struct CUfunc_st { CUmodule module; char name[128]; int count, dynamic_max; size_t offset[64], size[64]; };
struct range { size_t start, size; enum { FREE, RESERVED, MAPPED, PINNED, DEVICE } what; int handle, open; };

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pid_t owner;
static int retained, chunks, handles[COUNT_MAX], stream_count;
static __thread int current;
static CUresult sticky;
static struct CUstream_st legacy = {.alive = 1}, *streams[COUNT_MAX];
static struct range ranges[COUNT_MAX];

/* results */

static CUresult state(void) {
    REQUIRE(owner == getpid(), CUDA_ERROR_NOT_INITIALIZED); /* also in a child forked after cuInit */
    REQUIRE(current && retained, CUDA_ERROR_INVALID_CONTEXT);
    return sticky;
}
#define BEGIN pthread_mutex_lock(&lock)
#define END(result) do { CUresult found_ = (result); pthread_mutex_unlock(&lock); return found_; } while (0)
#define ENTER do { CUresult now_ = state(); if (now_) return now_; } while (0)

CUresult cuGetErrorName(CUresult error, const char **text) {
    switch (error) {
#define NAME(name) case name: *text = #name; return CUDA_SUCCESS;
        NAME(CUDA_SUCCESS) NAME(CUDA_ERROR_INVALID_VALUE) NAME(CUDA_ERROR_OUT_OF_MEMORY) NAME(CUDA_ERROR_NOT_INITIALIZED)
        NAME(CUDA_ERROR_INVALID_CONTEXT) NAME(CUDA_ERROR_INVALID_HANDLE) NAME(CUDA_ERROR_NOT_FOUND) NAME(CUDA_ERROR_NOT_READY)
        NAME(CUDA_ERROR_ILLEGAL_ADDRESS) NAME(CUDA_ERROR_INVALID_PTX) NAME(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)
        NAME(CUDA_ERROR_UNSUPPORTED_PTX_VERSION) NAME(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE)
        default: *text = NULL; return BAD;
    }
}
CUresult cuGetErrorString(CUresult error, const char **text) { *text = "as the double says"; return CUDA_SUCCESS; }

/* memory */

static struct range *find(size_t address, size_t size, int what) {
    for (int i = 0; i < COUNT_MAX; i++)
        if (ranges[i].what == what && ranges[i].start <= address && address + size <= ranges[i].start + ranges[i].size)
            return &ranges[i];
    return NULL;
}
static CUresult add(size_t start, size_t size, int what, int handle) {
    for (int i = 0; i < COUNT_MAX; i++)
        if (ranges[i].what == FREE) {
            ranges[i] = (struct range){start, size, what, handle, what != MAPPED};
            return CUDA_SUCCESS;
        }
    DIE("too many ranges");
}
static int device(size_t address, size_t size) { /* readable and writable by the device */
    if (find(address, size, DEVICE)) return 1;
    for (size_t at = address / CHUNK * CHUNK; at < address + size; at += CHUNK) {
        struct range *range = find(at, CHUNK, MAPPED);
        if (!range || !range->open) return 0;
    }
    return size > 0;
}
static void *pages(size_t size, int protection) {
    void *address = mmap(NULL, size + CHUNK, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return address == MAP_FAILED ? NULL : (void *)(((size_t)address + CHUNK - 1) / CHUNK * CHUNK);
}

/* streams: a graph of operations */

static struct CUstream_st *stream_of(CUstream stream) { return stream == NULL || stream == CU_STREAM_LEGACY ? &legacy : stream; }
static void after(struct operation *operation, struct operation *before) {
    if (!before || before->done) return;
    operation->before = realloc(operation->before, (operation->count + 1) * sizeof(before));
    operation->before[operation->count++] = before;
}
static struct operation *enqueue(enum kind kind, CUstream handle) {
    struct CUstream_st *stream = stream_of(handle);
    struct operation *operation = calloc(1, sizeof *operation);
    if (!stream->alive) DIE("work for a destroyed stream");
    operation->kind = kind;
    after(operation, stream->last);
    if (stream == &legacy)
        for (int i = 0; i < stream_count; i++) {
            if (streams[i]->alive && streams[i]->blocking) after(operation, streams[i]->last);
        }
    else if (stream->blocking) after(operation, legacy.last);
    return stream->last = operation;
}
static void launch(struct operation *operation) {
    struct { CUdeviceptr address; unsigned count, value; } *arguments = (void *)operation->arguments;
    const char *name = operation->function->name;
    if (!operation->function->module->alive) DIE("kernel %s runs after its module was unloaded", name);
    if (!strcmp(name, "fault")) sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
    else if (!strcmp(name, "forever")) for (;;) pause();
    else if (!strcmp(name, "talk")) printf("said %u\n", *(unsigned *)operation->arguments); /* kept by stdio, as the driver's */
    else if (!strcmp(name, "add")) {
        if (!device(arguments->address, 4 * (size_t)arguments->count)) { sticky = CUDA_ERROR_ILLEGAL_ADDRESS; return; }
        for (unsigned i = 0; i < arguments->count && i < operation->threads; i++)
            ((unsigned *)arguments->address)[i] += arguments->value;
    } else DIE("unknown kernel %s", name);
}
static void check(size_t address, size_t size) {
    if (!device(address, size) && !find(address, size, PINNED)) DIE("memory at %zx is gone and work still uses it", address);
}
static void run(struct operation *operation) {
    if (!operation || operation->done) return;
    for (int i = 0; i < operation->count; i++) run(operation->before[i]);
    operation->done = 1;
    if (sticky) return;
    struct timespec now;
    switch (operation->kind) {
        case COPY:
            check(operation->target, operation->size), check(operation->source, operation->size);
            memcpy((void *)operation->target, (void *)operation->source, operation->size);
            break;
        case SET:
            check(operation->target, operation->size * operation->width);
            for (size_t i = 0; i < operation->size; i++)
                memcpy((char *)operation->target + i * operation->width, &operation->value, operation->width);
            break;
        case LAUNCH: launch(operation); break;
        case RECORD:
            clock_gettime(CLOCK_MONOTONIC, &now);
            operation->event->ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
            break;
        case WAIT: break;
    }
}
static void run_all(void) {
    for (int i = 0; i < stream_count; i++) run(streams[i]->last);
    run(legacy.last);
}
static CUresult poll(struct operation *operation) { /* not done the first time: whoever asks often enough gets there */
    if (!operation || operation->done) return CUDA_SUCCESS;
    run(operation);
    return sticky ? sticky : CUDA_ERROR_NOT_READY;
}

/* the API: device and context */

CUresult cuInit(unsigned flags) { owner = owner ? owner : getpid(); return owner == getpid() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { REQUIRE(owner == getpid(), CUDA_ERROR_NOT_INITIALIZED); *count = 2; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }
CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    for (int i = 0; i < 16; i++) uuid->bytes[i] = (char)(0xF0 + i - 16 * device); /* NVML's GPU 0 is CUDA's device 1 */
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    REQUIRE(attribute < CU_DEVICE_ATTRIBUTE_MAX, BAD);
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : attribute == CU_DEVICE_ATTRIBUTE_WARP_SIZE ? 32 : 0;
    if (attribute == CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK) *value = 1024;
    if (attribute == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) *value = MULTIPROCESSORS;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    REQUIRE(owner == getpid(), CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(device == 1, CUDA_ERROR_INVALID_DEVICE);
    retained++;
    *context = (CUcontext)&retained;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { REQUIRE(retained, CUDA_ERROR_INVALID_CONTEXT); retained--; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { current = context != NULL; return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { BEGIN; CUresult now = state(); if (!now) run_all(); END(now ? now : sticky); }

/* the API: memory */

CUresult cuMemGetAllocationGranularity(size_t *size, const CUmemAllocationProp *properties, CUmemAllocationGranularity_flags option) {
    ENTER;
    REQUIRE(properties->type == CU_MEM_ALLOCATION_TYPE_PINNED && properties->location.id == 1, BAD);
    *size = CHUNK;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr *address, size_t size, size_t alignment, CUdeviceptr hint, unsigned long long flags) {
    ENTER;
    REQUIRE(size && size % CHUNK == 0 && !flags, BAD);
    *address = (CUdeviceptr)pages(size, PROT_NONE);
    return *address ? add(*address, size, RESERVED, 0) : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t size) {
    ENTER;
    struct range *range = find(address, size, RESERVED);
    REQUIRE(range && range->start == address && range->size == size, BAD);
    for (int i = 0; i < COUNT_MAX; i++)
        REQUIRE(ranges[i].what != MAPPED || ranges[i].start < address || ranges[i].start >= address + size, BAD);
    range->what = FREE;
    return munmap((void *)address, size) ? BAD : CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *properties, unsigned long long flags) {
    ENTER;
    REQUIRE(size == CHUNK && properties->type == CU_MEM_ALLOCATION_TYPE_PINNED && !flags, BAD);
    REQUIRE(properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE && properties->location.id == 1, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(chunks < CAPACITY, CUDA_ERROR_OUT_OF_MEMORY);
    for (int i = 1; i < COUNT_MAX; i++)
        if (!handles[i]) {
            *handle = i, handles[i] = 1, chunks++;
            return CUDA_SUCCESS;
        }
    DIE("too many handles");
}
static CUresult drop(int handle) { /* one reference fewer: the creator's or the mapping's */
    if (!--handles[handle]) chunks--;
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
    ENTER;
    REQUIRE(handle < COUNT_MAX && handles[handle], BAD);
    return drop((int)handle);
}
CUresult cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags) {
    ENTER;
    REQUIRE(handle < COUNT_MAX && handles[handle] == 1 && size == CHUNK && address % CHUNK == 0 && !offset && !flags, BAD);
    REQUIRE(find(address, size, RESERVED) && !find(address, size, MAPPED), BAD);
    handles[handle]++;
    mprotect((void *)address, size, PROT_READ | PROT_WRITE);
    memset((void *)address, 0xA5, size);
    mprotect((void *)address, size, PROT_NONE);
    return add(address, size, MAPPED, (int)handle);
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *access, size_t count) {
    ENTER;
    REQUIRE(count == 1 && access->location.type == CU_MEM_LOCATION_TYPE_DEVICE && access->location.id == 1, CUDA_ERROR_INVALID_DEVICE);
    REQUIRE(access->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE && address % CHUNK == 0 && size && size % CHUNK == 0, BAD);
    for (size_t at = address; at < address + size; at += CHUNK) REQUIRE(find(at, CHUNK, MAPPED), BAD);
    for (size_t at = address; at < address + size; at += CHUNK) find(at, CHUNK, MAPPED)->open = 1;
    return mprotect((void *)address, size, PROT_READ | PROT_WRITE) ? BAD : CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t size) {
    ENTER;
    struct range *range = find(address, size, MAPPED);
    REQUIRE(range && range->start == address && range->size == size, BAD);
    for (size_t at = 0; at < size && range->open; at++)
        if (((char *)address)[at]) DIE("memory at %llx is unmapped before it was scrubbed", address);
    range->what = FREE;
    mprotect((void *)address, size, PROT_NONE);
    return drop(range->handle);
}
static CUresult allocate(size_t *address, size_t size, int what) {
    ENTER;
    REQUIRE(size, BAD);
    *address = (size_t)pages(size, PROT_READ | PROT_WRITE);
    memset((void *)*address, 0xA5, size);
    return add(*address, size, what, 0);
}
static CUresult release(size_t address, int what) {
    BEGIN;
    struct range *range = find(address, 1, what);
    if (!range || range->start != address) END(BAD);
    run_all();
    range->what = FREE;
    munmap((void *)address, range->size);
    END(CUDA_SUCCESS);
}
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) { return allocate((size_t *)address, size, DEVICE); }
CUresult cuMemFree(CUdeviceptr address) { return release(address, DEVICE); }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags) { return allocate((size_t *)address, size, PINNED); }
CUresult cuMemFreeHost(void *address) { return release((size_t)address, PINNED); }

/* the API: copies and fills */

static CUresult copy(size_t target, size_t source, size_t size, int ready, CUstream stream) {
    ENTER;
    REQUIRE(ready, BAD);
    BEGIN;
    struct operation *operation = enqueue(COPY, stream);
    operation->target = target, operation->source = source, operation->size = size;
    END(CUDA_SUCCESS);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t size, CUstream stream) {
    if (!find((size_t)source, size, PINNED)) DIE("a copy from memory that is not pinned");
    return copy(target, (size_t)source, size, device(target, size), stream);
}
CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream) {
    if (!find((size_t)target, size, PINNED)) DIE("a copy to memory that is not pinned");
    return copy((size_t)target, source, size, device(source, size), stream);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream) {
    if (target < source + size && source < target + size) DIE("a copy between overlapping ranges");
    return copy(target, source, size, device(target, size) && device(source, size), stream);
}
static CUresult set(size_t target, unsigned value, size_t width, size_t count, CUstream stream) {
    ENTER;
    REQUIRE(target % width == 0 && device(target, count * width), BAD);
    BEGIN;
    struct operation *operation = enqueue(SET, stream);
    operation->target = target, operation->value = value, operation->width = width, operation->size = count;
    END(CUDA_SUCCESS);
}
CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream) { return set(target, value, 1, count, stream); }
CUresult cuMemsetD16Async(CUdeviceptr target, unsigned short value, size_t count, CUstream stream) { return set(target, value, 2, count, stream); }
CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream) { return set(target, value, 4, count, stream); }

/* the API: streams and events */

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    ENTER;
    if (stream_count == COUNT_MAX) DIE("too many streams");
    *stream = streams[stream_count++] = calloc(1, sizeof **stream);
    (*stream)->alive = 1, (*stream)->blocking = flags == CU_STREAM_DEFAULT;
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) { ENTER; REQUIRE(stream->alive, CUDA_ERROR_INVALID_HANDLE); stream->alive = 0; return CUDA_SUCCESS; }
CUresult cuStreamQuery(CUstream stream) { BEGIN; CUresult now = state(); END(now ? now : poll(stream_of(stream)->last)); }
CUresult cuStreamSynchronize(CUstream stream) { BEGIN; CUresult now = state(); if (!now) run(stream_of(stream)->last); END(now ? now : sticky); }
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    ENTER;
    if (!event->alive) DIE("a wait for a destroyed event");
    BEGIN;
    after(enqueue(WAIT, stream), event->last);
    END(CUDA_SUCCESS);
}
CUresult cuEventCreate(CUevent *event, unsigned flags) {
    ENTER;
    *event = calloc(1, sizeof **event);
    (*event)->alive = 1, (*event)->timing = !(flags & CU_EVENT_DISABLE_TIMING);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) { ENTER; REQUIRE(event->alive, CUDA_ERROR_INVALID_HANDLE); event->alive = 0; return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
    ENTER;
    if (!event->alive) DIE("a record of a destroyed event");
    BEGIN;
    event->last = enqueue(RECORD, stream);
    event->last->event = event;
    END(CUDA_SUCCESS);
}
CUresult cuEventQuery(CUevent event) { BEGIN; CUresult now = state(); END(now ? now : poll(event->last)); }
CUresult cuEventSynchronize(CUevent event) { BEGIN; CUresult now = state(); if (!now) run(event->last); END(now ? now : sticky); }
CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end) {
    ENTER;
    REQUIRE(start->last && end->last && start->timing && end->timing, CUDA_ERROR_INVALID_HANDLE);
    REQUIRE(start->last->done && end->last->done, CUDA_ERROR_NOT_READY);
    *ms = (float)(end->ms - start->ms);
    return CUDA_SUCCESS;
}

/* the API: modules and launches */

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values) {
    ENTER;
    if (!memcmp(image, "\x7f" "ELF", 4)) image = ".version 0 .entry add(.param .u64 a, .param .u32 b, .param .u32 c)";
    const char *version = strstr(image, ".version ");
    if (!version) {
        for (unsigned i = 0; i < count; i++)
            if (options[i] == CU_JIT_ERROR_LOG_BUFFER) strcpy(values[i], "ptxas fatal: Missing .version directive");
        return CUDA_ERROR_INVALID_PTX;
    }
    REQUIRE(atoi(version + 9) < 9, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
    *module = calloc(1, sizeof **module);
    (*module)->image = strdup(image), (*module)->alive = 1;
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) { ENTER; module->alive = 0; return CUDA_SUCCESS; }
static size_t size_of(const char *type) { return (size_t)atoi(type + 2) / 8; } /* .u32, .b64, .f32 */
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    ENTER;
    char head[160];
    snprintf(head, sizeof head, ".entry %s(", name);
    const char *at = strstr(module->image, head), *end = at ? strchr(at, ')') : NULL;
    REQUIRE(end, CUDA_ERROR_NOT_FOUND);
    CUfunction found = *function = calloc(1, sizeof *found);
    found->module = module, found->dynamic_max = 48 * 1024;
    snprintf(found->name, sizeof found->name, "%s", name);
    size_t offset = 0;
    while ((at = strstr(at, ".param ")) && at < end) {
        size_t size = size_of(at += 7);
        offset = (offset + size - 1) / size * size;
        found->offset[found->count] = offset, found->size[found->count++] = size;
        offset += size;
    }
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    ENTER;
    *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : attribute == CU_FUNC_ATTRIBUTE_NUM_REGS ? 16 : 0;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    ENTER;
    REQUIRE(attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES && value >= 0 && value <= SHARED_MAX, BAD);
    function->dynamic_max = value;
    return CUDA_SUCCESS;
}
CUresult cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *size) {
    ENTER;
    REQUIRE(index < (size_t)function->count, BAD);
    *offset = function->offset[index], *size = function->size[index];
    return CUDA_SUCCESS;
}
static CUresult queue(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, CUstream stream, void **parameters, void **extra) {
    ENTER;
    REQUIRE(gx && gy && gz && bx && by && bz && (size_t)bx * by * bz <= 1024 && gy < 65536 && gz < 65536, BAD);
    REQUIRE(shared <= (unsigned)function->dynamic_max && !parameters, BAD);
    size_t needed = function->count ? function->offset[function->count - 1] + function->size[function->count - 1] : 0, given = 0;
    void *buffer = NULL;
    for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = extra[1];
        else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) given = *(size_t *)extra[1];
        else DIE("an unknown extra of a launch");
    }
    if (given != needed) DIE("a launch of %s with %zu bytes of arguments, not %zu", function->name, given, needed);
    BEGIN;
    struct operation *operation = enqueue(LAUNCH, stream);
    operation->function = function, operation->threads = gx * gy * gz * bx * by * bz;
    operation->arguments = memcpy(malloc(needed + 1), buffer ? buffer : "", needed);
    END(CUDA_SUCCESS);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction function, int threads, size_t shared) {
    ENTER;
    REQUIRE(threads > 0 && shared <= (size_t)function->dynamic_max, BAD);
    *count = THREADS_HELD / threads;
    return CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **parameters, void **extra) {
    if (strstr(function->module->image, "%envreg")) DIE("%s waits for its grid, and is launched as if it did not", function->name);
    return queue(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra);
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction function, void **parameters, void **extra) {
    if (c->numAttrs != 1 || c->attrs->id != CU_LAUNCH_ATTRIBUTE_COOPERATIVE || !c->attrs->value.cooperative) DIE("an unknown attribute");
    int held = 0;
    CUresult result = cuOccupancyMaxActiveBlocksPerMultiprocessor(&held, function, c->blockDimX * c->blockDimY * c->blockDimZ, c->sharedMemBytes);
    if (result) return result;
    REQUIRE(c->gridDimX * c->gridDimY * c->gridDimZ <= (unsigned)held * MULTIPROCESSORS, CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    return queue(function, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ, c->sharedMemBytes, c->hStream,
                  parameters, extra);
}

/* how cuda-bindings finds all this */

#define F(name) {#name, (void *)name}
static const struct { const char *name; void *function; } table[] = {
    F(cuGetErrorName), F(cuGetErrorString), F(cuInit), F(cuDriverGetVersion), F(cuDeviceGetCount), F(cuDeviceGet), F(cuDeviceGetUuid),
    F(cuDeviceGetAttribute), F(cuDevicePrimaryCtxRetain), F(cuDevicePrimaryCtxRelease), F(cuCtxSetCurrent), F(cuCtxSynchronize),
    F(cuMemGetAllocationGranularity), F(cuMemAddressReserve), F(cuMemAddressFree), F(cuMemCreate), F(cuMemRelease), F(cuMemMap),
    F(cuMemSetAccess), F(cuMemUnmap), F(cuMemAlloc), F(cuMemFree), F(cuMemHostAlloc), F(cuMemFreeHost), F(cuMemcpyHtoDAsync),
    F(cuMemcpyDtoHAsync), F(cuMemcpyDtoDAsync), F(cuMemsetD8Async), F(cuMemsetD16Async), F(cuMemsetD32Async), F(cuStreamCreate),
    F(cuStreamDestroy), F(cuStreamQuery), F(cuStreamSynchronize), F(cuStreamWaitEvent), F(cuEventCreate), F(cuEventDestroy),
    F(cuEventRecord), F(cuEventQuery), F(cuEventSynchronize), F(cuEventElapsedTime), F(cuModuleLoadDataEx), F(cuModuleUnload),
    F(cuModuleGetFunction), F(cuFuncGetAttribute), F(cuFuncSetAttribute), F(cuFuncGetParamInfo), F(cuLaunchKernel),
    F(cuLaunchKernelEx), F(cuOccupancyMaxActiveBlocksPerMultiprocessor),
};
CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    *function = NULL;
    if (!strcmp(symbol, "cuGetProcAddress")) *function = (void *)cuGetProcAddress;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(symbol, table[i].name)) *function = table[i].function;
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
