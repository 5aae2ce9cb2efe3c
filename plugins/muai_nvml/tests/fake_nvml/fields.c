/* Field values. `field.ID [TYPE:]NUMBER`, for one scope `field.ID.SCOPE ...`; TYPE is u32, u64,
 * i32, i64, f64, or `error` for the return code of this one value. Fields that say what a getter
 * says come from its key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

enum { DOUBLE = 0, U32 = 1, U64 = 3, I64 = 4, I32 = 5 };

struct alias {
    unsigned field;
    const char *key;
    unsigned place, type; /* which number of the value */
};

static const struct alias ALIASES[] = {
    {1, "ecc_mode", 0, U32},
    {3, "ecc.corrected.volatile", 0, U64},
    {4, "ecc.uncorrected.volatile", 0, U64},
    {5, "ecc.corrected.aggregate", 0, U64},
    {6, "ecc.uncorrected.aggregate", 0, U64},
    {31, "retired_pages_pending", 0, U32},
    {74, "violation_ns.0", 0, U64},  /* power */
    {75, "violation_ns.1", 0, U64},  /* thermal */
    {76, "violation_ns.2", 0, U64},  /* sync boost */
    {77, "violation_ns.3", 0, U64},  /* board limit */
    {78, "violation_ns.4", 0, U64},  /* low utilization */
    {79, "violation_ns.5", 0, U64},  /* reliability */
    {82, "memory_temperature_celsius", 0, U32},
    {83, "energy_mj", 0, U64},
    {91, "nvlink_count", 0, U32},
    {94, "pcie_replays", 0, U64},
    {142, "remapped_rows", 0, U32},
    {143, "remapped_rows", 1, U32},
    {144, "remapped_rows", 2, U32},
    {145, "remapped_rows", 3, U32},
    {185, "power_mw", 0, U32},
    {186, "power_mw", 0, U32},
    {187, "power_limit_range_mw", 0, U32},
    {188, "power_limit_range_mw", 1, U32},
    {189, "power_default_limit_mw", 0, U32},
    {190, "power_enforced_limit_mw", 0, U32},
    {192, "power_limit_mw", 0, U32},
    {230, "recovery_action", 0, U32},
};

static void put(nvmlFieldValue_t *field, unsigned type, const char *number)
{
    field->valueType = type;
    field->value.ullVal = 0;
    switch (type) {
    case DOUBLE: field->value.dVal = strtod(number, NULL); break;
    case U32: field->value.uiVal = (unsigned)strtoul(number, NULL, 0); break;
    case I32: field->value.siVal = (int)strtol(number, NULL, 0); break;
    case I64: field->value.sllVal = strtoll(number, NULL, 0); break;
    default: field->value.ullVal = strtoull(number, NULL, 0); break;
    }
}

static unsigned put_typed(nvmlFieldValue_t *field, const char *value)
{
    static const struct { const char *prefix; unsigned type; } types[] = {
        {"u32:", U32}, {"u64:", U64}, {"i32:", I32}, {"i64:", I64}, {"f64:", DOUBLE}};
    if (!strncmp(value, "error:", 6))
        return (unsigned)atoi(value + 6);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strncmp(value, types[i].prefix, 4)) {
            put(field, types[i].type, value + 4);
            return NVML_SUCCESS;
        }
    put(field, U64, value);
    return NVML_SUCCESS;
}

static unsigned put_alias(const struct device *device, nvmlFieldValue_t *field)
{
    for (size_t i = 0; i < sizeof ALIASES / sizeof *ALIASES; i++) {
        const struct alias *alias = &ALIASES[i];
        nvmlU64 numbers[4];
        char digits[24];
        if (alias->field != field->fieldId)
            continue;
        if (numbers_of(device, alias->key, (int)alias->place + 1, numbers))
            return NVML_ERROR_NOT_SUPPORTED;
        snprintf(digits, sizeof digits, "%llu", numbers[alias->place]);
        put(field, alias->type, digits);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

API int nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count, nvmlFieldValue_t *fields)
{
    struct device device;
    char key[48];
    int code = fields && count > 0 ? pass_device(__func__, handle, &device)
                                   : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    const int64_t now = (int64_t)now_us();
    for (nvmlFieldValue_t *field = fields; field < fields + count; field++) {
        snprintf(key, sizeof key, "field.%u.%u", field->fieldId, field->scopeId);
        const char *value = value_of(&device, key);
        if (!value) {
            snprintf(key, sizeof key, "field.%u", field->fieldId);
            value = value_of(&device, key);
        }
        field->timestamp = now;
        field->latencyUsec = 0;
        field->nvmlReturn = value ? put_typed(field, value) : put_alias(&device, field);
    }
    leave();
    return NVML_SUCCESS;
}
