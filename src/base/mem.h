/* mem: every heap allocation of quire goes through here, so that tests can make any of them fail.
 *
 *   qr_mem_fail_after(n): the n-th allocation from now (0 = the next) and all after it return NULL,
 *   until qr_mem_fail_off(). Counting is process-wide and off by default (one relaxed load per call).
 *
 * Threads: any. */
#ifndef QR_BASE_MEM_H
#define QR_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *qr_malloc(size_t bytes);                           /* NULL on failure; bytes 0 gives a valid pointer */
void *qr_calloc(size_t count, size_t size);              /* zeroed; NULL on failure or overflow */
void *qr_realloc(void *ptr, size_t bytes);               /* on failure NULL and ptr is unchanged */
void *qr_aligned_alloc(size_t alignment, size_t bytes);  /* power of two; not zeroed; free with qr_free */
void *qr_aligned_calloc(size_t alignment, size_t bytes); /* zeroed */
char *qr_strdup(const char *s);
char *qr_strndup(const char *s, size_t bytes); /* copies exactly `bytes` bytes, NUL-terminates */
void qr_free(void *ptr);

/* Large buffers (weights, KV pool): whole pages, huge ones where the system allows, zeroed, touched on first use.
 * Free with qr_pages_free(ptr, the same bytes). */
void *qr_pages_alloc(size_t bytes);
void qr_pages_free(void *ptr, size_t bytes);

enum { QR_CACHE_LINE = 64 };

/* Fetch an object into the cache, without waiting for it. Between two steps the model's work pushes all else out of the
 * caches: fetched in a loop beforehand, the misses of a step's bookkeeping overlap. */
static inline void qr_prefetch(const void *object, size_t bytes)
{
    const char *first = (const char *)((uintptr_t)object & ~(uintptr_t)(QR_CACHE_LINE - 1));
    for (const char *line = first; line < (const char *)object + bytes; line += QR_CACHE_LINE) __builtin_prefetch(line);
}

/* count * size, false on overflow */
static inline int qr_mul_overflow(size_t a, size_t b, size_t *out) { return __builtin_mul_overflow(a, b, out); }

/* A growable byte buffer; len bytes used. Zero-initialise; free data with qr_free. */
typedef struct qr_buf {
    char *data;
    size_t len, cap;
} qr_buf;
int qr_buf_reserve(qr_buf *buf, size_t extra);                  /* 0 ok, -1 no memory (unchanged) */
int qr_buf_append(qr_buf *buf, const void *data, size_t bytes); /* keeps a NUL after data[len] */
int qr_buf_printf(qr_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void qr_mem_fail_after(uint64_t num_allocations);
void qr_mem_fail_off(void);
/* Allocations made while failing was armed; tells a test how many points there are. */
uint64_t qr_mem_num_allocations(void);

#endif
