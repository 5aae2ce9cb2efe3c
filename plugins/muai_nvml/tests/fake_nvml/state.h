/* The state file of the fake driver (state.c), and the gate that every call passes (gate.c). */
#ifndef STATE_H
#define STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nvml_abi.h"

#define API __attribute__((visibility("default")))

enum { MAX_GPUS = 4096, MAX_MIG = 8 };
enum { ANY_GPU = -1, SYSTEM = -2 }; /* scopes beside the numbers of the GPUs */
enum { NO_MIG = -1 };

/* What a handle stands for: GPU `gpu` of the state file, or its MIG device `mig`. */
struct device {
    int gpu;
    int mig;
};

struct event {
    uint64_t sequence;
    int gpu; /* -1: a device that this library does not know */
    nvmlU64 type, data;
    unsigned gpu_instance, compute_instance;
};

/* The gate. `pass` reads the state file again where it changed, sits out an injected hang and
 * answers NVML's return code. After NVML_SUCCESS, and only then, the caller holds the state for
 * reading until `leave`: all that it reads comes from one version of the file. */
int pass(const char *function, int scope);
int pass_device(const char *function, nvmlDevice_t handle, struct device *device);
void leave(void);

int driver_attach(const char *function);
int driver_detach(const char *function);

/* All below need the state held. */
const char *value_of(const struct device *device, const char *key);
const char *setting(int scope, const char *key); /* of this scope alone */
/* NVML_SUCCESS, or NVML_ERROR_NOT_SUPPORTED where the key is unset. */
int numbers_of(const struct device *device, const char *key, int count, nvmlU64 *numbers);
/* `format` has one %u; where that key is unset, the one with * in its place counts. */
int number_at(const struct device *device, const char *format, unsigned index, nvmlU64 *number);
const char *value_at(const struct device *device, const char *format, unsigned index);

int gpu_count(void);
int gpu_at(int index);       /* the GPU at an NVML index */
int index_of(int gpu);       /* -1: vanished */
bool has_mig(int gpu, int mig);
uint64_t driver_generation(void);
uint64_t last_event_sequence(void);
const struct event *event_after(uint64_t sequence); /* the first later one, or NULL */

nvmlDevice_t gpu_handle(int gpu);
nvmlDevice_t mig_handle(int gpu, int mig);
nvmlDevice_t unknown_handle(void);
bool is_handle(const void *pointer);

/* For the gate. */
void refresh(void); /* needs the state let go */
void hold_state(void);
bool is_loaded(void);
bool is_faulty(int scope); /* something is injected there */
const char *state_path(void);

/* NVML's ways of answering (answers.c). */
double now_s(void);  /* since some start, never set back */
nvmlU64 now_us(void); /* since 1970, as NVML stamps its samples */
bool version_is(unsigned version, size_t size, unsigned number); /* of a structure */
/* NOT_SUPPORTED for NULL, INSUFFICIENT_SIZE for a short buffer. */
int give_text(const char *value, char *text, unsigned length);

#endif
