/* unroll: register tiles as arrays: loops with constant bounds become straight code, arrays become registers. */
#ifndef QR_BACKEND_CPU_UNROLL_H
#define QR_BACKEND_CPU_UNROLL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* [p, p + bytes) will be read soon: into the first-level cache, which on Zen 5 memory fills faster than the second
 * alone. Any address will do. */
INLINE void prefetch(const void *p, int bytes)
{
    UNROLL
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i, 0, 3);
}

/* What a tile of low-bit panels fetches at every group of 32 columns: so many cache lines, of each of P panels. */
typedef struct fetch {
    const uint8_t *at;
    int lines, step; /* step: bytes from one group's first line to the next's */
} fetch;

INLINE void fetch_some(fetch *f, const int P, size_t panel_bytes)
{
    for (int i = 0; i < f->lines; i++) UNROLL
    for (int p = 0; p < P; p++) prefetch(f->at + 64 * i + (size_t)p * panel_bytes, 64);
    f->at += f->step;
}

/* call(n) with n as a constant, 1 <= n <= max <= 12 */
#define FOR_COUNT(n, max, call)  \
    switch (n) {                 \
    case 1: call(1); break;      \
    case 2:                      \
        if (max >= 2) call(2);   \
        break;                   \
    case 3:                      \
        if (max >= 3) call(3);   \
        break;                   \
    case 4:                      \
        if (max >= 4) call(4);   \
        break;                   \
    case 5:                      \
        if (max >= 5) call(5);   \
        break;                   \
    case 6:                      \
        if (max >= 6) call(6);   \
        break;                   \
    case 7:                      \
        if (max >= 7) call(7);   \
        break;                   \
    case 8:                      \
        if (max >= 8) call(8);   \
        break;                   \
    case 9:                      \
        if (max >= 9) call(9);   \
        break;                   \
    case 10:                     \
        if (max >= 10) call(10); \
        break;                   \
    case 11:                     \
        if (max >= 11) call(11); \
        break;                   \
    default:                     \
        if (max >= 12) call(12); \
        break;                   \
    }

#endif
