/* Where a GPU sits: on PCI, near which CPUs, how far from another GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

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

/* `0-31,64-95` as a set of bits, 64 of them a word. */
static int bits(const char *function, nvmlDevice_t handle, const char *key, unsigned words,
                unsigned long *set)
{
    struct device device;
    int code = set && words ? pass_device(function, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const char *list = value_of(&device, key);
    code = list ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    if (list)
        memset(set, 0, words * sizeof *set);
    for (char *end; list && *list; list = *end ? end + 1 : NULL) {
        unsigned long first = strtoul(list, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long bit = first; bit <= last && bit < words * 64ul; bit++)
            set[bit / 64] |= 1ul << bit % 64;
    }
    leave();
    return code;
}

API int nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned words, unsigned long *set)
{
    return bits(__func__, device, "cpu_affinity", words, set);
}

API int nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned words,
                                            unsigned long *set, unsigned scope)
{
    (void)scope;
    return bits(__func__, device, "cpu_affinity", words, set);
}

API int nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned words, unsigned long *set,
                                    unsigned scope)
{
    (void)scope;
    return bits(__func__, device, "memory_affinity", words, set);
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

/* Unset: by the nodes of the host's memory, as the driver sees most servers. */
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
    if (code && !numbers_of(&first, "memory_affinity", 1, &near) &&
        !numbers_of(&second, "memory_affinity", 1, &far)) {
        number = near == far ? TOPOLOGY_NODE : TOPOLOGY_SYSTEM;
        code = NVML_SUCCESS;
    }
    if (!code)
        *level = (unsigned)number;
    leave();
    return code;
}
