/* What runs on a GPU: `compute_processes PID:BYTES|na[:GPU_INSTANCE:COMPUTE_INSTANCE] ...`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

static nvmlU64 number_or_none(const char *text)
{
    return strncmp(text, "na", 2) ? strtoull(text, NULL, 0) : ~0ull;
}

static nvmlProcessInfo_v2_t parse_process(const char *text)
{
    char bytes[32] = "na", gi[16] = "na", ci[16] = "na";
    nvmlProcessInfo_v2_t process = {0};
    sscanf(text, "%u:%31[^: ]:%15[^: ]:%15[^: ]", &process.pid, bytes, gi, ci);
    process.usedGpuMemory = number_or_none(bytes);
    process.gpuInstanceId = (unsigned)number_or_none(gi);
    process.computeInstanceId = (unsigned)number_or_none(ci);
    return process;
}

/* A MIG device is asked for its own processes; they are listed with the whole GPU's. */
static bool runs_on(const struct device *device, const nvmlProcessInfo_v2_t *process)
{
    nvmlU64 gi, ci;
    if (device->mig == NO_MIG)
        return true;
    return !numbers_of(device, "gpu_instance", 1, &gi) && gi == process->gpuInstanceId &&
           !numbers_of(device, "compute_instance", 1, &ci) && ci == process->computeInstanceId;
}

static int processes(const char *function, nvmlDevice_t handle, const char *key, unsigned *count,
                     nvmlProcessInfo_v2_t *list)
{
    struct device device;
    unsigned found = 0;
    int code = count ? pass_device(function, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const char *text = value_of(&(struct device){device.gpu, NO_MIG}, key);
    while (text && *text) {
        nvmlProcessInfo_v2_t process = parse_process(text);
        if (runs_on(&device, &process)) {
            if (list && found < *count)
                list[found] = process;
            found++;
        }
        text += strcspn(text, " ");
        text += strspn(text, " ");
    }
    code = found > *count ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
    *count = found;
    leave();
    return code;
}

#define PROCESSES(function, key)                                                              \
    API int function(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_v2_t *list)        \
    {                                                                                         \
        return processes(#function, device, key, count, list);                                \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, "compute_processes")
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "compute_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps_processes")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps_processes")

/* `process_utilization PID:SM:MEMORY:ENCODER:DECODER ...` in percent; "since" is taken for now. */
API int nvmlDeviceGetProcessUtilization(nvmlDevice_t handle, nvmlProcessUtilizationSample_t *list,
                                        unsigned *count, nvmlU64 since_us)
{
    struct device device;
    unsigned found = 0;
    (void)since_us;
    int code = count ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const char *text = value_of(&device, "process_utilization");
    while (text && *text) {
        nvmlProcessUtilizationSample_t sample = {.timeStamp = now_us()};
        sscanf(text, "%u:%u:%u:%u:%u", &sample.pid, &sample.smUtil, &sample.memUtil,
               &sample.encUtil, &sample.decUtil);
        if (list && found < *count)
            list[found] = sample;
        found++;
        text += strcspn(text, " ");
        text += strspn(text, " ");
    }
    code = !found ? NVML_ERROR_NOT_FOUND
           : found > *count || !list ? NVML_ERROR_INSUFFICIENT_SIZE
                                     : NVML_SUCCESS;
    *count = found;
    leave();
    return code;
}
