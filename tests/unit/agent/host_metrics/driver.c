/* A driver's library for tests, as far as GPUs are read through it: what it answers stands in the file $GPUS, anew at
   every start. A line: name|used bytes|total bytes|utilisation, each of them E for "GPU is lost". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

static char lines[8][200];
static int count, started;

static int load(void) {
    FILE *file = fopen(getenv("GPUS"), "r");
    if (!file) return DRIVER_NOT_LOADED;
    for (count = 0; count < 8 && fgets(lines[count], sizeof lines[count], file);) count++;
    fclose(file);
    return OK;
}

static const char *field(long gpu, int wanted, char *into) {
    const char *from = lines[gpu];
    for (; wanted; wanted--) from = strchr(from, '|') + 1;
    size_t length = strcspn(from, "|\n");
    memcpy(into, from, length);
    into[length] = 0;
    return into;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; started = load() == OK; return started ? OK : DRIVER_NOT_LOADED; }
int nvmlShutdown(void) { started = 0; return OK; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the driver"; }

int nvmlDeviceGetCount_v2(unsigned *into) {
    if (!started) return UNINITIALIZED;
    if (load() != OK) { started = 0; return UNINITIALIZED; }
    *into = count;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **into) { *into = (void *)(long)(index + 1); return OK; }

int nvmlDeviceGetName(void *handle, char *into, unsigned length) {
    (void)length;
    return *field((long)handle - 1, 0, into) == 'E' ? GPU_IS_LOST : OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *into) {
    char used[200], total[200];
    if (*field((long)handle - 1, 1, used) == 'E' || *field((long)handle - 1, 2, total) == 'E') return GPU_IS_LOST;
    into[0] = strtoull(total, 0, 10);
    into[2] = strtoull(used, 0, 10);
    into[1] = into[0] - into[2];
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned *into) {
    char percent[200];
    if (*field((long)handle - 1, 3, percent) == 'E') return NOT_SUPPORTED;
    into[0] = atoi(percent);
    into[1] = 0;
    return OK;
}
