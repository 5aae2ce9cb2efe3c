/* What every call passes: is the driver there, does the GPU hang, is it lost, what is injected. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "state.h"

/* Only their addresses matter. */
static char gpu_handles[MAX_GPUS], mig_handles[MAX_GPUS][MAX_MIG], no_device[1];


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
        if (!is_faulty(scopes[i]))
            continue;
        snprintf(key, sizeof key, "%s %s", kind, function);
        if ((value = setting(scopes[i], key)))
            return value;
        size_t length = strlen(key);
        if (length > 3 && key[length - 3] == '_' && key[length - 2] == 'v') {
            key[length - 3] = '\0';
            if ((value = setting(scopes[i], key)))
                return value;
        }
        snprintf(key, sizeof key, "%s *", kind);
        if ((value = setting(scopes[i], key)))
            return value;
    }
    return NULL;
}

static bool is_set(int gpu, const char *key)
{
    nvmlU64 number;
    return !numbers_of(&(struct device){gpu, NO_MIG}, key, 1, &number) && number;
}

static int verdict(const char *function, int scope)
{
    if (scope >= 0 && index_of(scope) < 0)
        return NVML_ERROR_GPU_IS_LOST;
    if (scope >= 0 && (is_faulty(scope) || is_faulty(ANY_GPU))) {
        if (is_set(scope, "lost"))
            return NVML_ERROR_GPU_IS_LOST;
        if (is_set(scope, "reset_required") && !tells_identity(function))
            return NVML_ERROR_RESET_REQUIRED;
    }
    const char *code = injected("return", function, scope);
    return code ? atoi(code) : NVML_SUCCESS;
}

/* How long a call blocks; 0: not at all. A word instead of a number: until the line is gone. */
static double hang_s(const char *function, int scope)
{
    const char *value = injected("hang", function, scope);
    char *end;
    double seconds = value ? strtod(value, &end) : 0;
    return value && end == value ? INFINITY : seconds;
}

/* Blocks the calling thread only, without holding the state between its looks at it; ends early
 * when the injection is taken back. Called, and returns, with the state held. */
static void sit_out_hang(const char *function, int scope)
{
    const double start_s = now_s();
    const struct timespec step = {.tv_nsec = 5 * 1000 * 1000};
    while (now_s() - start_s < hang_s(function, scope)) {
        leave();
        nanosleep(&step, NULL);
        refresh();
        hold_state();
    }
}

/* ---- the library's own life */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned attached; /* calls of nvmlInit that no nvmlShutdown has answered */
static uint64_t attached_generation;

static bool is_attached(void)
{
    pthread_mutex_lock(&lock);
    bool yes = attached && attached_generation == driver_generation();
    pthread_mutex_unlock(&lock);
    return yes;
}

static int admit(const char *function, int scope, bool attaching)
{
    int code = NVML_SUCCESS;
    refresh();
    hold_state();
    if (!is_loaded())
        code = NVML_ERROR_DRIVER_NOT_LOADED;
    else if (attaching || is_attached())
        sit_out_hang(function, scope);
    if (!code && !attaching && !is_attached())
        code = NVML_ERROR_UNINITIALIZED;
    if (!code)
        code = verdict(function, scope);
    if (code)
        leave();
    return code;
}

int pass(const char *function, int scope)
{
    return admit(function, scope, false);
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

int driver_attach(const char *function)
{
    int code = admit(function, SYSTEM, true);
    if (code)
        return code;
    pthread_mutex_lock(&lock);
    attached = attached_generation == driver_generation() ? attached + 1 : 1;
    attached_generation = driver_generation();
    pthread_mutex_unlock(&lock);
    leave();
    return NVML_SUCCESS;
}

int driver_detach(const char *function)
{
    int code = pass(function, SYSTEM);
    if (code)
        return code;
    pthread_mutex_lock(&lock);
    attached--;
    pthread_mutex_unlock(&lock);
    leave();
    return NVML_SUCCESS;
}
