#define _GNU_SOURCE
#include "base/mem.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "quire.h"

static atomic_bool counting;
static atomic_uint_fast64_t num_allocations, fail_from;

static bool must_fail(void)
{
    if (!atomic_load_explicit(&counting, memory_order_relaxed)) return false;
    return atomic_fetch_add(&num_allocations, 1) >= atomic_load(&fail_from);
}

void qr_mem_fail_after(uint64_t n)
{
    atomic_store(&num_allocations, 0);
    atomic_store(&fail_from, n);
    atomic_store(&counting, true);
}

void qr_mem_fail_off(void) { atomic_store(&counting, false); }

uint64_t qr_mem_num_allocations(void) { return atomic_load(&num_allocations); }

void *qr_malloc(size_t bytes) { return must_fail() ? NULL : malloc(bytes ? bytes : 1); }

void *qr_calloc(size_t count, size_t size) { return must_fail() ? NULL : calloc(count ? count : 1, size ? size : 1); }

void *qr_realloc(void *ptr, size_t bytes) { return must_fail() ? NULL : realloc(ptr, bytes ? bytes : 1); }

void *qr_aligned_alloc(size_t alignment, size_t bytes)
{
    void *ptr = NULL;
    if (must_fail() || posix_memalign(&ptr, alignment, bytes ? bytes : 1) != 0) return NULL;
    return ptr;
}

void *qr_aligned_calloc(size_t alignment, size_t bytes)
{
    void *ptr = qr_aligned_alloc(alignment, bytes);
    return ptr ? memset(ptr, 0, bytes) : NULL;
}

char *qr_strndup(const char *s, size_t bytes)
{
    char *copy = qr_malloc(bytes + 1);
    if (!copy) return NULL;
    memcpy(copy, s, bytes);
    copy[bytes] = '\0';
    return copy;
}

char *qr_strdup(const char *s) { return qr_strndup(s, strlen(s)); }

void qr_free(void *ptr) { free(ptr); }

void quire_free(void *ptr) { qr_free(ptr); }

void *qr_pages_alloc(size_t bytes)
{
    if (must_fail() || bytes == 0) return NULL;
    void *ptr = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ptr == MAP_FAILED) return NULL;
    (void)madvise(ptr, bytes, MADV_HUGEPAGE);
    return ptr;
}

void qr_pages_free(void *ptr, size_t bytes)
{
    if (ptr) munmap(ptr, bytes);
}

int qr_buf_reserve(qr_buf *buf, size_t extra)
{
    size_t need;
    if (__builtin_add_overflow(buf->len, extra, &need) || __builtin_add_overflow(need, 1, &need)) return -1;
    if (need <= buf->cap) return 0;
    size_t cap = buf->cap ? buf->cap : 64;
    while (cap < need) {
        if (cap > SIZE_MAX / 2) return -1;
        cap *= 2;
    }
    char *data = qr_realloc(buf->data, cap);
    if (!data) return -1;
    buf->data = data;
    buf->cap = cap;
    return 0;
}

int qr_buf_append(qr_buf *buf, const void *data, size_t bytes)
{
    if (qr_buf_reserve(buf, bytes) != 0) return -1;
    if (bytes) memcpy(buf->data + buf->len, data, bytes);
    buf->len += bytes;
    buf->data[buf->len] = '\0';
    return 0;
}

int qr_buf_printf(qr_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || qr_buf_reserve(buf, (size_t)n) != 0) return -1;
    va_start(args, fmt);
    vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)n;
    return 0;
}
