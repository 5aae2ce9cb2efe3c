/* What NVML's ways of answering have in common. */
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "state.h"

int give_text(const char *value, char *text, unsigned length)
{
    if (!value)
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(value) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(text, value);
    return NVML_SUCCESS;
}

bool version_is(unsigned version, size_t size, unsigned number)
{
    return version == (size | number << 24);
}

double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

nvmlU64 now_us(void)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    return (nvmlU64)now.tv_sec * 1000000u + (nvmlU64)now.tv_usec;
}
