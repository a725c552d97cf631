/* A driver's library for tests, with the functions that read GPUs: its replies are in the file $GPUS, which is read at
   every start. A line: name|used bytes|total bytes|utilisation|uuid|temperature|processes, each of them E for "GPU is
   lost" or "not supported"; the last three may be missing. A process: C (computes) or G (draws), then
   pid:bytes:command, and a comma after it; bytes are E where the driver does not know them, and the command ? where it
   does not show it. Built with OLD, it has no function for processes, as drivers before 510. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

static char lines[8][400];
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
    for (; wanted && from; wanted--) from = (from = strchr(from, '|')) ? from + 1 : 0;
    if (!from) return strcpy(into, "E");
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

int nvmlDeviceGetUUID(void *handle, char *into, unsigned length) {
    (void)length;
    return *field((long)handle - 1, 4, into) == 'E' ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *into) {
    char celsius[200];
    (void)sensor;
    if (*field((long)handle - 1, 5, celsius) == 'E') return NOT_SUPPORTED;
    *into = atoi(celsius);
    return OK;
}

int nvmlDeviceGetTemperatureThreshold(void *handle, int which, unsigned *into) {
    char celsius[200];
    if (which != 1 || *field((long)handle - 1, 7, celsius) == 'E') return NOT_SUPPORTED;
    *into = atoi(celsius);
    return OK;
}

#ifndef OLD
struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static int processes(char kind, void *handle, unsigned *into, struct process *found) {
    char all[400];
    unsigned number = 0, room = *into;
    if (*field((long)handle - 1, 6, all) == 'E') return NOT_SUPPORTED;
    for (char *each = strtok(all, ","); each; each = strtok(0, ",")) {
        if (*each != kind) continue;
        if (found && number < room) {
            found[number].pid = atoi(each + 1);
            const char *used = strchr(each, ':') + 1;
            found[number].used = *used == 'E' ? ~0ULL : strtoull(used, 0, 10);
        }
        number++;
    }
    *into = number;
    return number > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *into, struct process *found) {
    return processes('C', handle, into, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *into, struct process *found) {
    return processes('G', handle, into, found);
}

int nvmlSystemGetProcessName(unsigned pid, char *into, unsigned length) {
    for (long gpu = 0; gpu < count; gpu++) {
        char all[400];
        field(gpu, 6, all);
        for (char *each = strtok(all, ","); each; each = strtok(0, ",")) {
            if ((unsigned)atoi(each + 1) != pid) continue;
            const char *command = strchr(strchr(each, ':') + 1, ':') + 1;
            if (*command == '?') return NOT_FOUND;
            snprintf(into, length, "%s", command);
            return OK;
        }
    }
    return NOT_FOUND;
}
#endif
