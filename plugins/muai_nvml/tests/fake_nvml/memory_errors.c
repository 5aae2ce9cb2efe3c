/* ECC counters, remapped rows, retired pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

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

API int nvmlDeviceGetRemappedRows(nvmlDevice_t handle, unsigned *correctable,
                                  unsigned *uncorrectable, unsigned *pending, unsigned *failure)
{
    struct device device;
    nvmlU64 rows[4];
    if (!correctable || !uncorrectable || !pending || !failure)
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = pass_device(__func__, handle, &device);
    if (code)
        return code;
    code = numbers_of(&device, "remapped_rows", 4, rows);
    leave();
    if (code)
        return code;
    *correctable = (unsigned)rows[0];
    *uncorrectable = (unsigned)rows[1];
    *pending = (unsigned)rows[2];
    *failure = (unsigned)rows[3];
    return NVML_SUCCESS;
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
