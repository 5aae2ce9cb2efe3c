/* Memory, utilization, temperature and time lost, where the answer is a structure. */
#include "state.h"

static int memory(const char *function, nvmlDevice_t handle, nvmlMemory_v2_t *memory)
{
    struct device device;
    nvmlU64 total, used, reserved = 0;
    int code = pass_device(function, handle, &device);
    if (code)
        return code;
    code = numbers_of(&device, "memory_total_bytes", 1, &total);
    if (!code)
        code = numbers_of(&device, "memory_used_bytes", 1, &used);
    if (!code) {
        numbers_of(&device, "memory_reserved_bytes", 1, &reserved);
        memory->total = total;
        memory->reserved = reserved;
        memory->used = used;
        memory->free = total > used + reserved ? total - used - reserved : 0;
    }
    leave();
    return code;
}

/* Version 1 counts what the driver reserves as used. */
API int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out)
{
    nvmlMemory_v2_t all;
    int code = out ? memory(__func__, device, &all) : NVML_ERROR_INVALID_ARGUMENT;
    if (!code)
        *out = (nvmlMemory_t){all.total, all.free, all.used + all.reserved};
    return code;
}

API int nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!version_is(out->version, sizeof *out, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return memory(__func__, device, out);
}

API int nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t handle, nvmlBAR1Memory_t *out)
{
    struct device device;
    nvmlU64 both[2];
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "bar1_total_used_bytes", 2, both);
    if (!code)
        *out = (nvmlBAR1Memory_t){both[0], both[0] - both[1], both[1]};
    leave();
    return code;
}

API int nvmlDeviceGetUtilizationRates(nvmlDevice_t handle, nvmlUtilization_t *out)
{
    struct device device;
    nvmlU64 gpu, memory;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "utilization_percent", 1, &gpu);
    if (!code)
        code = numbers_of(&device, "memory_utilization_percent", 1, &memory);
    if (!code)
        *out = (nvmlUtilization_t){(unsigned)gpu, (unsigned)memory};
    leave();
    return code;
}

API int nvmlDeviceGetTemperatureV(nvmlDevice_t handle, nvmlTemperature_v1_t *out)
{
    struct device device;
    nvmlU64 celsius;
    if (!out || out->sensorType)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!version_is(out->version, sizeof *out, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    int code = pass_device(__func__, handle, &device);
    if (code)
        return code;
    code = numbers_of(&device, "temperature_celsius", 1, &celsius);
    if (!code)
        out->temperature = (int)celsius;
    leave();
    return code;
}

API int nvmlDeviceGetMarginTemperature(nvmlDevice_t handle, nvmlMarginTemperature_v1_t *out)
{
    struct device device;
    nvmlU64 celsius;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "temperature_margin_celsius", 1, &celsius);
    if (!code)
        out->marginTemperature = (int)celsius;
    leave();
    return code;
}

API int nvmlDeviceGetViolationStatus(nvmlDevice_t handle, unsigned policy,
                                     nvmlViolationTime_t *out)
{
    struct device device;
    nvmlU64 ns;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = number_at(&device, "violation_ns.%u", policy, &ns);
    if (!code)
        *out = (nvmlViolationTime_t){now_us(), ns};
    leave();
    return code;
}
