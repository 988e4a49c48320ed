/* shard: the part of a model that each rank of a tensor-parallel group holds.
 *
 *             rank 0           rank 1
 *   Q, K, V   heads 0 .. 5   | heads 6 .. 8      rows, by whole groups of a KV head and its query heads
 *   output    the columns that these heads feed  ─► sum over ranks ─► x
 *   gate, up  rows 0 .. 767  | rows 768 .. 1535
 *   down      the same columns                   ─► sum over ranks ─► x
 *   logits    tokens 0 .. n  | n + 1 ..          ─► side by side on rank 0
 *
 * Norms and embeddings are on every rank. Where a part does not divide evenly, the first ranks have one unit more.
 * Threads: any.  Source: Shoeybi et al., Megatron-LM, 2019, section 3. */
#ifndef QR_MODEL_SHARD_H
#define QR_MODEL_SHARD_H

#include "model/config.h"

typedef struct qr_range {
    int64_t first, count;
} qr_range;

typedef struct qr_shard {
    qr_range heads, kv_heads, mlp, vocab;
} qr_shard;

/* Rows and columns of a matrix; the pieces of rows side by side. */
typedef struct qr_cut {
    qr_range rows[3]; /* of unused ones count is 0 */
    qr_range cols;
} qr_cut;

qr_range qr_shard_kv_heads(const qr_model_config *config, int rank, int size);
qr_range qr_shard_vocab(const qr_model_config *config, int rank, int size);
/* All of it.   UNSUPPORTED: fewer KV heads than ranks */
QUIRE_MUST_USE quire_status qr_shard_plan(const qr_model_config *config, int rank, int size, qr_shard *out,
                                          quire_error *error);

int64_t qr_cut_rows(const qr_cut *cut);
/* *out: a copy of that part of the matrix; the caller frees out->data.
 *   transposed    the view is [K, N], the cut and the copy (float32) are [N, K]
 *   UNSUPPORTED   the cut goes through blocks of a quantized type: tensor named
 *   NOMEM */
QUIRE_MUST_USE quire_status qr_cut_copy(const qr_tensor_view *view, const qr_cut *cut, bool transposed,
                                        qr_tensor_view *out, quire_error *error);

#endif
