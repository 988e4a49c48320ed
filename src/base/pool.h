/* pool: worker threads that run one parallel loop at a time.
 *
 *   caller ── qr_pool_run(fn, ctx, num_tiles) ──┐        tiles are taken one by one from a counter, so uneven
 *   worker 1 ───────────────────────────────────┼─ fn    tiles balance themselves; which thread runs a tile
 *   worker 2 ───────────────────────────────────┘        must not change its result
 *
 * The caller waits for tiles, not for threads: on a busy machine a loop needs no worker to get a turn.
 * Workers spin for a short while after a loop (the next one is usually microseconds away), then sleep.
 * Threads: one caller at a time per pool; the caller works too, so num_threads = workers + 1. */
#ifndef QR_BASE_POOL_H
#define QR_BASE_POOL_H

#include "base/status.h"

typedef struct qr_pool qr_pool;
typedef void (*qr_pool_fn)(void *ctx, int tile_idx, int thread_idx);

/* num_threads >= 1, the caller included; 0: qr_cpu_count(). */
QUIRE_MUST_USE quire_status qr_pool_create(int num_threads, qr_pool **out, quire_error *error);
void qr_pool_destroy(qr_pool *pool); /* NULL is fine */
int qr_pool_num_threads(const qr_pool *pool);
/* fn(ctx, 0..num_tiles-1, thread_idx 0..num_threads-1), each tile once; returns when all are done. */
void qr_pool_run(qr_pool *pool, qr_pool_fn fn, void *ctx, int num_tiles);

/* Physical cores this process may use: affinity mask, one per hyperthread pair, capped by the cgroup's CPU quota. */
int qr_cpu_count(void);
/* Whole processors, rounded up, that the cgroup (version 2) of a process may use: the least of its quota and of those
 * of the groups above it. At least 1; a large number when there is none.
 *   self, root   /proc/self/cgroup and /sys/fs/cgroup, or what a test has in their place */
int qr_cgroup_cpu_limit(const char *self, const char *root);
/* Bytes of memory this process may still take: free memory of the machine, capped by the cgroup's limit. */
uint64_t qr_memory_available_bytes(void);
/* All the memory that this process may ever have: the machine's or its cgroup's limit. 0: unknown. */
uint64_t qr_memory_total_bytes(void);

#endif
