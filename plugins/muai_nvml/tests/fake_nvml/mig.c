/* MIG: a GPU's devices, in keys that start with mig.INDEX. */
#include "state.h"

API int nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned *answer)
{
    struct device device;
    int code = answer ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    *answer = device.mig != NO_MIG;
    leave();
    return NVML_SUCCESS;
}

API int nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned index,
                                            nvmlDevice_t *mig)
{
    struct device device;
    nvmlU64 mode;
    int code = mig ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "mig_mode", 1, &mode);
    if (!code && (index >= MAX_MIG || !has_mig(device.gpu, (int)index)))
        code = NVML_ERROR_NOT_FOUND;
    if (!code)
        *mig = mig_handle(device.gpu, (int)index);
    leave();
    return code;
}

API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *parent)
{
    struct device device;
    int code = parent ? pass_device(__func__, mig, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = device.mig == NO_MIG ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
    if (!code)
        *parent = gpu_handle(device.gpu);
    leave();
    return code;
}

API int nvmlDeviceGetAttributes_v2(nvmlDevice_t handle, nvmlDeviceAttributes_t *out)
{
    struct device device;
    nvmlU64 all[9];
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "attributes", 9, all);
    if (!code) {
        unsigned *counts = &out->multiprocessorCount;
        for (int i = 0; i < 8; i++)
            counts[i] = (unsigned)all[i];
        out->memorySizeMB = all[8];
    }
    leave();
    return code;
}
