/* mma_tile: what one warp does with a tile of 64 keys for 16 RT query rows, and how tiles come to shared memory.
 *
 *   shared   q [rows][HD] f16 | K [HD][64] f16 | V [64][HD] f16                    float16 cache
 *                             | codes of K, V | one of both in turn | scales K, V   8-bit caches
 *
 * Tiles of float16 are swizzled (mma_index.cuh), codes are not. A warp's registers: mma_work.cuh. */
#ifndef QR_BACKEND_CUDA_MMA_TILE_CUH
#define QR_BACKEND_CUDA_MMA_TILE_CUH

#include "backend/cuda/mma_work.cuh"

enum { QR_SCALE_BYTES = 2 * QR_MMA_KEYS * 2 };

template <int HD> static constexpr int qr_tile_bytes = QR_MMA_KEYS *HD * 2;

template <int WARPS> static __device__ __forceinline__ void qr_mma_sync(void)
{
    if (WARPS == 1)
        __syncwarp();
    else
        __syncthreads();
}

/* ---- to shared memory */

/* q of the block's rows, rounded to float16; zeros past them. */
template <int HD>
static __device__ __forceinline__ void qr_load_queries(const qr_mma_attention &a, const qr_mma_work &w, int rows,
                                                       uint4 *q, int thread, int threads)
{
    for (int i = thread; i < rows * (HD / 8); i += threads) {
        int r = i / (HD / 8), chunk = i % (HD / 8), row = w.first_row + r;
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (row < w.end_row) {
            const float4 *x = reinterpret_cast<const float4 *>(qr_query_row(a, w, row) + chunk * 8);
            float4 low = x[0], high = x[1];
            bits = make_uint4(qr_pack_f16(low.x, low.y), qr_pack_f16(low.z, low.w), qr_pack_f16(high.x, high.y),
                              qr_pack_f16(high.z, high.w));
        }
        q[qr_swizzle(r, chunk, HD / 8)] = bits;
    }
}

/* Ask for the scales of keys [start, start + 64), behind the HD values of each: eight at a time, never of two blocks.
 */
template <int HD>
static __device__ __forceinline__ void qr_fetch_scales(const qr_mma_attention &a, const qr_mma_work &w,
                                                       const uint8_t *base, int start, uint4 *scales, int thread,
                                                       int threads)
{
    for (int i = thread; i < QR_MMA_KEYS / 8; i += threads) {
        int position = start + 8 * i;
        bool valid = position + 8 > w.begin && position < w.end;
        int64_t at = valid ? qr_paged_offset(w.table, position, w.block_shift, a.block_bytes) + (HD << w.block_shift) +
                                 qr_key_offset(0, position, w.block_shift, 2)
                           : 0;
        qr_cp_async_16(&scales[i], base + at, valid);
    }
}

/* Ask for K of keys [start, start + 64), as stored: chunks of 16 bytes of one dimension. Whole chunks, so keys out of
 * the block's range may come with them: their scores are masked, whatever they are. */
template <int HD, int BYTES>
static __device__ __forceinline__ void qr_fetch_keys(const qr_mma_attention &a, const qr_mma_work &w, int start,
                                                     uint4 *tile, int thread, int threads)
{
    constexpr int keys = 16 / BYTES, chunks = QR_MMA_KEYS / keys;
    for (int i = thread; i < HD * chunks; i += threads) {
        int dim = i / chunks, chunk = i % chunks, position = start + chunk * keys;
        bool valid = position + keys > w.begin && position < w.end;
        int64_t at = valid ? qr_paged_offset(w.table, position, w.block_shift, a.block_bytes) +
                                 qr_key_offset(dim, position, w.block_shift, BYTES)
                           : 0;
        qr_cp_async_16(&tile[BYTES == 1 ? i : qr_swizzle(dim, chunk, QR_KEY_COLS)], w.k + at, valid);
    }
}

/* Ask for V of keys [start, start + 64), as stored: chunks of a key's row; zeros out of the block's range. */
template <int HD, int BYTES>
static __device__ __forceinline__ void qr_fetch_values(const qr_mma_attention &a, const qr_mma_work &w, int start,
                                                       uint4 *tile, int thread, int threads)
{
    constexpr int chunks = HD * BYTES / 16;
    for (int i = thread; i < QR_MMA_KEYS * chunks; i += threads) {
        int key = i / chunks, chunk = i % chunks, position = start + key;
        bool valid = position >= w.begin && position < w.end;
        int64_t at = valid ? qr_paged_offset(w.table, position, w.block_shift, a.block_bytes) +
                                 (position & ((1 << w.block_shift) - 1)) * HD * BYTES + chunk * 16
                           : 0;
        qr_cp_async_16(&tile[BYTES == 1 ? i : qr_swizzle(key, chunk, HD / 8)], w.v + at, valid);
    }
}

/* Either, with its scales, as a group of its own. */
template <int HD, bool V>
static __device__ __forceinline__ void qr_fetch(const qr_mma_attention &a, const qr_mma_work &w, int start, uint4 *tile,
                                                uint4 *scales, int thread, int threads)
{
    if (start < w.end) {
        if (a.dtype == QR_KV_F16) {
            if (V)
                qr_fetch_values<HD, 2>(a, w, start, tile, thread, threads);
            else
                qr_fetch_keys<HD, 2>(a, w, start, tile, thread, threads);
        } else {
            if (V)
                qr_fetch_values<HD, 1>(a, w, start, tile, thread, threads);
            else
                qr_fetch_keys<HD, 1>(a, w, start, tile, thread, threads);
            if (a.dtype == QR_KV_INT8) qr_fetch_scales<HD>(a, w, V ? w.v : w.k, start, scales, thread, threads);
        }
    }
    qr_cp_async_commit();
}

/* Two codes as float16: INT8 times the scales; E5M2 as they are; E4M3 times 2^-8. x has four codes, pair 0 or 1. */
static __device__ __forceinline__ uint32_t qr_decode_pair(qr_kv_dtype dtype, uint32_t x, int pair, float2 d)
{
    if (dtype == QR_KV_INT8) { /* 32768 + (code + 128), less 32896: exact, as is 32896 d */
        uint32_t u = x ^ 0x80808080u;
        float low = __uint_as_float(__byte_perm(u, 0x47000000u, pair ? 0x7424 : 0x7404));
        float high = __uint_as_float(__byte_perm(u, 0x47000000u, pair ? 0x7434 : 0x7414));
        return qr_pack_f16(fmaf(low, d.x, -32896.0f * d.x), fmaf(high, d.y, -32896.0f * d.y));
    }
    uint32_t y = __byte_perm(x, 0, pair ? 0x3424 : 0x1404); /* codes in the upper bytes of two halves */
    if (dtype == QR_KV_FP8_E5M2) return y;
    uint32_t magnitude = y >> 1 & 0x3F803F80u; /* NaN, 0x3F80, gets the exponent of one */
    return (y & 0x80008000u) | magnitude | ((magnitude + 0x00800080u) & 0x40004000u);
}

/* Eight codes to a chunk of float16; d: their scales, or all the first. */
static __device__ __forceinline__ uint4 qr_decode_eight(qr_kv_dtype dtype, uint32_t low, uint32_t high,
                                                        const __half2 *d, bool one_scale)
{
    float2 scale[4];
    QR_UNROLL
    for (int i = 0; i < 4; i++) {
        scale[i] = make_float2(0, 0);
        if (dtype == QR_KV_INT8) scale[i] = __half22float2(d[one_scale ? 0 : i]);
        if (one_scale) scale[i].y = scale[i].x;
    }
    return make_uint4(qr_decode_pair(dtype, low, 0, scale[0]), qr_decode_pair(dtype, low, 1, scale[1]),
                      qr_decode_pair(dtype, high, 0, scale[2]), qr_decode_pair(dtype, high, 1, scale[3]));
}

/* K's codes, 16 keys of a dimension at a time, to a tile [HD][64]. */
template <int HD>
static __device__ __forceinline__ void qr_decode_keys(qr_kv_dtype dtype, const uint4 *codes, const uint4 *scales,
                                                      uint4 *tile, int thread, int threads)
{
    for (int i = thread; i < HD * (QR_MMA_KEYS / 16); i += threads) {
        int dim = i / (QR_MMA_KEYS / 16), chunk = i % (QR_MMA_KEYS / 16);
        const __half2 *d = reinterpret_cast<const __half2 *>(scales) + 8 * chunk;
        uint4 x = codes[i];
        tile[qr_swizzle(dim, 2 * chunk, QR_KEY_COLS)] = qr_decode_eight(dtype, x.x, x.y, d, false);
        tile[qr_swizzle(dim, 2 * chunk + 1, QR_KEY_COLS)] = qr_decode_eight(dtype, x.z, x.w, d + 4, false);
    }
}

/* V's codes, 16 dimensions of a key at a time, to a tile [64][HD]; zeros out of the block's range. */
template <int HD>
static __device__ __forceinline__ void qr_decode_values(qr_kv_dtype dtype, const qr_mma_work &w, int start,
                                                        const uint4 *codes, const uint4 *scales, uint4 *tile,
                                                        int thread, int threads)
{
    for (int i = thread; i < QR_MMA_KEYS * (HD / 16); i += threads) {
        int key = i / (HD / 16), chunk = i % (HD / 16), position = start + key;
        __half d = reinterpret_cast<const __half *>(scales)[key];
        __half2 both = __halves2half2(d, d);
        uint4 x = codes[i], low = make_uint4(0, 0, 0, 0), high = low;
        if (position >= w.begin && position < w.end) {
            low = qr_decode_eight(dtype, x.x, x.y, &both, true);
            high = qr_decode_eight(dtype, x.z, x.w, &both, true);
        }
        tile[qr_swizzle(key, 2 * chunk, HD / 8)] = low;
        tile[qr_swizzle(key, 2 * chunk + 1, HD / 8)] = high;
    }
}

/* ---- one warp, one tile */

/* s = q K for rows q_row .. of q, K [HD][64] */
template <int HD, int RT>
static __device__ __forceinline__ void qr_scores(const uint4 *q, int q_row, const uint4 *k,
                                                 float (&s)[RT][QR_KEY_COLS][4], int lane)
{
    QR_UNROLL
    for (int rt = 0; rt < RT; rt++) QR_UNROLL
    for (int n = 0; n < QR_KEY_COLS; n++) QR_UNROLL
    for (int i = 0; i < 4; i++) s[rt][n][i] = 0;
    QR_UNROLL
    for (int step = 0; step < HD / 16; step++) {
        uint32_t qa[RT][4];
        QR_UNROLL
        for (int rt = 0; rt < RT; rt++)
            qr_ldmatrix_x4(qa[rt], &q[qr_swizzle(q_row + 16 * rt + qr_ldmatrix_a_row(lane),
                                                 2 * step + qr_ldmatrix_a_chunk(lane), HD / 8)]);
        QR_UNROLL
        for (int n = 0; n < QR_KEY_COLS; n += 2) {
            uint32_t kb[4];
            qr_ldmatrix_x4_trans(
                kb, &k[qr_swizzle(16 * step + qr_ldmatrix_a_row(lane), n + qr_ldmatrix_a_chunk(lane), QR_KEY_COLS)]);
            QR_UNROLL
            for (int rt = 0; rt < RT; rt++) {
                qr_mma_f16(s[rt][n], qa[rt], kb);
                qr_mma_f16(s[rt][n + 1], qa[rt], kb + 2);
            }
        }
    }
}

/* o += P V */
template <int HD, int RT>
static __device__ __forceinline__ void qr_values(qr_mma_state<HD, RT> &state, const float (&s)[RT][QR_KEY_COLS][4],
                                                 const uint4 *v, int lane)
{
    QR_UNROLL
    for (int step = 0; step < QR_MMA_KEYS / 16; step++) {
        uint32_t p[RT][4];
        QR_UNROLL
        for (int rt = 0; rt < RT; rt++) qr_pack_probabilities(s[rt], step, p[rt]);
        QR_UNROLL
        for (int n = 0; n < HD / 8; n += 2) {
            uint32_t vb[4];
            qr_ldmatrix_x4_trans(
                vb, &v[qr_swizzle(16 * step + qr_ldmatrix_a_row(lane), n + qr_ldmatrix_a_chunk(lane), HD / 8)]);
            QR_UNROLL
            for (int rt = 0; rt < RT; rt++) {
                qr_mma_f16(state.o[rt][n], p[rt], vb);
                qr_mma_f16(state.o[rt][n + 1], p[rt], vb + 2);
            }
        }
    }
}

/* ---- a block's keys in order */

/* All of [w.begin, w.end): K of the next tile is on its way during softmax and P V, V during the next scores.
 * fold(state) is called after each segment, with l complete, and state begins anew. */
template <int HD, int RT, int WARPS, class Fold>
static __device__ __forceinline__ void qr_attend(const qr_mma_attention &a, const qr_mma_work &w, unsigned char *shared,
                                                 Fold fold)
{
    const int threads = 32 * WARPS, thread = (int)threadIdx.x, lane = thread & 31, warp_row = thread / 32 * 16 * RT;
    const bool codes = a.dtype != QR_KV_F16;
    uint4 *q = reinterpret_cast<uint4 *>(shared);
    uint4 *tile0 = q + 16 * RT * WARPS * HD / 8, *tile1 = tile0 + qr_tile_bytes<HD> / 16;
    uint4 *fetch_k = tile0, *fetch_v = codes ? tile0 + qr_tile_bytes<HD> / 32 : tile1;
    uint4 *k_scales = tile1 + qr_tile_bytes<HD> / 16, *v_scales = k_scales + QR_SCALE_BYTES / 32;
    const uint4 *k_tile = codes ? tile1 : tile0, *v_tile = tile1;
    float scale = qr_score_scale(a);

    int position[RT][2], first = 0x7fffffff, last = -1; /* of the warp's rows */
    qr_row_positions(w, w.first_row + warp_row, position, lane);
    qr_row_range(w, w.first_row + warp_row, 16 * RT, &first, &last);

    qr_mma_state<HD, RT> state;
    qr_clear_state(state);
    int start = w.begin / QR_MMA_KEYS * QR_MMA_KEYS;
    qr_fetch<HD, false>(a, w, start, fetch_k, k_scales, thread, threads);
    qr_fetch<HD, true>(a, w, start, fetch_v, v_scales, thread, threads);
    qr_load_queries<HD>(a, w, 16 * RT * WARPS, q, thread, threads);
    for (; start < w.end; start += QR_MMA_KEYS) {
        int next = start + QR_MMA_KEYS;
        bool seen = start <= last && next > qr_first_key(first, a.window), more = next < w.end;
        bool all_seen = next - 1 <= first && start >= qr_first_key(last, a.window) && last >= 0;
        float s[RT][QR_KEY_COLS][4], shrink[RT][2];

        qr_cp_async_wait<1>();
        qr_mma_sync<WARPS>();
        if (codes) {
            qr_decode_keys<HD>(a.dtype, fetch_k, k_scales, tile1, thread, threads);
            qr_mma_sync<WARPS>();
        }
        if (seen) qr_scores<HD, RT>(q, warp_row, k_tile, s, lane);
        qr_mma_sync<WARPS>();
        qr_fetch<HD, false>(a, w, next, fetch_k, k_scales, thread, threads);
        if (seen) {
            qr_softmax(state.m, state.l, shrink, s, scale, a.window, start, position, all_seen, lane);
            qr_shrink_output(state, shrink);
        }

        qr_cp_async_wait<1>();
        qr_mma_sync<WARPS>();
        if (codes) {
            qr_decode_values<HD>(a.dtype, w, start, fetch_v, v_scales, tile1, thread, threads);
            qr_mma_sync<WARPS>();
        }
        if (seen) qr_values<HD, RT>(state, s, v_tile, lane);
        qr_mma_sync<WARPS>();
        qr_fetch<HD, true>(a, w, next, fetch_v, v_scales, thread, threads);

        if (next % QR_MMA_SEGMENT == 0 || !more) {
            qr_complete_sums(state.l);
            fold(state);
            qr_clear_state(state);
        }
    }
    qr_cp_async_wait<0>();
}

#endif
