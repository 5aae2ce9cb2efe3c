/* Reads the state file into one table of (scope, key) -> value, and gates every call on it. */
#include "state.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

struct entry {
    int scope;
    const char *key, *value;
};

struct table {
    char *text; /* the file; keys and values point into it */
    struct entry *entries;
    size_t capacity; /* a power of two */
    struct event *events;
    size_t event_count;
    int gpus[MAX_GPUS], indices[MAX_GPUS], gpu_count;
    bool faulty[MAX_GPUS + 2]; /* by scope + 2: has something to inject */
    uint64_t generation;
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static struct table *table;
static struct stat seen;
static unsigned attached; /* calls of nvmlInit that nvmlShutdown has not answered */
static uint64_t attached_generation;

/* Only their addresses matter. */
static char gpu_handles[MAX_GPUS], mig_handles[MAX_GPUS][MAX_MIG], no_device[1];

/* ---- the table */

static size_t slot_of(const struct table *in, int scope, const char *key)
{
    uint64_t hash = 14695981039346656037u ^ (uint64_t)(scope + 2) * 0x9e3779b97f4a7c15u;
    for (const char *letter = key; *letter; letter++)
        hash = (hash ^ (unsigned char)*letter) * 1099511628211u;
    size_t slot = (hash ^ hash >> 32) & (in->capacity - 1);
    while (in->entries[slot].key &&
           (in->entries[slot].scope != scope || strcmp(in->entries[slot].key, key)))
        slot = (slot + 1) & (in->capacity - 1);
    return slot;
}

static const char *find(const struct table *in, int scope, const char *key)
{
    return in->entries[slot_of(in, scope, key)].value;
}

/* Cuts the next word off *rest; NULL at the end of the line. */
static char *word(char **rest)
{
    char *start = *rest + strspn(*rest, " \t");
    char *end = start + strcspn(start, " \t");
    *rest = *end ? end + 1 : end;
    *end = '\0';
    return *start ? start : NULL;
}

static nvmlU64 event_type(const char *name)
{
    static const struct { const char *name; nvmlU64 type; } types[] = {
        {"ecc_single_bit", 0x1}, {"ecc_double_bit", 0x2}, {"xid", 0x8}, {"clock", 0x10},
        {"ecc_single_bit_storm", 0x200}, {"dram_retirement", 0x400},
        {"dram_retirement_failure", 0x800}, {"poison_nonfatal", 0x1000},
        {"poison_fatal", 0x2000}, {"gpu_unavailable", 0x4000}, {"recovery_action", 0x8000},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(name, types[i].name))
            return types[i].type;
    return strtoull(name, NULL, 0);
}

/* event SEQUENCE gpu N|unknown TYPE [DATA [GPU_INSTANCE [COMPUTE_INSTANCE]]] */
static void read_event(struct table *into, char *rest)
{
    char *sequence = word(&rest), *gpu = word(&rest), *type;
    gpu = gpu ? word(&rest) : NULL;
    type = gpu ? word(&rest) : NULL;
    if (!type)
        return;
    char *data = word(&rest), *gi = word(&rest), *ci = word(&rest);
    into->events[into->event_count++] = (struct event){
        .sequence = strtoull(sequence, NULL, 0),
        .gpu = strcmp(gpu, "unknown") ? atoi(gpu) : -1,
        .type = event_type(type),
        .data = data ? strtoull(data, NULL, 0) : 0,
        .gpu_instance = gi ? strtoul(gi, NULL, 0) : ~0u,
        .compute_instance = ci ? strtoul(ci, NULL, 0) : ~0u,
    };
}

/* KEY VALUE..., and for faults: return|hang [FUNCTION] VALUE, kept under "return FUNCTION". */
static void read_setting(struct table *into, int scope, char *rest)
{
    char *key = word(&rest);
    if (!key)
        return;
    bool returns = !strcmp(key, "return"), hangs = !strcmp(key, "hang");
    if (returns || hangs) {
        char *function = word(&rest);
        if (!function)
            return;
        if (!rest[strspn(rest, " \t")]) { /* no function named: all of them */
            rest = function;
            key = returns ? "return *" : "hang *";
        } else {
            key[strlen(key)] = ' ';
            memmove(key + strlen(returns ? "return " : "hang "), function, strlen(function) + 1);
        }
    }
    if (returns || hangs || !strcmp(key, "lost") || !strcmp(key, "reset_required"))
        into->faulty[scope + 2] = true;
    struct entry *entry = &into->entries[slot_of(into, scope, key)];
    *entry = (struct entry){scope, key, rest + strspn(rest, " \t")};
}

static bool read_line(struct table *into, char *line, int *highest)
{
    char *rest = line, *first = word(&rest);
    if (!first || *first == '#')
        return true;
    if (!strcmp(first, "system")) {
        read_setting(into, SYSTEM, rest);
    } else if (!strcmp(first, "event")) {
        read_event(into, rest);
    } else if (!strcmp(first, "gpu")) {
        char *number = word(&rest);
        int gpu = !number ? MAX_GPUS : strcmp(number, "*") ? atoi(number) : ANY_GPU;
        if (gpu < ANY_GPU || gpu >= MAX_GPUS)
            return false;
        if (gpu > *highest)
            *highest = gpu;
        read_setting(into, gpu, rest);
    } else {
        return false;
    }
    return true;
}

static void list_gpus(struct table *into, int highest)
{
    const char *count = find(into, SYSTEM, "count");
    int known = count ? atoi(count) : highest + 1;
    for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
        const char *vanished = find(into, gpu, "vanished");
        bool present = gpu < known && !(vanished && atoi(vanished));
        into->indices[gpu] = present ? into->gpu_count : -1;
        if (present)
            into->gpus[into->gpu_count++] = gpu;
    }
}

static void release(struct table *old)
{
    if (!old)
        return;
    free(old->text);
    free(old->entries);
    free(old->events);
    free(old);
}

static struct table *read_table(FILE *file, size_t size)
{
    struct table *into = calloc(1, sizeof *into);
    if (!into || !(into->text = calloc(1, size + 1)))
        return release(into), NULL;
    into->text[fread(into->text, 1, size, file)] = '\0';
    size_t lines = 1;
    for (const char *letter = into->text; *letter; letter++)
        lines += *letter == '\n';
    for (into->capacity = 64; into->capacity < lines * 2;)
        into->capacity *= 2;
    into->entries = calloc(into->capacity, sizeof *into->entries);
    into->events = calloc(lines, sizeof *into->events);
    if (!into->entries || !into->events)
        return release(into), NULL;
    int highest = -1, number = 0;
    for (char *line = into->text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        if (!read_line(into, line, &highest))
            fprintf(stderr, "fake NVML: %s:%d: a line starts with 'system', 'gpu N', 'gpu *' or "
                            "'event N gpu N'; this one is ignored\n", state_path(), number);
    }
    list_gpus(into, highest);
    const char *generation = find(into, SYSTEM, "driver_generation");
    into->generation = generation ? strtoull(generation, NULL, 0) : 0;
    return into;
}

const char *state_path(void)
{
    const char *path = getenv("FAKE_NVML_STATE");
    return path ? path : "";
}

static bool same(const struct stat *one, const struct stat *other)
{
    return one->st_ino == other->st_ino && one->st_size == other->st_size &&
           one->st_mtim.tv_sec == other->st_mtim.tv_sec &&
           one->st_mtim.tv_nsec == other->st_mtim.tv_nsec;
}

void refresh(void)
{
    struct stat now;
    if (stat(state_path(), &now))
        return; /* the last version stays */
    pthread_rwlock_rdlock(&lock);
    bool current = same(&now, &seen);
    pthread_rwlock_unlock(&lock);
    if (current)
        return;
    FILE *file = fopen(state_path(), "r");
    if (!file)
        return;
    pthread_rwlock_wrlock(&lock);
    if (!fstat(fileno(file), &now) && !same(&now, &seen)) {
        struct table *fresh = read_table(file, (size_t)now.st_size);
        if (fresh) {
            release(table);
            table = fresh;
            seen = now;
        }
    }
    pthread_rwlock_unlock(&lock);
    fclose(file);
}

/* ---- reading it */

const char *value_of(const struct device *device, const char *key)
{
    char nested[128];
    if (device->mig != NO_MIG) {
        snprintf(nested, sizeof nested, "mig.%d.%s", device->mig, key);
        key = nested;
    }
    const char *value = find(table, device->gpu, key);
    if (!value)
        value = find(table, ANY_GPU, key);
    return value && *value ? value : NULL;
}

const char *system_value(const char *key)
{
    return find(table, SYSTEM, key);
}

static int parse_numbers(const char *value, int count, nvmlU64 *numbers)
{
    for (int i = 0; i < count; i++) {
        char *end;
        if (!value)
            return NVML_ERROR_NOT_SUPPORTED;
        numbers[i] = strtoull(value, &end, 0);
        if (end == value)
            return NVML_ERROR_NOT_SUPPORTED;
        value = end;
    }
    return NVML_SUCCESS;
}

int numbers_of(const struct device *device, const char *key, int count, nvmlU64 *numbers)
{
    return parse_numbers(value_of(device, key), count, numbers);
}

const char *value_at(const struct device *device, const char *format, unsigned index)
{
    char key[128], digits[16];
    const char *place = strstr(format, "%u");
    for (int any = 0; any < 2; any++) {
        snprintf(digits, sizeof digits, any ? "*" : "%u", index);
        snprintf(key, sizeof key, "%.*s%s%s", (int)(place - format), format, digits, place + 2);
        const char *value = value_of(device, key);
        if (value)
            return value;
    }
    return NULL;
}

int number_at(const struct device *device, const char *format, unsigned index, nvmlU64 *number)
{
    return parse_numbers(value_at(device, format, index), 1, number);
}

int gpu_count(void) { return table->gpu_count; }
int gpu_at(int index) { return table->gpus[index]; }
int index_of(int gpu) { return table->indices[gpu]; }
uint64_t driver_generation(void) { return table->generation; }

bool has_mig(int gpu, int mig)
{
    const struct device device = {gpu, mig};
    nvmlU64 mode;
    return !numbers_of(&(struct device){gpu, NO_MIG}, "mig_mode", 1, &mode) && mode &&
           value_of(&device, "uuid");
}

uint64_t last_event_sequence(void)
{
    return table->event_count ? table->events[table->event_count - 1].sequence : 0;
}

const struct event *event_after(uint64_t sequence)
{
    size_t low = 0, high = table->event_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (table->events[middle].sequence > sequence)
            high = middle;
        else
            low = middle + 1;
    }
    return low < table->event_count ? &table->events[low] : NULL;
}

/* ---- handles */

nvmlDevice_t gpu_handle(int gpu) { return &gpu_handles[gpu]; }
nvmlDevice_t mig_handle(int gpu, int mig) { return &mig_handles[gpu][mig]; }
nvmlDevice_t unknown_handle(void) { return no_device; }

static bool decode(const void *handle, struct device *device)
{
    const uintptr_t at = (uintptr_t)handle, gpus = (uintptr_t)gpu_handles;
    const uintptr_t migs = (uintptr_t)mig_handles;
    if (at - gpus < sizeof gpu_handles)
        *device = (struct device){(int)(at - gpus), NO_MIG};
    else if (at - migs < sizeof mig_handles)
        *device = (struct device){(int)((at - migs) / MAX_MIG), (int)((at - migs) % MAX_MIG)};
    else
        return false;
    return true;
}

bool is_handle(const void *pointer)
{
    struct device device;
    return decode(pointer, &device);
}

/* ---- the gate */

/* A GPU that waits for its reset still says which one it is. */
static bool tells_identity(const char *function)
{
    static const char *const names[] = {"GetHandle", "GetUUID", "GetIndex", "GetName",
                                        "GetPciInfo", "GetSerial", "GetMinorNumber"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strstr(function, names[i]))
            return true;
    return false;
}

/* The nearest injection of a kind: this GPU's, every GPU's, the library's; by the exact name of
 * the function, by its name without _v2, for all functions. */
static const char *injected(const char *kind, const char *function, int scope)
{
    const int scopes[] = {scope, ANY_GPU, SYSTEM};
    char key[128];
    const char *value;
    for (int i = scope == SYSTEM ? 2 : 0; i < 3; i++) {
        if (!table->faulty[scopes[i] + 2])
            continue;
        snprintf(key, sizeof key, "%s %s", kind, function);
        if ((value = find(table, scopes[i], key)))
            return value;
        size_t length = strlen(key);
        if (length > 3 && key[length - 3] == '_' && key[length - 2] == 'v') {
            key[length - 3] = '\0';
            if ((value = find(table, scopes[i], key)))
                return value;
        }
        snprintf(key, sizeof key, "%s *", kind);
        if ((value = find(table, scopes[i], key)))
            return value;
    }
    return NULL;
}

static int verdict(const char *function, int scope)
{
    if (scope >= 0) {
        nvmlU64 set;
        const struct device device = {scope, NO_MIG};
        if (table->indices[scope] < 0)
            return NVML_ERROR_GPU_IS_LOST;
        bool faulty = table->faulty[scope + 2] || table->faulty[ANY_GPU + 2];
        if (faulty && !numbers_of(&device, "lost", 1, &set) && set)
            return NVML_ERROR_GPU_IS_LOST;
        if (faulty && !numbers_of(&device, "reset_required", 1, &set) && set &&
            !tells_identity(function))
            return NVML_ERROR_RESET_REQUIRED;
    }
    const char *code = injected("return", function, scope);
    return code ? atoi(code) : NVML_SUCCESS;
}

double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* How long a call blocks; 0: not at all. A word instead of a number: until the line is gone. */
static double hang_s(const char *function, int scope)
{
    const char *value = table ? injected("hang", function, scope) : NULL;
    char *end;
    double seconds = value ? strtod(value, &end) : 0;
    return value && end == value ? INFINITY : seconds;
}

/* Blocks the calling thread only; ends early when the injection is taken back. */
static void sit_out_hang(const char *function, int scope)
{
    const double start_s = now_s();
    const struct timespec step = {.tv_nsec = 5 * 1000 * 1000};
    for (;;) {
        pthread_rwlock_rdlock(&lock);
        double seconds = hang_s(function, scope);
        pthread_rwlock_unlock(&lock);
        if (now_s() - start_s >= seconds)
            return;
        nanosleep(&step, NULL);
        refresh();
    }
}

static int hold(const char *function, int scope)
{
    refresh();
    sit_out_hang(function, scope);
    pthread_rwlock_rdlock(&lock);
    int code = table ? verdict(function, scope) : NVML_ERROR_DRIVER_NOT_LOADED;
    if (code)
        pthread_rwlock_unlock(&lock);
    return code;
}

static bool is_attached(void)
{
    pthread_rwlock_rdlock(&lock);
    bool yes = attached && table && attached_generation == table->generation;
    pthread_rwlock_unlock(&lock);
    return yes;
}

int pass(const char *function, int scope)
{
    refresh();
    return is_attached() ? hold(function, scope) : NVML_ERROR_UNINITIALIZED;
}

int pass_device(const char *function, nvmlDevice_t handle, struct device *device)
{
    if (!decode(handle, device))
        return NVML_ERROR_INVALID_ARGUMENT;
    int code = pass(function, device->gpu);
    if (!code && device->mig != NO_MIG && !has_mig(device->gpu, device->mig)) {
        leave();
        code = NVML_ERROR_INVALID_ARGUMENT;
    }
    return code;
}

void leave(void)
{
    pthread_rwlock_unlock(&lock);
}

int driver_attach(const char *function)
{
    int code = hold(function, SYSTEM);
    if (code)
        return code;
    leave();
    pthread_rwlock_wrlock(&lock);
    attached = attached_generation == table->generation ? attached + 1 : 1;
    attached_generation = table->generation;
    pthread_rwlock_unlock(&lock);
    return NVML_SUCCESS;
}

int driver_detach(const char *function)
{
    int code = pass(function, SYSTEM);
    if (code)
        return code;
    leave();
    pthread_rwlock_wrlock(&lock);
    attached -= attached > 0;
    pthread_rwlock_unlock(&lock);
    return NVML_SUCCESS;
}
