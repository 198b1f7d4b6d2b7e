/* A small NVML: one GPU of 256 MiB, the second of the driver double beside it. Types as pynvml has them. */
#include <stdio.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } nvmlMemory_t;

int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int result) { return result == 3 ? "Not Supported" : "an error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = "GPU 0"; return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned size) { snprintf(name, size, "Double"); return 0; }
int nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-e0e1e2e3-e4e5-e6e7-e8e9-eaebecedeeef");
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) { *major = 8; *minor = 0; return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned size) { snprintf(version, size, "580.65.06"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return 0; }
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) { return 3; }
int nvmlDeviceGetMemoryInfo(void *device, nvmlMemory_t *memory) {
    *memory = (nvmlMemory_t){256ull << 20, 256ull << 20, 0};
    return 0;
}
