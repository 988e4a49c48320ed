#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

enum { SPIN_ROUNDS = 20000, MAX_THREADS = 512 };

/* A loop is published as one word: tiles taken so far and tiles in all. Whoever raises the first by one owns a tile, so
 * a thread that comes late finds nothing left, and the caller waits for tiles, not for threads: a worker that the
 * system does not run holds nobody up. fn and ctx may be read only while a tile is owned: then they cannot change. */
struct qr_pool {
    int num_threads;
    pthread_t *threads; /* [num_threads - 1] */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_bool stop;

    qr_pool_fn fn;
    void *ctx;
    _Alignas(64) atomic_uint_fast64_t ticket; /* num_tiles << 32 | next tile */
    atomic_int num_sleeping;
    _Alignas(64) atomic_int num_done; /* tiles of the current loop */
};

typedef struct worker_arg {
    qr_pool *pool;
    int thread_idx;
} worker_arg;

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool has_tiles(uint64_t ticket) { return (uint32_t)ticket < (uint32_t)(ticket >> 32); }

static void take_tiles(qr_pool *pool, int thread_idx)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    while (has_tiles(ticket)) {
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        pool->fn(pool->ctx, (int)(uint32_t)ticket, thread_idx);
        atomic_fetch_add_explicit(&pool->num_done, 1, memory_order_release);
        ticket = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    }
}

static bool must_wake(qr_pool *pool) { return has_tiles(atomic_load(&pool->ticket)) || atomic_load(&pool->stop); }

static void wait_for_work(qr_pool *pool)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (must_wake(pool)) return;
        cpu_relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->num_sleeping, 1); /* before the check: announce() looks in the other order */
    while (!must_wake(pool)) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->num_sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *raw)
{
    worker_arg arg = *(worker_arg *)raw;
    qr_free(raw);
    while (!atomic_load(&arg.pool->stop)) {
        take_tiles(arg.pool, arg.thread_idx);
        wait_for_work(arg.pool);
    }
    return NULL;
}

/* Wake whoever sleeps, after the ticket or stop was stored. */
static void announce(qr_pool *pool)
{
    if (atomic_load(&pool->num_sleeping) == 0) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void qr_pool_run(qr_pool *pool, qr_pool_fn fn, void *ctx, int num_tiles)
{
    if (num_tiles <= 0) return;
    if (pool->num_threads == 1 || num_tiles == 1) {
        for (int i = 0; i < num_tiles; i++) fn(ctx, i, 0);
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->num_done, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, (uint64_t)num_tiles << 32);
    announce(pool);
    take_tiles(pool, 0);
    for (int i = 0; atomic_load_explicit(&pool->num_done, memory_order_acquire) != num_tiles; i++) {
        if (i < SPIN_ROUNDS)
            cpu_relax();
        else
            sched_yield(); /* more threads than processors: let the others finish */
    }
}

static void stop_workers(qr_pool *pool, int num_started)
{
    atomic_store(&pool->stop, true);
    announce(pool);
    for (int i = 0; i < num_started; i++) pthread_join(pool->threads[i], NULL);
}

quire_status qr_pool_create(int num_threads, qr_pool **out, quire_error *error)
{
    if (num_threads <= 0) num_threads = qr_cpu_count();
    if (num_threads > MAX_THREADS)
        return qr_fail_param(error, "threads", "threads: at most %d, got %d", MAX_THREADS, num_threads);
    qr_pool *pool = qr_aligned_calloc(64, sizeof *pool);
    if (!pool) return qr_fail_nomem(error, "the worker pool", sizeof *pool);
    pool->num_threads = num_threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = qr_calloc((size_t)num_threads, sizeof *pool->threads);
    int started = 0;
    for (; pool->threads && started < num_threads - 1; started++) {
        worker_arg *arg = qr_malloc(sizeof *arg);
        if (!arg) break;
        *arg = (worker_arg){pool, started + 1};
        if (pthread_create(&pool->threads[started], NULL, worker_main, arg) != 0) {
            qr_free(arg);
            break;
        }
    }
    if (!pool->threads || started < num_threads - 1) {
        stop_workers(pool, started);
        qr_free(pool->threads);
        qr_free(pool);
        return qr_fail(error, QUIRE_NOMEM, "cannot start worker thread %d of %d", started + 1, num_threads);
    }
    *out = pool;
    return QUIRE_OK;
}

void qr_pool_destroy(qr_pool *pool)
{
    if (!pool) return;
    stop_workers(pool, pool->num_threads - 1);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    qr_free(pool->threads);
    qr_free(pool);
}

int qr_pool_num_threads(const qr_pool *pool) { return pool->num_threads; }

/* First line of a small file; false when it cannot be read. */
static bool read_line(const char *path, char *line, size_t bytes)
{
    FILE *f = fopen(path, "r");
    if (!f) return false;
    bool ok = fgets(line, (int)bytes, f) != NULL;
    fclose(f);
    return ok;
}

static void lower_to_quota(const char *cpu_max, int *limit)
{
    char line[128];
    long long quota, period;
    if (!read_line(cpu_max, line, sizeof line) || sscanf(line, "%lld %lld", &quota, &period) != 2) return;
    if (quota <= 0 || period <= 0) return;
    const long long whole = quota / period + (quota % period != 0);
    if (whole < *limit) *limit = (int)whole;
}

int qr_cgroup_cpu_limit(const char *self, const char *root)
{
    char line[1024], path[2048];
    int limit = MAX_THREADS;
    FILE *f = fopen(self, "r");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) found = strncmp(line, "0::/", 4) == 0;
    if (f) fclose(f);
    if (!found) return limit;
    line[strcspn(line, "\n")] = '\0';
    char *group = line + 3;
    for (char *slash = group + strlen(group); slash; slash = strrchr(group, '/')) { /* it and all above it */
        *slash = '\0';
        snprintf(path, sizeof path, "%s%s/cpu.max", root, group);
        lower_to_quota(path, &limit);
    }
    return limit;
}

int qr_cpu_count(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
    int count = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        char path[96], line[64];
        int first_sibling;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        bool known = read_line(path, line, sizeof line) && sscanf(line, "%d", &first_sibling) == 1;
        /* a hyperthread whose first sibling is ours too adds no physical core */
        if (!known || first_sibling == cpu || !CPU_ISSET(first_sibling, &allowed)) count++;
    }
    int limit = qr_cgroup_cpu_limit("/proc/self/cgroup", "/sys/fs/cgroup");
    if (count > limit) count = limit;
    if (count > MAX_THREADS) count = MAX_THREADS;
    return count > 0 ? count : 1;
}

/* A line of /proc/meminfo in bytes; 0 when it is not there. */
static uint64_t read_meminfo(const char *format)
{
    uint64_t bytes = 0;
    char line[256];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long kib;
        if (sscanf(line, format, &kib) == 1) bytes = kib * 1024;
    }
    if (f) fclose(f);
    return bytes;
}

uint64_t qr_memory_total_bytes(void)
{
    uint64_t total = read_meminfo("MemTotal: %llu kB");
    char line[256];
    unsigned long long max;
    if (read_line("/sys/fs/cgroup/memory.max", line, sizeof line) && sscanf(line, "%llu", &max) == 1 && max < total)
        total = max;
    return total;
}

uint64_t qr_memory_available_bytes(void)
{
    uint64_t available = read_meminfo("MemAvailable: %llu kB");
    char line[256];
    unsigned long long max, used;
    if (read_line("/sys/fs/cgroup/memory.max", line, sizeof line) && sscanf(line, "%llu", &max) == 1 &&
        read_line("/sys/fs/cgroup/memory.current", line, sizeof line) && sscanf(line, "%llu", &used) == 1) {
        uint64_t left = max > used ? max - used : 0;
        if (left < available) available = left;
    }
    return available;
}
