/* The library, its version, counting GPUs and finding them: what names no device, or yields one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "state.h"

API const char *nvmlErrorString(int code)
{
    static const char *const texts[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported",
        "Insufficient Permissions", "Already Initialized", "Not Found", "Insufficient Size",
        "Insufficient External Power", "Driver Not Loaded", "Timeout", "Interrupt Request Issue",
        "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM",
        "GPU is lost", "GPU requires reset",
        "The operating system has blocked the request.", "Driver/library version mismatch",
        "In use by another client", "Insufficient Memory", "No data",
        "The requested vgpu operation is not available on target device, because ECC is enabled",
        "Insufficient Resources", "Frequency Not Supported", "Argument Version Mismatch",
        "This functionality has been deprecated", "Not Ready", "GPU Not Found", "Invalid State",
        "Reset Type Not Supported",
    };
    if (code >= 0 && code < (int)(sizeof texts / sizeof *texts))
        return texts[code];
    return "Unknown Error";
}

API int nvmlInitWithFlags(unsigned flags) { (void)flags; return driver_attach(__func__); }
API int nvmlInit_v2(void) { return driver_attach(__func__); }
API int nvmlInit(void) { return driver_attach(__func__); }
API int nvmlShutdown(void) { return driver_detach(__func__); }

static int system_text(const char *function, const char *key, char *text, unsigned length)
{
    int code = text ? pass(function, SYSTEM) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = give_text(setting(SYSTEM, key), text, length);
    leave();
    return code;
}

API int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    return system_text(__func__, "driver_version", text, length);
}

API int nvmlSystemGetNVMLVersion(char *text, unsigned length)
{
    return system_text(__func__, "nvml_version", text, length);
}

static int cuda_version(const char *function, int *version)
{
    char text[32];
    int code = version ? system_text(function, "cuda_driver_version", text, sizeof text)
                       : NVML_ERROR_INVALID_ARGUMENT;
    if (!code)
        *version = atoi(text);
    return code;
}

API int nvmlSystemGetCudaDriverVersion(int *version) { return cuda_version(__func__, version); }
API int nvmlSystemGetCudaDriverVersion_v2(int *version) { return cuda_version(__func__, version); }

API int nvmlDeviceGetCount_v2(unsigned *count)
{
    int code = count ? pass(__func__, SYSTEM) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    *count = (unsigned)gpu_count();
    leave();
    return NVML_SUCCESS;
}

/* The second half of every way to a handle: the GPU itself has its say. */
static int open_gpu(const char *function, int gpu, int mig, nvmlDevice_t *handle)
{
    int code = pass(function, gpu);
    if (code)
        return code;
    *handle = mig == NO_MIG ? gpu_handle(gpu) : mig_handle(gpu, mig);
    leave();
    return NVML_SUCCESS;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *handle)
{
    int code = handle ? pass(__func__, SYSTEM) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    int gpu = index < (unsigned)gpu_count() ? gpu_at((int)index) : -1;
    leave();
    return gpu < 0 ? NVML_ERROR_INVALID_ARGUMENT : open_gpu(__func__, gpu, NO_MIG, handle);
}

static bool same_text(const char *value, const char *wanted)
{
    return !strcasecmp(value, wanted);
}

/* Domains are written with four digits or with eight. */
static bool same_bus_id(const char *value, const char *wanted)
{
    unsigned one[4], other[4] = {0};
    if (sscanf(value, "%x:%x:%x.%x", &one[0], &one[1], &one[2], &one[3]) != 4)
        return false;
    if (sscanf(wanted, "%x:%x:%x.%x", &other[0], &other[1], &other[2], &other[3]) < 3)
        return false;
    return !memcmp(one, other, sizeof one);
}

static int handle_by(const char *function, const char *key, const char *wanted,
                     bool (*matches)(const char *, const char *), nvmlDevice_t *handle)
{
    int code = wanted && handle ? pass(function, SYSTEM) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    struct device found = {-1, NO_MIG};
    for (int index = 0; index < gpu_count() && found.gpu < 0; index++)
        for (int mig = NO_MIG; mig < MAX_MIG; mig++) {
            const struct device device = {gpu_at(index), mig};
            const char *value = value_of(&device, key);
            if (value && matches(value, wanted) && (mig == NO_MIG || has_mig(device.gpu, mig))) {
                found = device;
                break;
            }
        }
    leave();
    if (found.gpu < 0)
        return NVML_ERROR_NOT_FOUND;
    return open_gpu(function, found.gpu, found.mig, handle);
}

API int nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *handle)
{
    return handle_by(__func__, "uuid", uuid, same_text, handle);
}

API int nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *handle)
{
    return handle_by(__func__, "serial", serial, same_text, handle);
}

API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *handle)
{
    return handle_by(__func__, "pci_bus_id", bus_id, same_bus_id, handle);
}

/* What the fake does not play: NOT_SUPPORTED, once the device that it is asked of has had its
 * say. The build makes one such function of every other symbol that pynvml knows. */
int not_played(const char *function, const void *first)
{
    struct device device;
    int code = is_handle(first) ? pass_device(function, first, &device) : pass(function, SYSTEM);
    if (code)
        return code;
    leave();
    return NVML_ERROR_NOT_SUPPORTED;
}
