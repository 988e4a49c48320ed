/* body_attend: softmax(q K^T) V over one tile of 128 positions, over the v16 of vec_*.h.
 *
 *   scores   rows x 16 keys across lanes, fma over head dimensions ascending, times scale
 *   softmax  of each row's visible range alone
 *   out      rows x 16 dimensions across lanes, fma over positions ascending; never touches an invisible position,
 *            whose memory may hold anything
 *
 * Included once by each kernels_*.c. */
#ifndef QR_BACKEND_CPU_BODY_ATTEND_H
#define QR_BACKEND_CPU_BODY_ATTEND_H

#include "backend/cpu/body_linear.h"
#include "backend/cpu/body_rows.h"

enum { ATTEND_ROWS = V16_TOKENS / V16_PANELS, ATTEND_VECS = V16_PANELS == 1 ? 1 : 4 }; /* the register tile */

INLINE int elem_bytes(const qr_kv_dtype dtype) { return dtype == QR_KV_F32 ? 4 : dtype == QR_KV_F16 ? 2 : 1; }

/* 16 values; with `pair` 8 from lo and 8 from hi. */
INLINE v16 load_values(const qr_kv_dtype dtype, const int pair, const uint8_t *lo, const uint8_t *hi)
{
    if (dtype == QR_KV_F32)
        return pair ? v16_load_pair((const float *)lo, (const float *)hi) : v16_load((const float *)lo);
    if (dtype == QR_KV_F16)
        return pair ? v16_load_f16_pair((const uint16_t *)lo, (const uint16_t *)hi)
                    : v16_load_f16((const uint16_t *)lo);
    v16_bytes codes = pair ? v16_load_bytes_pair(lo, hi) : v16_load_bytes(lo);
    if (dtype == QR_KV_INT8) return v16_from_s8(codes);
    return dtype == QR_KV_FP8_E4M3 ? v16_from_e4m3(codes) : v16_from_e5m2(codes);
}

/* What the values at positions [16 j, 16 j + 16) are multiplied with; `values`: bytes of them in a block. */
INLINE v16 load_scales(const qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks,
                       const void *const *blocks, int values, int j)
{
    if (dtype == QR_KV_FP8_E4M3) return v16_set1(256.0f);
    int at = 16 * j, block = at / a->block_size;
    const uint16_t *lo = (const uint16_t *)((const uint8_t *)blocks[block] + values) + at % a->block_size;
    if (!small_blocks) return v16_load_f16(lo);
    return v16_load_f16_pair(lo, (const uint16_t *)((const uint8_t *)blocks[block + 1] + values));
}

INLINE bool has_scales(const qr_kv_dtype dtype) { return dtype == QR_KV_INT8 || dtype == QR_KV_FP8_E4M3; }

/* Where 16 keys lie: dimension d at lo + d * row (blocks of 8: 8 keys there, 8 at hi + d * row). */
typedef struct key_vec {
    const uint8_t *lo, *hi;
} key_vec;

INLINE key_vec find_keys(const qr_attend_tile *a, const qr_kv_dtype dtype, int j)
{
    int at = 16 * j, block = at / a->block_size, elem = elem_bytes(dtype);
    const uint8_t *lo = (const uint8_t *)a->k[block] + elem * (at % a->block_size);
    return (key_vec){lo, a->block_size < 16 ? a->k[block + 1] : lo + 8 * elem};
}

/* How the loop over dimensions fetches the same vectors of keys of the next tile: one block after the other, for each
 * an equal part of the dimensions, `lines` cache lines at each. Blocks of more keys than the vectors have: line by
 * line. */
typedef struct key_fetch {
    int num_blocks;
    size_t step; /* bytes from one dimension's lines to the next's */
} key_fetch;

INLINE key_fetch plan_fetch(const qr_attend_tile *a, const int elem, const int P)
{
    int keys = 16 * P, blocks = a->block_size < keys ? keys / a->block_size : 1;
    return (key_fetch){blocks, (size_t)elem * (size_t)(blocks == 1 ? a->block_size : keys)};
}

INLINE void score_tile(const qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks, int row, const int R,
                       int j, const int P)
{
    const int elem = elem_bytes(dtype);
    v16 sum[ATTEND_ROWS][ATTEND_VECS];
    key_vec keys[ATTEND_VECS];
    const float *q[ATTEND_ROWS];
    const size_t step = (size_t)elem * a->block_size;
    UNROLL
    for (int p = 0; p < P; p++) keys[p] = find_keys(a, dtype, j + p);
    UNROLL
    for (int r = 0; r < R; r++) {
        q[r] = a->q[row + r];
        UNROLL
        for (int p = 0; p < P; p++) sum[r][p] = v16_set1(0.0f);
    }
    const int lines = (16 * P * elem + 63) / 64;
    const bool fetches = row == 0;
    const key_fetch fetch = plan_fetch(a, elem, P);
    for (int part = 0, d = 0; part < fetch.num_blocks; part++) {
        int at = 16 * j + part * a->block_size, end = (part + 1) * a->head_size / fetch.num_blocks;
        const uint8_t *next = (const uint8_t *)a->next_k[at / a->block_size] + elem * (at % a->block_size);
        for (; d < end; d++, next += fetch.step) {
            v16 b[ATTEND_VECS];
            UNROLL
            for (int p = 0; p < P; p++)
                b[p] = load_values(dtype, small_blocks, keys[p].lo + (size_t)d * step, keys[p].hi + (size_t)d * step);
            if (fetches) UNROLL
            for (int i = 0; i < lines; i++) prefetch(next + 64 * i, 1);
            UNROLL
            for (int r = 0; r < R; r++) {
                v16 x = v16_set1(q[r][d]);
                UNROLL
                for (int p = 0; p < P; p++) sum[r][p] = v16_fma(x, b[p], sum[r][p]);
            }
        }
    }
    UNROLL
    for (int p = 0; p < P; p++) {
        v16 scale = v16_set1(a->scale);
        if (has_scales(dtype))
            scale = v16_mul(load_scales(a, dtype, small_blocks, a->k, a->head_size * a->block_size, j + p), scale);
        UNROLL
        for (int r = 0; r < R; r++)
            v16_store(a->scores + (row + r) * QR_ATTEND_TILE + 16 * (j + p), v16_mul(sum[r][p], scale));
    }
}

INLINE void score_rows(const qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks, int row, const int R,
                       int j, int end_j)
{
    for (; j + ATTEND_VECS <= end_j; j += ATTEND_VECS) score_tile(a, dtype, small_blocks, row, R, j, ATTEND_VECS);
    for (; j < end_j; j++) score_tile(a, dtype, small_blocks, row, R, j, 1);
}

INLINE void score_all(const qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks, int first, int end)
{
    int j = first / 16, end_j = (end + 15) / 16, row = 0;
    for (; row + ATTEND_ROWS <= a->num_rows; row += ATTEND_ROWS)
        score_rows(a, dtype, small_blocks, row, ATTEND_ROWS, j, end_j);
#define CALL(n) score_rows(a, dtype, small_blocks, row, n, j, end_j)
    if (row < a->num_rows) FOR_COUNT(a->num_rows - row, ATTEND_ROWS - 1, CALL)
#undef CALL
}

/* scores[first, end) become exp(score - max), times the values' scales; the row's max and sum (without scales) */
INLINE void softmax_row(qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks, int row)
{
    int first = a->first[row], end = a->end[row];
    float *s = a->scores + row * QR_ATTEND_TILE;
    v16 m = v16_set1(-INFINITY);
    for (int i = first / 16 * 16; i < end; i += 16)
        m = v16_max(v16_keep(v16_load(s + i), first - i, end - i < 16 ? end - i : 16, -INFINITY), m);
    a->max[row] = v16_largest(m);
    v16 max = v16_set1(a->max[row]), sum = v16_set1(0.0f);
    for (int i = first / 16 * 16; i < end; i += 16) {
        v16 e = v16_exp(v16_sub(v16_load(s + i), max));
        e = v16_keep(e, first - i, end - i < 16 ? end - i : 16, 0.0f);
        sum = v16_add(e, sum);
        if (has_scales(dtype))
            e = v16_mul(e, load_scales(a, dtype, small_blocks, a->v, a->padded * a->block_size, i / 16));
        v16_store(s + i, e);
    }
    a->sum[row] = v16_sum(sum);
}

INLINE void value_tile(const qr_attend_tile *a, const qr_kv_dtype dtype, int row, const int R, int dim, const int P,
                       int first, int end)
{
    const int elem = elem_bytes(dtype);
    v16 sum[ATTEND_ROWS][ATTEND_VECS];
    float *out = a->out + row * a->padded + dim;
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int p = 0; p < P; p++) sum[r][p] = v16_load(out + r * a->padded + 16 * p);
    const float *s = a->scores + row * QR_ATTEND_TILE;
    for (int t = first; t < end;) {
        int in_block = t % a->block_size;
        int stop = t - in_block + a->block_size < end ? t - in_block + a->block_size : end;
        const uint8_t *block = a->v[t / a->block_size], *next_block = a->next_v[t / a->block_size];
        const uint8_t *v = block + (size_t)elem * (size_t)(in_block * a->padded + dim);
        uintptr_t next = (uintptr_t)next_block - (uintptr_t)block; /* the same value of the next tile */
        for (; t < stop; t++, v += (size_t)elem * (size_t)a->padded) {
            v16 b[ATTEND_VECS];
            UNROLL
            for (int p = 0; p < P; p++) {
                b[p] = load_values(dtype, 0, v + (size_t)(16 * elem * p), NULL);
                if (row == 0 && p % (4 / elem) == 0)
                    prefetch((const void *)((uintptr_t)v + next + (size_t)(16 * elem * p)), 1);
            }
            UNROLL
            for (int r = 0; r < R; r++) {
                v16 e = v16_set1(s[r * QR_ATTEND_TILE + t]);
                UNROLL
                for (int p = 0; p < P; p++) sum[r][p] = v16_fma(e, b[p], sum[r][p]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) UNROLL
    for (int p = 0; p < P; p++) v16_store(out + r * a->padded + 16 * p, sum[r][p]);
}

INLINE void value_rows(const qr_attend_tile *a, const qr_kv_dtype dtype, int row, const int R, int first, int end)
{
    int dim = 0;
    for (; dim + 16 * ATTEND_VECS <= a->padded; dim += 16 * ATTEND_VECS)
        value_tile(a, dtype, row, R, dim, ATTEND_VECS, first, end);
    for (; dim < a->padded; dim += 16) value_tile(a, dtype, row, R, dim, 1, first, end);
}

/* Rows [row, row + R): first what each sees before the common range, then that range together, then the rest. */
INLINE void value_group(const qr_attend_tile *a, const qr_kv_dtype dtype, int row, const int R)
{
    int first = 0, end = QR_ATTEND_TILE;
    for (int r = row; r < row + R; r++) {
        if (a->first[r] > first) first = a->first[r];
        if (a->end[r] < end) end = a->end[r];
    }
    if (end < first) end = first;
    for (int r = row; r < row + R; r++)
        if (a->first[r] < first) value_rows(a, dtype, r, 1, a->first[r], first < a->end[r] ? first : a->end[r]);
    if (first < end) value_rows(a, dtype, row, R, first, end);
    for (int r = row; r < row + R; r++)
        if (end < a->end[r]) value_rows(a, dtype, r, 1, end > a->first[r] ? end : a->first[r], a->end[r]);
}

/* The scales of the next tile; the values ask for their own kind where they are read. */
INLINE void fetch_scales(const qr_attend_tile *a)
{
    for (int i = 0; i < QR_ATTEND_TILE / a->block_size; i++) {
        prefetch((const uint8_t *)a->next_k[i] + a->head_size * a->block_size, 1);
        prefetch((const uint8_t *)a->next_v[i] + a->padded * a->block_size, 1);
    }
}

/* The first two passes. */
INLINE void attend_weights(qr_attend_tile *a, const qr_kv_dtype dtype, const int small_blocks)
{
    int first = QR_ATTEND_TILE, end = 0;
    for (int r = 0; r < a->num_rows; r++) {
        if (a->first[r] >= a->end[r]) continue;
        if (a->first[r] < first) first = a->first[r];
        if (a->end[r] > end) end = a->end[r];
    }
    if (dtype == QR_KV_INT8) fetch_scales(a);
    score_all(a, dtype, small_blocks, first, end);
    for (int r = 0; r < a->num_rows; r++) {
        a->max[r] = -INFINITY;
        a->sum[r] = 0.0f;
        if (a->first[r] < a->end[r]) softmax_row(a, dtype, small_blocks, r);
    }
    memset(a->out, 0, (size_t)a->num_rows * (size_t)a->padded * sizeof *a->out);
}

INLINE void attend_values(const qr_attend_tile *a, const qr_kv_dtype dtype)
{
    int row = 0;
    for (; row + ATTEND_ROWS <= a->num_rows; row += ATTEND_ROWS) value_group(a, dtype, row, ATTEND_ROWS);
#define CALL(n) value_group(a, dtype, row, n)
    if (row < a->num_rows) FOR_COUNT(a->num_rows - row, ATTEND_ROWS - 1, CALL)
#undef CALL
}

/* One function per type: the compiler specialises the tiles for it. */
#define XX(id, name, bytes)                    \
    static void attend_##id(qr_attend_tile *a) \
    {                                          \
        if (a->block_size < 16)                \
            attend_weights(a, QR_KV_##id, 1);  \
        else                                   \
            attend_weights(a, QR_KV_##id, 0);  \
        attend_values(a, QR_KV_##id);          \
    }
QR_KV_DTYPE_MAP(XX)
#undef XX

static void attend(qr_attend_tile *a)
{
    static void (*const as[])(qr_attend_tile *) = {
#define XX(id, name, bytes) [QR_KV_##id] = attend_##id,
        QR_KV_DTYPE_MAP(XX)
#undef XX
    };
    as[a->dtype](a);
}

static void merge(qr_attend_part *into, const qr_attend_part *later, int num_rows, int padded)
{
    for (int first = 0; first < num_rows; first += 16) { /* 16 rows of scales at once; their arrays are whole vectors */
        v16 m = v16_load(into->m + first), later_m = v16_load(later->m + first);
        v16 max = v16_max(later_m, m);
        float old_l[16], scale[16], later_scale[16], l[16];
        v16_store(old_l, v16_load(into->l + first));
        v16_store(scale, v16_exp(v16_sub(m, max)));
        v16_store(later_scale, v16_exp(v16_sub(later_m, max)));
        v16_store(
            l, v16_fma(v16_load(old_l), v16_load(scale), v16_mul(v16_load(later->l + first), v16_load(later_scale))));
        int rows = num_rows - first < 16 ? num_rows - first : 16;
        for (int r = 0; r < rows; r++) {
            float *o = into->o + (int64_t)(first + r) * padded;
            const float *later_o = later->o + (int64_t)(first + r) * padded;
            if (later->l[first + r] == 0.0f) continue;
            if (old_l[r] == 0.0f) {
                into->m[first + r] = later->m[first + r];
                into->l[first + r] = later->l[first + r];
                memcpy(o, later_o, (size_t)padded * sizeof *o);
                continue;
            }
            into->m[first + r] = later->m[first + r] > into->m[first + r] ? later->m[first + r] : into->m[first + r];
            into->l[first + r] = l[r];
            v16 a = v16_set1(scale[r]), b = v16_set1(later_scale[r]);
            for (int i = 0; i < padded; i += 16)
                v16_store(o + i, v16_fma(v16_load(o + i), a, v16_mul(v16_load(later_o + i), b)));
        }
    }
}

static void fetch_block(const void *p, int bytes)
{
    for (int i = 0; i < bytes; i += 64) prefetch((const uint8_t *)p + i, 1);
}

/* The table of the instruction set that includes this. */
#define KERNEL_TABLE(set_name, is_supported)                                                                       \
    {                                                                                                              \
        .name = set_name, .supported = is_supported, .linear_float = linear_float, .linear_lowbit = linear_lowbit, \
        .quantize_row = quantize_row, .store_rows = store_rows, .rms_norm_row = rms_norm_row,                      \
        .layer_norm_row = layer_norm_row, .act_row = act_row, .rope_head = rope_head, .kv_row = kv_row,            \
        .scale_row = scale_row, .add_row = add_row, .attend = attend, .merge = merge, .fetch_block = fetch_block,  \
        .row_stats = row_stats, .exp_row = exp_row                                                                 \
    }

#endif
