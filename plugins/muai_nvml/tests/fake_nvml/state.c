/* The state file as one table of (scope, key) -> value, read again when the file changes. */
#include "state.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

void hold_state(void) { pthread_rwlock_rdlock(&lock); }
void leave(void) { pthread_rwlock_unlock(&lock); }
bool is_loaded(void) { return table; }
bool is_faulty(int scope) { return table->faulty[scope + 2]; }

const char *setting(int scope, const char *key)
{
    return find(table, scope, key);
}

const char *value_of(const struct device *device, const char *key)
{
    char nested[128];
    if (device->mig != NO_MIG) {
        snprintf(nested, sizeof nested, "mig.%d.%s", device->mig, key);
        key = nested;
    }
    const char *value = setting(device->gpu, key);
    if (!value)
        value = setting(ANY_GPU, key);
    return value && *value ? value : NULL;
}

static int parse_numbers(const char *value, int count, nvmlU64 *numbers)
{
    for (int i = 0; i < count; i++) {
        char *end;
        if (!value)
            return NVML_ERROR_NOT_SUPPORTED;
        const nvmlU64 number = strtoull(value, &end, 0);
        if (end == value)
            return NVML_ERROR_NOT_SUPPORTED;
        numbers[i] = number;
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
