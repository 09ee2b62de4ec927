/* The device layer: a Vulkan device, its memory, its kernels, and a recorder. Nothing here knows what a transformer is.
 *
 * Threads: buffers may be created and destroyed from any thread; recording and submitting belong to one thread at a time
 * per dsvk_cmd; different dsvk_cmd may be recorded and submitted by different threads (the queue has a lock). */
#ifndef DSVK_DEVICE_H
#define DSVK_DEVICE_H

#include "common.h"

typedef uint64_t dsvk_addr; /* a device address; 0 = none */

/* What ops and the engine may ask a device. */
typedef struct dsvk_device_limits {
    uint32_t subgroup_min, subgroup_max;
    uint32_t shared_bytes;
    bool few_registers;        /* an invocation has 128 before values go to memory, not 256: Intel's */
    uint32_t max_groups[3];
    bool software;             /* the driver runs on the CPU, and compiles a kernel when it is first dispatched */
    bool unified;              /* device memory is host memory: no staging copy is needed */
    uint64_t max_allocation;   /* largest single buffer, bytes */
} dsvk_device_limits;
const dsvk_device_limits *dsvk_device_get_limits(const dsvk_device *device);
dsvk_device *dsvk_device_retain(dsvk_device *device); /* balanced by dsvk_device_close */
/* The sticky failure of a lost device, DSVK_OK before; after DEVLOST every call returns it at once (D08). BUSY inside the log (A16). */
dsvk_status dsvk_device_status(const dsvk_device *device, dsvk_error *err);
bool dsvk_device_forked(const dsvk_device *device); /* in a child of the process that opened it (A11) */
dsvk_status dsvk_device_own(const dsvk_device *device, dsvk_error *err); /* STATE there */
/* Tells the host's log, if there is one. */
void dsvk_log(const dsvk_device *device, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* How many messages the validation layer gave (0 also where it is not installed); the first of them into first [n]. */
uint32_t dsvk_device_validation_messages(dsvk_device *device, char *first, size_t n);

/* ---- how matrices of many rows are multiplied (matmul_variants.c; the kernels are the ops') ---- */

typedef enum dsvk_matmul_kind {
    DSVK_MATMUL_FEW,       /* the kernels for few rows, whatever their number */
    DSVK_MATMUL_REGISTERS, /* tiles in registers alone; CPUs have it */
    DSVK_MATMUL_COLUMNS,   /* the same, and few rows too, with weights in columns (ops.h); CPUs with subgroups of 8 */
    DSVK_MATMUL_TILED,     /* tiles in shared memory */
    DSVK_MATMUL_COOPMAT,   /* cooperative matrices, f16 times f16 into f32 */
} dsvk_matmul_kind;

typedef struct dsvk_matmul_variant {
    uint8_t kind;                /* a dsvk_matmul_kind */
    uint8_t m, n, k : 6;         /* coopmat: rows of x, output rows and inputs of one product */
    uint8_t plain_attention : 1; /* coopmat: a chunk's attention does without */
    uint8_t plain_indexer : 1;   /* coopmat: a chunk's index scores do without */
} dsvk_matmul_variant;

typedef enum dsvk_matmul_source {
    DSVK_MATMUL_GUESSED, /* nobody has measured on this driver yet */
    DSVK_MATMUL_CHOSEN,  /* measured by this process or an earlier one */
    DSVK_MATMUL_FORCED,  /* by dsvk_device_options.matmul */
} dsvk_matmul_source;

#define DSVK_MATMUL_VARIANTS 16
#define DSVK_MATMUL_NAME 64
/* All that this device has, into list; returns how many. */
uint32_t dsvk_matmul_variants(const dsvk_device *device, dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS]);
uint32_t dsvk_matmul_subgroup(const dsvk_device *device); /* invocations of a subgroup with coopmat */
dsvk_matmul_variant dsvk_device_matmul(const dsvk_device *device); /* the one in use */
dsvk_matmul_source dsvk_device_matmul_source(const dsvk_device *device);
void dsvk_device_set_matmul(dsvk_device *device, dsvk_matmul_variant variant);
void dsvk_device_remember_matmul(dsvk_device *device, dsvk_matmul_variant variant); /* sets it, for later processes too */
/* "coopmat 16x16x16", with ", plain attention" behind it if so; returns out */
const char *dsvk_matmul_name(dsvk_matmul_variant variant, char out[DSVK_MATMUL_NAME]);

/* Index scores are to be made of packed integer products (ops.h, byte queries). */
bool dsvk_device_byte_products(const dsvk_device *device);

/* ---- memory: sub-allocated from few large blocks per purpose (DSVK_WEIGHTS ... in dsvk.h) ---- */

typedef struct dsvk_buffer {
    dsvk_addr addr;    /* of its first byte; 256-byte aligned */
    uint64_t size;
    void *host;        /* mapped and coherent: STAGING and READBACK always, the others on unified devices; else NULL */
    void *block;       /* owner, internal */
    uint64_t offset;   /* in the block */
    dsvk_purpose purpose;
} dsvk_buffer;

/* DEVMEM names the purpose, what was asked, the budget and what is free. Contents are undefined. */
dsvk_status dsvk_buffer_create(dsvk_device *device, dsvk_purpose purpose, uint64_t size, const char *name,
                               dsvk_buffer *buffer, dsvk_error *err);
void dsvk_buffer_destroy(dsvk_device *device, dsvk_buffer *buffer); /* accepts a zeroed one; zeroes it */
uint64_t dsvk_purpose_used(dsvk_device *device, dsvk_purpose purpose);      /* bytes in use by buffers */
uint64_t dsvk_purpose_available(dsvk_device *device, dsvk_purpose purpose); /* bytes that can still be asked for */
const char *dsvk_purpose_name(dsvk_purpose purpose);                        /* "weights" */

/* ---- recorder ---- */

typedef struct dsvk_cmd dsvk_cmd;

/* What a dispatch moves and computes for each of some things whose number is not known before it has run: dsvk_cmd_count tells. */
#define DSVK_UNITS 8u
typedef struct dsvk_each {
    uint32_t unit;             /* below DSVK_UNITS; the caller's numbers */
    double bytes, flops;       /* fractions: where several dispatches share what is counted together */
} dsvk_each;

typedef struct dsvk_dispatch_info {
    const char *op;            /* the op's name, for profiles ("rms_norm"); kept by pointer: a string literal */
    const char *shader;        /* shaders/<shader>.comp ("rms_norm") */
    const uint32_t *constants; /* [n_constants] specialization constants; index = constant id */
    uint32_t n_constants;
    uint32_t subgroup;         /* invocations a subgroup must have; 0: what the driver likes */
    const void *args;          /* push constants */
    uint32_t args_size;        /* <= 128 */
    uint32_t groups[3];        /* workgroups; any zero: nothing is dispatched */
    const dsvk_buffer *grid;   /* not NULL: at grid_offset of it stand the workgroups to run, u32 [3], each at most as many as */
    uint64_t grid_offset;      /* in `groups`; written before a dsvk_barrier_grids, read when the dispatch begins */
    uint64_t bytes, flops;     /* what it has to move and compute at least, for profiles and slices; 0: unknown */
    dsvk_each each[2];         /* comes to that in profiles */
    bool counts_groups;        /* its kernel asks for gl_NumWorkGroups.x or z, so slices are along y alone */
    bool sliced;               /* its pipeline has to be able to begin at any workgroup; dsvk_dispatch decides */
} dsvk_dispatch_info;

/* A new recording in the begun state, to be destroyed before its device is closed. The first error of any recording call
 * sticks and is reported by submit. */
dsvk_status dsvk_cmd_create(dsvk_device *device, dsvk_cmd **cmd, dsvk_error *err);
void dsvk_cmd_destroy(dsvk_cmd *cmd); /* waits (bounded) for a running submit first; accepts NULL */
dsvk_status dsvk_cmd_begin(dsvk_cmd *cmd, dsvk_error *err); /* starts a recording anew; waits for the previous submit */
/* With `dry` set dispatches only build their pipelines (in this process and the cache) and are not recorded. */
void dsvk_cmd_set_dry(dsvk_cmd *cmd, bool dry);
/* For a recording that may be long (D10): what stands in it when a dispatch comes that no longer fits into `seconds` is submitted
 * and waited for, and a dispatch that alone would take longer runs in slices of its workgroups, with the same results. Time is
 * guessed low from bytes and flops, then sized by what the last slice took. After each of these submits `progress` (may be NULL) is
 * asked: of which op's workgroups how many have run. Non-zero fails the recording with CANCELLED. */
typedef struct dsvk_slices {
    double seconds; /* 0: everything in one submit, as at first */
    dsvk_progress_fn progress;
    void *user;
} dsvk_slices;
void dsvk_cmd_set_slices(dsvk_cmd *cmd, dsvk_slices slices);
/* Nothing more is recorded, and nothing runs, once *status is not OK: for callers that find what is wrong while they record, where
 * slices may already run. Kept by pointer. */
void dsvk_cmd_set_caller(dsvk_cmd *cmd, const dsvk_status *status);
dsvk_device *dsvk_cmd_device(dsvk_cmd *cmd);
/* What follows belongs to this part of a model, for profiles ("CSA"), until it is changed; kept by pointer: a string
 * literal. NULL, as at first: to none. */
void dsvk_cmd_set_part(dsvk_cmd *cmd, const char *part);
void dsvk_cmd_fail(dsvk_cmd *cmd, dsvk_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
void dsvk_dispatch(dsvk_cmd *cmd, const dsvk_dispatch_info *info);
/* Everything recorded before it is complete and visible to everything after it. Every submit ends with one that covers
 * the host's reads after wait as well. */
void dsvk_barrier(dsvk_cmd *cmd);
void dsvk_barrier_grids(dsvk_cmd *cmd); /* the same, for grids of later dispatches as well */
void dsvk_cmd_copy(dsvk_cmd *cmd, const dsvk_buffer *from, uint64_t from_offset, const dsvk_buffer *to, uint64_t to_offset,
                   uint64_t bytes);
/* bytes and offset are multiples of 4. */
void dsvk_cmd_fill(dsvk_cmd *cmd, const dsvk_buffer *to, uint64_t offset, uint64_t bytes, uint32_t word);
uint32_t dsvk_cmd_dispatches(const dsvk_cmd *cmd); /* recorded since begin */

/* Recordings begun from now on may run several times in one submit. */
void dsvk_cmd_set_repeatable(dsvk_cmd *cmd, bool repeatable);
/* A profile has begun or ended since this was recorded: replays of it would not be booked as they should. */
bool dsvk_cmd_stale(const dsvk_cmd *cmd);
bool dsvk_cmd_profiled(const dsvk_cmd *cmd); /* it is booked when it is waited for */
/* How many of each unit (dsvk_each) the last submit worked on, all times together; after it ran, before dsvk_cmd_wait books it.
 * 0 after begin. */
void dsvk_cmd_count(dsvk_cmd *cmd, const uint64_t counts[DSVK_UNITS]);

/* Ends the recording and hands it to the queue. Again without begin: waits for the last one and replays it. */
dsvk_status dsvk_cmd_submit(dsvk_cmd *cmd, dsvk_error *err);
/* Different recordings in one submit, one after the other, each as often as it says; every one is to be waited for. When it
 * fails none of them has run. While a profile runs, the last time of each is measured and booked as often as it ran. */
#define DSVK_MOST_REPLAYS 128u /* of all recordings of a submit together */
typedef struct dsvk_replay {
    dsvk_cmd *cmd;
    uint32_t times; /* more than 1: repeatable */
} dsvk_replay;
dsvk_status dsvk_submit(const dsvk_replay *list, uint32_t n, dsvk_error *err);
dsvk_status dsvk_cmd_wait(dsvk_cmd *cmd, dsvk_error *err);   /* until it is done, at most 60 s (D10), then DEVLOST */
dsvk_status dsvk_cmd_run(dsvk_cmd *cmd, dsvk_error *err);    /* submit and wait */

/* Blocking transfers for tests and small uploads; large weights go through the loader's own staging. */
dsvk_status dsvk_buffer_write(dsvk_device *device, const dsvk_buffer *to, uint64_t offset, const void *data, uint64_t bytes,
                              dsvk_error *err);
dsvk_status dsvk_buffer_read(dsvk_device *device, const dsvk_buffer *from, uint64_t offset, void *data, uint64_t bytes,
                             dsvk_error *err);

/* What the driver made of every kernel built so far, in the order of shader and constants: [{"shader", "constants": [...],
 * "executables": [{"name", "subgroup", "statistics": {...}}]}], the statistics under the driver's own names. Without
 * dsvk_device_options.statistics, or where the driver keeps none, executables are empty. */
dsvk_status dsvk_device_pipelines(dsvk_device *device, char **json, dsvk_error *err);

/* ---- SPIR-V linked in (generated by the build from shaders/ *.comp) ---- */

typedef struct dsvk_shader {
    const char *name;
    const uint32_t *words;
    size_t bytes;
} dsvk_shader;
extern const dsvk_shader dsvk_shaders[]; /* ends with a NULL name */

#endif
