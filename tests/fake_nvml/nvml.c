/*
 * A fake libnvidia-ml.so.1: the part of NVML's ABI that pynvml (nvidia-ml-py 13) calls for the gauge.
 *
 * Its answers come from the text file that the environment variable FAKE_NVML names, read again at every call. So a
 * test changes the machine under a running daemon by replacing the file (write another one, then rename it). Without
 * the variable or the file there is no driver: nvmlInit answers 9.
 *
 * One statement a line; blank lines and lines that begin with # are skipped. What follows a `gpu` line is of that GPU.
 *
 *   init CODE                   nvmlInit answers CODE (9 no driver, 18 version mismatch, 999 unknown, ...)
 *   hang [FUNCTION]             every call, or the one of this name, waits until the file no longer says so; so does
 *                               the end of a process that has NVML open
 *   error CODE [FUNCTION]       before any gpu: every call about any GPU answers CODE (15 GPU lost, 1 uninitialised);
 *                               with FUNCTION, only that one (nvmlDeviceGetCount_v2, ...)
 *   gpu NAME                    one more GPU. GB10: "gpu NVIDIA GB10"
 *   error CODE [FUNCTION]       after a gpu: the same for this GPU
 *   memory not-supported        nvmlDeviceGetMemoryInfo answers 3, with the struct zeroed (GB10; the default)
 *   memory shim                 answers MemTotal and MemAvailable, as the shim libraries for GB10 do; they are taken
 *                               from the file that SPARK_MODELD_MEMINFO names, or /proc/meminfo
 *   memory TOTAL FREE           answers these bytes (a GPU with memory of its own)
 *   bar1 BYTES                  the BAR1 window; without this line the question is NOT_SUPPORTED, as on GB10
 *   compute PID BYTES|unknown   a process in the compute list
 *   graphics PID BYTES|unknown  a process in the graphics list
 *   compute @NAME BYTES|unknown every living process whose program (/proc/PID/comm) has this name, each with so much
 *   graphics @NAME BYTES|unknown
 *
 * A process given by its PID is listed whether it lives or not; the driver lists the living only, as @NAME does.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, NO_DRIVER = 9,
    VERSION_MISMATCH = 18, ARGUMENT_VERSION_MISMATCH = 25
};
enum { MAX_GPUS = 16, MAX_PROCESSES = 256, MEMORY_V2 = 0x02000028 };
enum { COMPUTE, GRAPHICS, LISTS };
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL
#define EXPORT __attribute__((visibility("default")))

typedef unsigned long long u64;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance; unsigned compute_instance; } Process;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { u64 total, free, used; } Bar1;
_Static_assert(sizeof(Process) == 24 && sizeof(Memory) == 24 && sizeof(MemoryV2) == 40, "not NVML's ABI");

typedef struct {
    char name[96];
    int has_memory, error;
    Memory memory;
    u64 bar1;
    Process processes[LISTS][MAX_PROCESSES];
    unsigned listed[LISTS];
} Gpu;

typedef struct {
    int there, init, error, hangs;
    unsigned count;
    Gpu gpus[MAX_GPUS];
} Machine;

/* NVML is called from one thread by the gauge, but nothing says that it must be. */
static _Thread_local Machine machine;
static int initialised;

static void add_process(Gpu *gpu, int list, unsigned pid, u64 used)
{
    if (gpu->listed[list] < MAX_PROCESSES)
        gpu->processes[list][gpu->listed[list]++] = (Process){pid, used, 0xFFFFFFFF, 0xFFFFFFFF};
}

static void add_processes_named(Gpu *gpu, int list, const char *name, u64 used)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && (entry = readdir(proc))) {
        char path[300], comm[64] = "";
        FILE *file;
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
        if (!(file = fopen(path, "re")))
            continue;
        if (fgets(comm, sizeof comm, file))
            comm[strcspn(comm, "\n")] = 0;
        fclose(file);
        if (!strcmp(comm, name))
            add_process(gpu, list, (unsigned)atoi(entry->d_name), used);
    }
    if (proc)
        closedir(proc);
}

static Memory shim_memory(void)
{
    const char *path = getenv("SPARK_MODELD_MEMINFO");
    FILE *file = fopen(path && *path ? path : "/proc/meminfo", "re");
    u64 total = 0, available = 0;
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "MemTotal: %llu kB", &total);
        sscanf(line, "MemAvailable: %llu kB", &available);
    }
    if (file)
        fclose(file);
    return (Memory){total * 1024, available * 1024, (total - available) * 1024};
}

static void read_line(char *line, const char *function)
{
    Gpu *gpu = machine.count ? &machine.gpus[machine.count - 1] : NULL;
    char word[32] = "", first[64] = "", second[64] = "";
    int words = sscanf(line, "%31s %63s %63s", word, first, second);
    if (words < 1 || word[0] == '#')
        return;
    if (!strcmp(word, "gpu") && machine.count < MAX_GPUS) {
        const char *name = line + strspn(line, " \t") + 3;
        gpu = &machine.gpus[machine.count++];
        snprintf(gpu->name, sizeof gpu->name, "%s", name + strspn(name, " \t"));
    } else if (!strcmp(word, "init")) {
        machine.init = atoi(first);
    } else if (!strcmp(word, "hang")) {
        machine.hangs |= words == 1 || !strcmp(first, function);
    } else if (!strcmp(word, "error")) {
        if (words < 3 || !strcmp(second, function))
            *(gpu ? &gpu->error : &machine.error) = atoi(first);
    } else if (!gpu) {
        fprintf(stderr, "fake NVML: before any gpu: %s\n", line);
    } else if (!strcmp(word, "memory")) {
        gpu->has_memory = strcmp(first, "not-supported") != 0;
        if (!strcmp(first, "shim"))
            gpu->memory = shim_memory();
        else if (gpu->has_memory)
            gpu->memory = (Memory){strtoull(first, NULL, 10), strtoull(second, NULL, 10),
                                   strtoull(first, NULL, 10) - strtoull(second, NULL, 10)};
    } else if (!strcmp(word, "bar1")) {
        gpu->bar1 = strtoull(first, NULL, 10);
    } else if (!strcmp(word, "compute") || !strcmp(word, "graphics")) {
        int list = word[0] == 'c' ? COMPUTE : GRAPHICS;
        u64 used = !strcmp(second, "unknown") ? NOT_AVAILABLE : strtoull(second, NULL, 10);
        if (first[0] == '@')
            add_processes_named(gpu, list, first + 1, used);
        else
            add_process(gpu, list, (unsigned)strtoul(first, NULL, 10), used);
    } else {
        fprintf(stderr, "fake NVML: not understood: %s\n", line);
    }
}

static void read_machine(const char *function)
{
    const char *path = getenv("FAKE_NVML");
    FILE *file = path && *path ? fopen(path, "re") : NULL;
    char line[512];
    memset(&machine, 0, sizeof machine);
    if (!file)
        return;
    machine.there = 1;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        read_line(line, function);
    }
    fclose(file);
}

/* Reads the file, waits while it says hang. */
static void wait_while_hanging(const char *function)
{
    for (read_machine(function); machine.hangs; read_machine(function))
        nanosleep(&(struct timespec){0, 5000000}, NULL);
}

/* A library that cleans up at the process's end waits for whoever is inside it. */
__attribute__((destructor)) static void clean_up(void)
{
    if (initialised)
        wait_while_hanging(__func__);
}

/* Returns what every call answers first. */
static int enter(const char *function)
{
    wait_while_hanging(function);
    if (!strcmp(function, "nvmlInitWithFlags"))
#ifdef ANOTHER_VERSION /* a library that an upgrade left behind in a process */
        return VERSION_MISMATCH;
#else
        return machine.there ? machine.init : NO_DRIVER;
#endif
    if (!initialised)
        return UNINITIALIZED;
    return machine.error;
}

static int enter_gpu(const char *function, void *handle, Gpu **gpu)
{
    unsigned index = (unsigned)(size_t)handle - 1;
    int code = enter(function);
    if (code)
        return code;
    if (index >= machine.count)
        return INVALID_ARGUMENT;
    *gpu = &machine.gpus[index];
    return (*gpu)->error;
}

static int list_processes(const char *function, void *handle, int list, unsigned *count, Process *processes)
{
    Gpu *gpu;
    int code = enter_gpu(function, handle, &gpu);
    unsigned room = *count;
    if (code)
        return code;
    *count = gpu->listed[list];
    if (*count == 0)
        return SUCCESS;
    if (!processes || room < *count)
        return INSUFFICIENT_SIZE;
    memcpy(processes, gpu->processes[list], *count * sizeof *processes);
    return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned flags)
{
    int code = enter(__func__);
    (void)flags;
    initialised += code == SUCCESS;
    return code;
}

EXPORT int nvmlShutdown(void)
{
    wait_while_hanging(__func__);
    if (!initialised)
        return UNINITIALIZED;
    initialised--;
    return SUCCESS;
}

EXPORT const char *nvmlErrorString(int code)
{
    return code == SUCCESS ? "Success" : "An error of the fake NVML";
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count)
{
    int code = enter(__func__);
    *count = machine.count;
    return code;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle)
{
    Gpu *gpu;
    *handle = (void *)(size_t)(index + 1);
    return enter_gpu(__func__, *handle, &gpu);
}

EXPORT int nvmlDeviceGetName(void *handle, char *name, unsigned size)
{
    Gpu *gpu;
    int code = enter_gpu(__func__, handle, &gpu);
    if (!code)
        snprintf(name, size, "%s", gpu->name);
    return code;
}

EXPORT int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory)
{
    Gpu *gpu;
    int code = enter_gpu(__func__, handle, &gpu);
    memset(memory, 0, sizeof *memory);
    if (code)
        return code;
    *memory = gpu->memory;
    return gpu->has_memory ? SUCCESS : NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void *handle, MemoryV2 *memory)
{
    Memory first;
    int code;
    if (memory->version != MEMORY_V2)
        return ARGUMENT_VERSION_MISMATCH;
    code = nvmlDeviceGetMemoryInfo(handle, &first);
    *memory = (MemoryV2){MEMORY_V2, first.total, 0, first.free, first.used};
    return code;
}

EXPORT int nvmlDeviceGetBAR1MemoryInfo(void *handle, Bar1 *bar1)
{
    Gpu *gpu;
    int code = enter_gpu(__func__, handle, &gpu);
    if (code)
        return code;
    *bar1 = (Bar1){gpu->bar1, gpu->bar1, 0};
    return gpu->bar1 ? SUCCESS : NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *processes)
{
    return list_processes(__func__, handle, COMPUTE, count, processes);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, Process *processes)
{
    return list_processes(__func__, handle, GRAPHICS, count, processes);
}
