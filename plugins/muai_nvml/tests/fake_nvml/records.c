/* The getters that fill a structure, a list, or look at two devices. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "state.h"

static int64_t now_us(void)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    return now.tv_sec * 1000000ll + now.tv_usec;
}

/* ---- memory and utilization */

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

static bool version_is(unsigned version, size_t size, unsigned number)
{
    return version == (size | number << 24);
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
        *out = (nvmlViolationTime_t){(nvmlU64)now_us(), ns};
    leave();
    return code;
}

/* ---- where it sits */

static int parse_bus_id(const struct device *device, const char *value, nvmlPciInfo_t *out)
{
    nvmlU64 number;
    unsigned function;
    memset(out, 0, sizeof *out);
    if (!value)
        return NVML_ERROR_NOT_SUPPORTED;
    if (sscanf(value, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
        return NVML_ERROR_NOT_SUPPORTED;
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.0", out->domain, out->bus, out->device);
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:%02X.0", out->domain & 0xffff,
             out->bus & 0xff, out->device & 0xff);
    if (!numbers_of(device, "pci_device_id", 1, &number))
        out->pciDeviceId = (unsigned)number;
    if (!numbers_of(device, "pci_subsystem_id", 1, &number))
        out->pciSubSystemId = (unsigned)number;
    return NVML_SUCCESS;
}

API int nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *out)
{
    struct device device;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = parse_bus_id(&device, value_of(&device, "pci_bus_id"), out);
    leave();
    return code;
}

API int nvmlDeviceGetPciInfoExt(nvmlDevice_t handle, nvmlPciInfoExt_v1_t *out)
{
    struct device device;
    nvmlPciInfo_t info;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = parse_bus_id(&device, value_of(&device, "pci_bus_id"), &info);
    leave();
    if (code)
        return code;
    *out = (nvmlPciInfoExt_v1_t){
        .version = out->version, .domain = info.domain, .bus = info.bus, .device = info.device,
        .pciDeviceId = info.pciDeviceId, .pciSubSystemId = info.pciSubSystemId,
        .baseClass = 3, .subClass = 2, /* a display controller, of the kind without a display */
    };
    memcpy(out->busId, info.busId, sizeof out->busId);
    return NVML_SUCCESS;
}

API int nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t handle, unsigned link, nvmlPciInfo_t *out)
{
    struct device device;
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = parse_bus_id(&device, value_at(&device, "nvlink.%u.remote_pci_bus_id", link), out);
    leave();
    return code;
}

/* `cpu_affinity 0-31,64-95` as a set of bits, 64 CPUs a word. */
static int affinity(const char *function, nvmlDevice_t handle, unsigned words, unsigned long *set)
{
    struct device device;
    int code = set && words ? pass_device(function, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const char *list = value_of(&device, "cpu_affinity");
    memset(set, 0, words * sizeof *set);
    for (char *end; list && *list; list = *end ? end + 1 : NULL) {
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < words * 64ul; cpu++)
            set[cpu / 64] |= 1ul << cpu % 64;
    }
    code = value_of(&device, "cpu_affinity") ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    leave();
    return code;
}

API int nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words, unsigned long *set)
{
    return affinity(__func__, device, words, set);
}

API int nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned words,
                                            unsigned long *set, unsigned scope)
{
    (void)scope;
    return affinity(__func__, device, words, set);
}

/* ---- two devices: KEY with the other's number, set on either side, else with a star */

static int between(const char *function, nvmlDevice_t one, nvmlDevice_t other,
                   struct device *first, struct device *second)
{
    int code = pass_device(function, one, first);
    if (code)
        return code;
    leave();
    code = pass_device(function, other, second);
    if (!code && (first->gpu == second->gpu || first->mig != NO_MIG || second->mig != NO_MIG)) {
        leave();
        code = NVML_ERROR_INVALID_ARGUMENT;
    }
    return code;
}

static int number_between(const struct device *first, const struct device *second,
                          const char *format, nvmlU64 *number)
{
    char key[64];
    const struct device *sides[] = {first, second};
    for (int side = 0; side < 2; side++) {
        const char *place = strstr(format, "%u");
        snprintf(key, sizeof key, "%.*s%d%s", (int)(place - format), format, sides[!side]->gpu,
                 place + 2);
        if (!numbers_of(sides[side], key, 1, number))
            return NVML_SUCCESS;
    }
    return number_at(first, format, (unsigned)second->gpu, number);
}

API int nvmlDeviceGetP2PStatus(nvmlDevice_t one, nvmlDevice_t other, unsigned which,
                               unsigned *status)
{
    static const char *const formats[] = {"p2p.%u.read", "p2p.%u.write", "p2p.%u.nvlink",
                                          "p2p.%u.atomics", "p2p.%u.pci"};
    struct device first, second;
    nvmlU64 number;
    if (!status || which >= sizeof formats / sizeof *formats)
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = between(__func__, one, other, &first, &second);
    if (code)
        return code;
    code = number_between(&first, &second, formats[which], &number);
    if (!code)
        *status = (unsigned)number;
    leave();
    return code;
}

/* Unset: by the NUMA nodes, as the driver sees most servers. */
API int nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t one, nvmlDevice_t other, unsigned *level)
{
    enum { TOPOLOGY_NODE = 40, TOPOLOGY_SYSTEM = 50 };
    struct device first, second;
    nvmlU64 number, near, far;
    if (!level)
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = between(__func__, one, other, &first, &second);
    if (code)
        return code;
    code = number_between(&first, &second, "topology.%u", &number);
    if (code && !numbers_of(&first, "numa_node", 1, &near) &&
        !numbers_of(&second, "numa_node", 1, &far)) {
        number = near == far ? TOPOLOGY_NODE : TOPOLOGY_SYSTEM;
        code = NVML_SUCCESS;
    }
    if (!code)
        *level = (unsigned)number;
    leave();
    return code;
}

/* ---- processes: `compute_processes PID:BYTES|na[:GPU_INSTANCE:COMPUTE_INSTANCE] ...` */

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
        nvmlProcessUtilizationSample_t sample = {.timeStamp = (nvmlU64)now_us()};
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

/* ---- memory errors */

static const char *const SEVERITIES[] = {"corrected", "uncorrected"};
static const char *const LIFETIMES[] = {"volatile", "aggregate"};
static const char *const LOCATIONS[] = {"l1", "l2", "dram", "register",
                                        "texture", "texture_shm", "cbu", "sram"};

API int nvmlDeviceGetTotalEccErrors(nvmlDevice_t handle, unsigned severity, unsigned lifetime,
                                    nvmlU64 *out)
{
    struct device device;
    char key[64];
    if (!out || severity > 1 || lifetime > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = pass_device(__func__, handle, &device);
    if (code)
        return code;
    snprintf(key, sizeof key, "ecc.%s.%s", SEVERITIES[severity], LIFETIMES[lifetime]);
    code = numbers_of(&device, key, 1, out);
    leave();
    return code;
}

API int nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t handle, unsigned severity, unsigned lifetime,
                                        unsigned location, nvmlU64 *out)
{
    struct device device;
    char key[64];
    if (!out || severity > 1 || lifetime > 1 || location >= sizeof LOCATIONS / sizeof *LOCATIONS)
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = pass_device(__func__, handle, &device);
    if (code)
        return code;
    snprintf(key, sizeof key, "ecc.%s.%s.%s", SEVERITIES[severity], LIFETIMES[lifetime],
             LOCATIONS[location]);
    code = numbers_of(&device, key, 1, out);
    leave();
    return code;
}

API int nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t handle, nvmlEccSramErrorStatus_v1_t *out)
{
    struct device device;
    nvmlU64 all[12];
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!version_is(out->version, sizeof *out, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    int code = pass_device(__func__, handle, &device);
    if (code)
        return code;
    code = numbers_of(&device, "sram_ecc", 12, all);
    if (!code) {
        memcpy(&out->aggregateUncParity, all, 11 * sizeof *all);
        out->bThresholdExceeded = (unsigned)all[11];
    }
    leave();
    return code;
}

API int nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t handle,
                                          nvmlRowRemapperHistogramValues_t *out)
{
    struct device device;
    nvmlU64 banks[5];
    int code = out ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "row_remapper_histogram", 5, banks);
    if (!code)
        *out = (nvmlRowRemapperHistogramValues_t){(unsigned)banks[0], (unsigned)banks[1],
                                                  (unsigned)banks[2], (unsigned)banks[3],
                                                  (unsigned)banks[4]};
    leave();
    return code;
}

/* `retired_pages.CAUSE ADDRESS[:SECONDS] ...`; an empty list is written `none`. */
static int retired_pages(const char *function, nvmlDevice_t handle, unsigned cause,
                         unsigned *count, nvmlU64 *addresses, nvmlU64 *times)
{
    struct device device;
    unsigned found = 0;
    int code = count ? pass_device(function, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const char *text = value_at(&device, "retired_pages.%u", cause);
    code = text ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    while (text && *text && strcmp(text, "none")) {
        char *end;
        nvmlU64 address = strtoull(text, &end, 0);
        if (addresses && found < *count) {
            addresses[found] = address;
            if (times)
                times[found] = *end == ':' ? strtoull(end + 1, NULL, 0) : 0;
        }
        found++;
        text += strcspn(text, " ");
        text += strspn(text, " ");
    }
    if (!code && found > *count)
        code = NVML_ERROR_INSUFFICIENT_SIZE;
    if (text || found)
        *count = found;
    leave();
    return code;
}

API int nvmlDeviceGetRetiredPages(nvmlDevice_t device, unsigned cause, unsigned *count,
                                  nvmlU64 *addresses)
{
    return retired_pages(__func__, device, cause, count, addresses, NULL);
}

API int nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, unsigned cause, unsigned *count,
                                     nvmlU64 *addresses, nvmlU64 *times)
{
    return retired_pages(__func__, device, cause, count, addresses, times);
}

/* ---- MIG */

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
