/* A libcuda.so.1 with just the calls of the self-test, and faults to inject.
 *
 * Device memory is host memory, and the kernel is the one below, written again in C from its
 * description. CUDA_VISIBLE_DEVICES counts as it does for the real library.
 *
 * The file named by FAKE_CUDA, or else `faults` beside the library, has one fault per line:
 *
 *     fail CALL CODE      that call returns CODE
 *     hang CALL           that call does not return
 *     mode NUMBER         the compute mode (default 0; 3 is exclusive process)
 *     free BYTES          so much memory is free (default 80 GiB)
 *     flip memory BYTE    one bit of that byte of memory is stuck at 1
 *     flip thread NUMBER  that thread computes one bit wrongly
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALL_DEVICES 3
#define TOTAL_BYTES (80ull << 30)
#define MIN(a, b) ((a) < (b) ? (a) : (b))

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_PTX = 218, NOT_FOUND = 500,
};

static struct {
    int initialized, retained, current;
    unsigned char *memory;
    size_t size;
    int modules;
} gpu;

static FILE *open_faults(void)
{
    const char *named = getenv("FAKE_CUDA");
    Dl_info library;
    char beside[4096];
    if (named)
        return fopen(named, "r");
    if (!dladdr((void *)(uintptr_t)open_faults, &library))
        return NULL;
    const char *slash = strrchr(library.dli_fname, '/');
    if (!slash)
        return NULL;
    int directory = (int)(slash - library.dli_fname);
    snprintf(beside, sizeof beside, "%.*s/faults", directory, library.dli_fname);
    return fopen(beside, "r");
}

/* The number in the first line of the fault file that begins so; -1 without one. */
static long long fault(const char *begin)
{
    FILE *file = open_faults();
    char line[256];
    long long found = -1;
    while (file && found < 0 && fgets(line, sizeof line, file))
        if (!strncmp(line, begin, strlen(begin)))
            found = atoll(line + strlen(begin));
    if (file)
        fclose(file);
    return found;
}

static int injected(const char *call)
{
    char line[128];
    snprintf(line, sizeof line, "hang %s\n", call);
    while (fault(line) >= 0)
        sleep(1);
    snprintf(line, sizeof line, "fail %s ", call);
    long long code = fault(line);
    return code < 0 ? SUCCESS : (int)code;
}

/* Leaves the call when a fault is injected or what it needs is not there. */
#define ENTER(ready, otherwise)                  \
    do {                                         \
        int code = injected(__func__);           \
        if (code || !(ready))                    \
            return code ? code : (otherwise);    \
    } while (0)
#define ENTER_IN_CONTEXT() ENTER(gpu.current, gpu.initialized ? INVALID_CONTEXT : NOT_INITIALIZED)

static int visible(void)
{
    const char *names = getenv("CUDA_VISIBLE_DEVICES");
    if (!names)
        return ALL_DEVICES;
    int count = *names != '\0';
    for (; *names; names++)
        count += *names == ',';
    return count;
}

int cuInit(unsigned flags)
{
    ENTER(flags == 0, INVALID_VALUE);
    if (visible() == 0)
        return NO_DEVICE;
    gpu.initialized = 1;
    return SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    ENTER(gpu.initialized, NOT_INITIALIZED);
    *count = visible();
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal)
{
    ENTER(gpu.initialized, NOT_INITIALIZED);
    if (ordinal < 0 || ordinal >= visible())
        return INVALID_DEVICE;
    *device = 40 + ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int size, int device)
{
    ENTER(device >= 40, INVALID_DEVICE);
    snprintf(name, (size_t)size, "Fake CUDA GPU");
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    ENTER(device >= 40, INVALID_DEVICE);
    if (attribute != 20) /* the compute mode */
        return INVALID_VALUE;
    *value = fault("mode ") < 0 ? 0 : (int)fault("mode ");
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device)
{
    ENTER(device >= 40, INVALID_DEVICE);
    gpu.retained = 1;
    *context = &gpu;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
    ENTER(device >= 40 && gpu.retained, INVALID_CONTEXT);
    gpu.retained = gpu.current = 0;
    return SUCCESS;
}

int cuCtxSetCurrent(void *context)
{
    ENTER(gpu.retained && context == &gpu, INVALID_CONTEXT);
    gpu.current = 1;
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    ENTER_IN_CONTEXT();
    long long left = fault("free ");
    *free_bytes = left < 0 ? TOTAL_BYTES : (size_t)left;
    *total_bytes = TOTAL_BYTES;
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    ENTER_IN_CONTEXT();
    if (gpu.memory || !(gpu.memory = malloc(size)))
        return OUT_OF_MEMORY;
    gpu.size = size;
    *address = (uint64_t)(uintptr_t)gpu.memory;
    return SUCCESS;
}

/* The offset of an address in the allocation; -1 when the range does not lie within. */
static int64_t offset_of(uint64_t address, size_t size)
{
    uint64_t start = (uint64_t)(uintptr_t)gpu.memory;
    if (!gpu.memory || address < start || address + size > start + gpu.size)
        return -1;
    return (int64_t)(address - start);
}

int cuMemFree_v2(uint64_t address)
{
    ENTER_IN_CONTEXT();
    if (offset_of(address, gpu.size) != 0)
        return INVALID_VALUE;
    free(gpu.memory);
    gpu.memory = NULL;
    return SUCCESS;
}

int cuMemsetD32_v2(uint64_t address, unsigned word, size_t words)
{
    ENTER_IN_CONTEXT();
    int64_t offset = offset_of(address, words * 4);
    if (offset < 0 || offset % 4)
        return INVALID_VALUE;
    for (size_t i = 0; i < words; i++)
        memcpy(gpu.memory + offset + i * 4, &word, 4);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void *host, uint64_t address, size_t size)
{
    ENTER_IN_CONTEXT();
    int64_t offset = offset_of(address, size), stuck = fault("flip memory ");
    if (offset < 0)
        return INVALID_VALUE;
    memcpy(host, gpu.memory + offset, size);
    if (stuck >= offset && stuck < offset + (int64_t)size)
        ((unsigned char *)host)[stuck - offset] |= 0x10;
    return SUCCESS;
}

int cuModuleLoadDataEx(void **module, const char *image, unsigned count, const int *options,
                       void **values)
{
    for (unsigned i = 0; i + 1 < count; i++)
        if (options[i] == 5 && options[i + 1] == 6) /* the error log, and its size */
            snprintf(values[i], (size_t)(uintptr_t)values[i + 1], "ptxas fatal: fake");
    ENTER_IN_CONTEXT();
    if (!strstr(image, ".visible .entry muai_self_test("))
        return INVALID_PTX;
    gpu.modules++;
    *module = &gpu.modules;
    return SUCCESS;
}

int cuModuleUnload(void *module)
{
    ENTER(module == &gpu.modules && gpu.modules == 1, INVALID_VALUE);
    gpu.modules--;
    return SUCCESS;
}

/* One thread: `lane` is its number in the bits of the mask. */
static uint32_t kernel(uint32_t lane, uint32_t rounds)
{
    const uint32_t one = 0x3F800000, mantissa = 0x007FFFFF;
    uint32_t hash = lane, bits;
    float x = 1, y, z;
    while (rounds--) {
        hash = hash * 1664525u + 1013904223u;
        hash ^= hash >> 15;
        bits = hash >> 9 | one;
        memcpy(&y, &bits, 4);
        bits = (hash & mantissa) | one;
        memcpy(&z, &bits, 4);
        x = fmaf(x, y, z);
        memcpy(&bits, &x, 4);
        hash ^= bits;
        bits = (bits & mantissa) | one;
        memcpy(&x, &bits, 4);
    }
    return hash;
}

int cuModuleGetFunction(void **function, void *module, const char *name)
{
    ENTER(module == &gpu.modules, INVALID_VALUE);
    if (strcmp(name, "muai_self_test"))
        return NOT_FOUND;
    *function = (void *)(uintptr_t)kernel;
    return SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void *stream, void **parameters, void **extra)
{
    ENTER_IN_CONTEXT();
    int flat = grid_y == 1 && grid_z == 1 && block_y == 1 && block_z == 1 && block_x <= 1024;
    if (function != (void *)(uintptr_t)kernel || !flat || shared_bytes || stream || extra)
        return INVALID_VALUE;
    uint64_t results = *(uint64_t *)parameters[0];
    uint32_t threads = *(uint32_t *)parameters[1], mask = *(uint32_t *)parameters[2];
    uint32_t rounds = *(uint32_t *)parameters[3];
    int64_t offset = offset_of(results, (size_t)threads * 4), wrong = fault("flip thread ");
    uint32_t launched = MIN(grid_x * block_x, threads);
    if (offset < 0 || !rounds)
        return INVALID_VALUE;
    for (uint32_t i = 0; i < launched; i++) {
        /* Threads of one lane compute the same: the first one's result will do. */
        unsigned char *place = gpu.memory + offset;
        uint32_t lane = i & mask, result;
        if (i == lane)
            result = kernel(lane, rounds);
        else
            memcpy(&result, place + (size_t)lane * 4, 4);
        memcpy(place + (size_t)i * 4, &result, 4);
    }
    if (wrong >= 0 && wrong < launched)
        gpu.memory[offset + wrong * 4] ^= 0x10;
    return SUCCESS;
}

int cuCtxSynchronize(void)
{
    ENTER_IN_CONTEXT();
    return SUCCESS;
}

int cuGetErrorName(int code, const char **name)
{
    if (code != 12345)
        return INVALID_VALUE;
    *name = "CUDA_ERROR_OF_TOMORROW";
    return SUCCESS;
}
