/* Event sets. An event of the state file reaches every set, in any process, that had registered
 * its GPU and its type before it was written: once, in order, as soon as the file changes. */
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "state.h"

struct event_set {
    pthread_mutex_t lock;
    uint64_t generation; /* of the driver that it was made with */
    int changes;         /* inotify on the directory of the state file */
    bool any;            /* a GPU is registered: events of unknown devices arrive, too */
    uint64_t delivered, first;
    nvmlU64 mask[MAX_GPUS];
    uint64_t since[MAX_GPUS]; /* the last event before the registration */
};

/* A writer that this does not hear of, on a network file system, is noticed by looking. */
static const int LOOK_AGAIN_MS = 100;

API int nvmlEventSetCreate(struct event_set **created)
{
    int code = created ? pass(__func__, SYSTEM) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    struct event_set *set = calloc(1, sizeof *set);
    char path[4096];
    if (set) {
        pthread_mutex_init(&set->lock, NULL);
        set->generation = driver_generation();
        set->delivered = last_event_sequence();
        strncpy(path, state_path(), sizeof path - 1);
        path[sizeof path - 1] = '\0';
        set->changes = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (set->changes >= 0)
            inotify_add_watch(set->changes, dirname(path), IN_MOVED_TO | IN_CLOSE_WRITE);
    }
    leave();
    *created = set;
    return set ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

API int nvmlEventSetFree(struct event_set *set)
{
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (set->changes >= 0)
        close(set->changes);
    free(set);
    return NVML_SUCCESS;
}

API int nvmlDeviceGetSupportedEventTypes(nvmlDevice_t handle, nvmlU64 *types)
{
    struct device device;
    int code = types ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    code = numbers_of(&device, "event_types", 1, types);
    leave();
    return code;
}

API int nvmlDeviceRegisterEvents(nvmlDevice_t handle, nvmlU64 types, struct event_set *set)
{
    struct device device;
    int code = set ? pass_device(__func__, handle, &device) : NVML_ERROR_INVALID_ARGUMENT;
    if (code)
        return code;
    nvmlU64 supported = 0;
    device.mig = NO_MIG;
    numbers_of(&device, "event_types", 1, &supported);
    if (set->generation != driver_generation()) {
        code = NVML_ERROR_INVALID_ARGUMENT;
    } else if (types & ~supported) {
        code = NVML_ERROR_NOT_SUPPORTED;
    } else {
        pthread_mutex_lock(&set->lock);
        if (!set->any)
            set->first = last_event_sequence();
        set->any = true;
        if (!set->mask[device.gpu])
            set->since[device.gpu] = last_event_sequence();
        set->mask[device.gpu] |= types;
        pthread_mutex_unlock(&set->lock);
    }
    leave();
    return code;
}

static bool concerns(const struct event_set *set, const struct event *event)
{
    if (event->gpu < 0 || event->gpu >= MAX_GPUS)
        return set->any && event->sequence > set->first;
    return set->mask[event->gpu] & event->type && event->sequence > set->since[event->gpu];
}

/* NVML_ERROR_TIMEOUT: nothing yet. */
static int take_event(struct event_set *set, nvmlEventData_t *data)
{
    int code = set->generation == driver_generation() ? NVML_ERROR_TIMEOUT
                                                      : NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&set->lock);
    const struct event *event;
    while (code == NVML_ERROR_TIMEOUT && (event = event_after(set->delivered))) {
        set->delivered = event->sequence;
        if (!concerns(set, event))
            continue;
        bool known = event->gpu >= 0 && event->gpu < MAX_GPUS;
        *data = (nvmlEventData_t){
            known ? gpu_handle(event->gpu) : unknown_handle(), event->type, event->data,
            event->gpu_instance, event->compute_instance,
        };
        code = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&set->lock);
    return code;
}

static void await_change(int changes, double seconds)
{
    char ignored[4096];
    int ms = seconds * 1000 < LOOK_AGAIN_MS ? (int)(seconds * 1000) + 1 : LOOK_AGAIN_MS;
    struct pollfd descriptor = {.fd = changes, .events = POLLIN};
    if (poll(&descriptor, 1, ms) > 0)
        while (read(changes, ignored, sizeof ignored) > 0)
            continue;
}

API int nvmlEventSetWait_v2(struct event_set *set, nvmlEventData_t *data, unsigned timeout_ms)
{
    if (!set || !data)
        return NVML_ERROR_INVALID_ARGUMENT;
    const double deadline_s = now_s() + timeout_ms / 1000.0;
    for (;;) {
        int code = pass(__func__, SYSTEM);
        if (code)
            return code;
        code = take_event(set, data);
        leave();
        double left_s = deadline_s - now_s();
        if (code != NVML_ERROR_TIMEOUT || left_s <= 0)
            return code;
        await_change(set->changes, left_s);
    }
}
