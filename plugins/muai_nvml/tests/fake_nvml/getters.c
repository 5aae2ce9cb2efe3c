/* The getters whose answer is a number or a text: one line each. */
#include <stdio.h>
#include <string.h>

#include "state.h"

/* getter(device, *number) or getter(device, *number, *number). Where the key has one number and
 * the getter two answers (`ecc_mode 1`: current and pending), it counts for both. */
static int read_numbers(const char *function, nvmlDevice_t handle, const char *key, int count,
                        nvmlU64 *numbers)
{
    struct device device;
    int code = pass_device(function, handle, &device);
    if (code)
        return code;
    code = numbers_of(&device, key, 1, numbers);
    if (!code && count == 2 && numbers_of(&device, key, 2, numbers))
        numbers[1] = numbers[0];
    leave();
    return code;
}

#define NUMBER(type, function, key)                                       \
    API int function(nvmlDevice_t device, type *out)                      \
    {                                                                     \
        nvmlU64 number;                                                   \
        int code = out ? read_numbers(#function, device, key, 1, &number) \
                       : NVML_ERROR_INVALID_ARGUMENT;                     \
        if (!code)                                                        \
            *out = (type)number;                                          \
        return code;                                                      \
    }

#define PAIR(type, function, key)                                                    \
    API int function(nvmlDevice_t device, type *first, type *second)                 \
    {                                                                                \
        nvmlU64 numbers[2];                                                          \
        int code = first && second ? read_numbers(#function, device, key, 2, numbers) \
                                   : NVML_ERROR_INVALID_ARGUMENT;                    \
        if (!code) {                                                                 \
            *first = (type)numbers[0];                                               \
            *second = (type)numbers[1];                                              \
        }                                                                            \
        return code;                                                                 \
    }

#define TEXT(function, key)                                                  \
    API int function(nvmlDevice_t handle, char *text, unsigned length)       \
    {                                                                        \
        struct device device;                                                \
        int code = text ? pass_device(#function, handle, &device)            \
                        : NVML_ERROR_INVALID_ARGUMENT;                       \
        if (code)                                                            \
            return code;                                                     \
        code = give_text(value_of(&device, key), text, length);              \
        leave();                                                             \
        return code;                                                         \
    }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios_version")
TEXT(nvmlDeviceGetBoardPartNumber, "board_part_number")

NUMBER(unsigned, nvmlDeviceGetMinorNumber, "minor_number")
NUMBER(unsigned, nvmlDeviceGetBrand, "brand")
NUMBER(unsigned, nvmlDeviceGetArchitecture, "architecture")
NUMBER(unsigned, nvmlDeviceGetNumGpuCores, "cores")
NUMBER(unsigned, nvmlDeviceGetMemoryBusWidth, "memory_bus_width_bits")
NUMBER(int, nvmlDeviceGetNumaNodeId, "numa_node")
PAIR(int, nvmlDeviceGetCudaComputeCapability, "compute_capability")

NUMBER(unsigned, nvmlDeviceGetPersistenceMode, "persistence_mode")
NUMBER(unsigned, nvmlDeviceGetComputeMode, "compute_mode")
NUMBER(unsigned, nvmlDeviceGetPerformanceState, "performance_state")
NUMBER(unsigned, nvmlDeviceGetPowerState, "performance_state")
NUMBER(unsigned, nvmlDeviceGetDisplayMode, "display_mode")
NUMBER(unsigned, nvmlDeviceGetDisplayActive, "display_active")
NUMBER(unsigned, nvmlDeviceGetFanSpeed, "fan_percent")
NUMBER(unsigned, nvmlDeviceGetNumFans, "fans")

NUMBER(unsigned, nvmlDeviceGetPowerUsage, "power_mw")
NUMBER(unsigned, nvmlDeviceGetEnforcedPowerLimit, "power_enforced_limit_mw")
NUMBER(unsigned, nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
NUMBER(unsigned, nvmlDeviceGetPowerManagementDefaultLimit, "power_default_limit_mw")
NUMBER(unsigned, nvmlDeviceGetPowerManagementMode, "power_management_mode")
PAIR(unsigned, nvmlDeviceGetPowerManagementLimitConstraints, "power_limit_range_mw")
NUMBER(nvmlU64, nvmlDeviceGetTotalEnergyConsumption, "energy_mj")

NUMBER(nvmlU64, nvmlDeviceGetCurrentClocksEventReasons, "clocks_event_reasons")
NUMBER(nvmlU64, nvmlDeviceGetCurrentClocksThrottleReasons, "clocks_event_reasons")
NUMBER(nvmlU64, nvmlDeviceGetSupportedClocksEventReasons, "clocks_event_reasons_supported")
NUMBER(nvmlU64, nvmlDeviceGetSupportedClocksThrottleReasons, "clocks_event_reasons_supported")

NUMBER(unsigned, nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER(unsigned, nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER(unsigned, nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_generation_gpu_max")
NUMBER(unsigned, nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER(unsigned, nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
NUMBER(unsigned, nvmlDeviceGetPcieSpeed, "pcie_speed_mbps")
NUMBER(unsigned, nvmlDeviceGetPcieReplayCounter, "pcie_replays")

PAIR(unsigned, nvmlDeviceGetEccMode, "ecc_mode")
NUMBER(unsigned, nvmlDeviceGetDefaultEccMode, "ecc_mode_default")
NUMBER(unsigned, nvmlDeviceGetRetiredPagesPendingStatus, "retired_pages_pending")

PAIR(unsigned, nvmlDeviceGetMigMode, "mig_mode")
NUMBER(unsigned, nvmlDeviceGetMaxMigDeviceCount, "mig_max")
NUMBER(unsigned, nvmlDeviceGetGpuInstanceId, "gpu_instance")
NUMBER(unsigned, nvmlDeviceGetComputeInstanceId, "compute_instance")

/* getter(device, which, *number): key.NAME, by NVML's number of the name. */
static int read_named(const char *function, nvmlDevice_t handle, const char *key,
                      const char *const *names, unsigned count, unsigned which, nvmlU64 *number)
{
    struct device device;
    char full[96];
    int code = pass_device(function, handle, &device);
    if (code)
        return code;
    if (which < count) {
        snprintf(full, sizeof full, "%s.%s", key, names[which]);
        code = numbers_of(&device, full, 1, number);
    } else {
        code = NVML_ERROR_INVALID_ARGUMENT;
    }
    leave();
    return code;
}

#define NAMED(function, key, names)                                                     \
    API int function(nvmlDevice_t device, unsigned which, unsigned *out)                \
    {                                                                                   \
        nvmlU64 number;                                                                 \
        int code = out ? read_named(#function, device, key, names,                      \
                                    sizeof(names) / sizeof *(names), which, &number)    \
                       : NVML_ERROR_INVALID_ARGUMENT;                                   \
        if (!code)                                                                      \
            *out = (unsigned)number;                                                    \
        return code;                                                                    \
    }

static const char *const CLOCKS[] = {"graphics", "sm", "memory", "video"};
static const char *const THRESHOLDS[] = {"shutdown",     "slowdown",     "memory_max",
                                         "gpu_max",      "acoustic_min", "acoustic_current",
                                         "acoustic_max", "gps_current"};
static const char *const DIRECTIONS[] = {"tx", "rx"};

NAMED(nvmlDeviceGetClockInfo, "clock_mhz", CLOCKS)
NAMED(nvmlDeviceGetMaxClockInfo, "clock_max_mhz", CLOCKS)
NAMED(nvmlDeviceGetApplicationsClock, "clock_applications_mhz", CLOCKS)
NAMED(nvmlDeviceGetTemperatureThreshold, "temperature_threshold_celsius", THRESHOLDS)
NAMED(nvmlDeviceGetPcieThroughput, "pcie_throughput_kibps", DIRECTIONS)

/* getter(device, link, *number): nvlink.LINK.KEY, nvlink.*.KEY for the links below nvlink_count. */
static int read_link(const char *function, nvmlDevice_t handle, unsigned link, const char *format,
                     nvmlU64 *number)
{
    struct device device;
    nvmlU64 links = 0;
    int code = pass_device(function, handle, &device);
    if (code)
        return code;
    numbers_of(&device, "nvlink_count", 1, &links);
    code = link < links ? number_at(&device, format, link, number)
           : links      ? NVML_ERROR_INVALID_ARGUMENT
                        : NVML_ERROR_NOT_SUPPORTED;
    leave();
    return code;
}

#define OF_LINK(function, format)                                              \
    API int function(nvmlDevice_t device, unsigned link, unsigned *out)        \
    {                                                                          \
        nvmlU64 number;                                                        \
        int code = out ? read_link(#function, device, link, format, &number)   \
                       : NVML_ERROR_INVALID_ARGUMENT;                          \
        if (!code)                                                             \
            *out = (unsigned)number;                                           \
        return code;                                                           \
    }

OF_LINK(nvmlDeviceGetNvLinkState, "nvlink.%u.state")
OF_LINK(nvmlDeviceGetNvLinkVersion, "nvlink.%u.version")
OF_LINK(nvmlDeviceGetNvLinkRemoteDeviceType, "nvlink.%u.remote_type")

API int nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned link, unsigned which,
                                      unsigned *out)
{
    nvmlU64 bits;
    int code = out && which < 6 ? read_link(__func__, device, link, "nvlink.%u.capabilities", &bits)
                                : NVML_ERROR_INVALID_ARGUMENT;
    if (!code)
        *out = bits >> which & 1;
    return code;
}

API int nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned link, unsigned counter,
                                        nvmlU64 *out)
{
    static const char *const formats[] = {
        "nvlink.%u.errors.replay", "nvlink.%u.errors.recovery", "nvlink.%u.errors.crc_flit",
        "nvlink.%u.errors.crc_data", "nvlink.%u.errors.ecc_data"};
    if (!out || counter >= sizeof formats / sizeof *formats)
        return NVML_ERROR_INVALID_ARGUMENT;
    return read_link(__func__, device, link, formats[counter], out);
}

/* ---- a few that are not quite alike */

API int nvmlDeviceGetIndex(nvmlDevice_t handle, unsigned *index)
{
    struct device device;
    int code = index ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    *index = (unsigned)(device.mig == NO_MIG ? index_of(device.gpu) : device.mig);
    leave();
    return NVML_SUCCESS;
}

API int nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *celsius)
{
    nvmlU64 number;
    int code = celsius && !sensor
                   ? read_numbers(__func__, device, "temperature_celsius", 1, &number)
                   : NVML_ERROR_INVALID_ARGUMENT;
    if (!code)
        *celsius = (unsigned)number;
    return code;
}

/* How far back the sampled utilization of the engines looks. */
static const unsigned SAMPLING_PERIOD_US = 167000;

#define SAMPLED(function, key)                                                      \
    API int function(nvmlDevice_t device, unsigned *percent, unsigned *period_us)   \
    {                                                                               \
        nvmlU64 number;                                                             \
        int code = percent && period_us                                             \
                       ? read_numbers(#function, device, key, 1, &number)           \
                       : NVML_ERROR_INVALID_ARGUMENT;                               \
        if (!code) {                                                                \
            *percent = (unsigned)number;                                            \
            *period_us = SAMPLING_PERIOD_US;                                        \
        }                                                                           \
        return code;                                                                \
    }

SAMPLED(nvmlDeviceGetEncoderUtilization, "encoder_percent")
SAMPLED(nvmlDeviceGetDecoderUtilization, "decoder_percent")
SAMPLED(nvmlDeviceGetJpgUtilization, "jpeg_percent")
SAMPLED(nvmlDeviceGetOfaUtilization, "ofa_percent")
