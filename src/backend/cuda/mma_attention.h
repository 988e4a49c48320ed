/* mma_attention: paged attention on tensor cores, for decode and for prompt chunks.
 *
 *   context   | tile 0 | tile 1 | ... | tile 7 || tile 8 ...        tiles of 64 absolute positions
 *             |------------ segment 0 --------||-- segment 1 ...    segments of 512
 *   rows      new tokens x query heads of one KV head, 16 per mma
 *
 *   decode    requests with up to 16 rows: a block (one warp) per segment and KV head, then one that merges segments
 *   prefill   all others: a block per 128 (64) rows and KV head, all segments in turn
 *
 * Order, for each row by itself: scores in mma steps of 16 dimensions ascending; within a segment online softmax over
 * its tiles ascending (o and l are scaled when the maximum grows, per lane sums of l are added at the end: 1, then 2
 * lanes apart), P V in mma steps of 16 keys ascending; segments are merged as backend.h says, in order. A tile or
 * segment that a row sees nothing of changes none of its bits. So a row's result depends on its query and on the keys
 * that it sees, not on the other rows, on which of the two kernels ran, on chunking, batch or block size. Rounding: q,
 * P and what INT8 codes stand for are rounded to float16, sums are float32; exp is exp2 with log2 e in the scale. K and
 * V beyond float16 (65504) become infinite. Keys that no row of a block sees are not read, whatever their slots and
 * block table entries hold. A later token of the same request whose V is not finite does reach earlier rows of its
 * block (0 times infinity).
 *
 * Threads: one stream. Source: Dao, FlashAttention-2 (2023); segments as in Flash-Decoding (2023), at fixed places. */
#ifndef QR_BACKEND_CUDA_MMA_ATTENTION_H
#define QR_BACKEND_CUDA_MMA_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "backend/backend.h"

enum { QR_MMA_KEYS = 64, QR_MMA_SEGMENT = 512, QR_MMA_ROWS = 16, QR_MMA_MAX_GROUP = 64 };

/* A piece of work: segment idx of request req (decode), rows from idx * tile on (prefill); for a merge idx is the
 * request's first decode item. */
typedef struct qr_mma_item {
    int32_t req, idx;
} qr_mma_item;

/* What a step's launches do, the same for all layers: items are decode | merge | prefill, back to back. */
typedef struct qr_mma_plan {
    int num_decode, num_merge, num_prefill;
    int decode_rows; /* most rows of a decode request */
} qr_mma_plan;

/* What the kernels take: head sizes 64, 96, 128, 256; groups (query heads per KV head) up to QR_MMA_MAX_GROUP; not F32,
 * 8-bit types in blocks of 16 at least. */
bool qr_mma_attention_supported(int head_size, int group, qr_kv_dtype dtype, int block_size);

/* Rows of a prefill block: what its registers hold. */
static inline int qr_mma_prefill_rows(int head_size) { return head_size <= 128 ? 128 : 64; }

typedef struct qr_mma_plan_args {
    const int32_t *query_start_loc, *seq_lens; /* host: [num_reqs + 1], [num_reqs] */
    int num_reqs, num_kv_heads, group, head_size;
    int64_t max_part_floats; /* at parts; what does not fit there is done as prefill, in the same bits */
} qr_mma_plan_args;

/* Most items of a batch of max_tokens tokens in max_reqs requests of up to max_context. */
size_t qr_mma_max_items(int max_tokens, int max_reqs, int max_context);
/* Cut a batch into items; the longest prompt tiles first. */
qr_mma_plan qr_mma_plan_batch(const qr_mma_plan_args *args, qr_mma_item *items);
/* The same for requests of one token, the same items whatever their lengths up to num_segments: those past a request's
 * end do nothing. False: not as decode items, or they do not fit. */
bool qr_mma_plan_padded(const qr_mma_plan_args *args, int num_segments, qr_mma_plan *out, qr_mma_item *items);

/* Everything below is in device memory. */
typedef struct qr_mma_attention {
    const float *q; /* [num_tokens, ld_q], 16-byte aligned, ld_q a multiple of 4 */
    int64_t ld_q;
    float *out; /* [num_tokens, num_heads * head_size] */
    int num_heads, num_kv_heads, head_size;
    float scale;
    int window;
    /* the layer's cache, laid out as the CPU's: of a head in a block K [head_size][block_size], V
     * [block_size][head_size], INT8's scales f16 [block_size] behind each */
    const uint8_t *k, *v;            /* of head 0 in block 0; 16-byte aligned, as are the steps */
    int64_t block_bytes, head_bytes; /* from block to block, from head to head */
    qr_kv_dtype dtype;
    int block_size;
    int64_t num_blocks;
    bool wgmma; /* prefill as wgmma_attention.h has it, where it does */
    /* the batch */
    const int32_t *query_start_loc, *seq_lens, *block_table;
    int max_blocks;
    const qr_mma_item *items;
    float *parts; /* decode: [num_decode][num_kv_heads][decode_rows][head_size + 2] */
} qr_mma_attention;

/* stream is a cudaStream_t. Returns 0 or the cudaError_t of a launch. */
int qr_mma_attention_run(const qr_mma_attention *args, const qr_mma_plan *plan, void *stream);

#ifdef __cplusplus
}
#endif

#endif
