/* backend: the device contract: memory, weights, KV cache, and the ops of a decoder on batches.
 *
 *   model/ ──► qr_backend (this table of functions) ──► cpu/ (ref, avx2, avx512, neon) | cuda/
 *
 * Activations are row-major float32 [num_tokens, cols], in buffers from buffer_alloc().  The batch is flat: prompt
 * chunks and single tokens are the same thing (docs/STRUCTURE.md).
 *
 * Where things lie: an op reads and writes buffers, vectors and tables of its backend, and batches from batch_begin(),
 * all of which may be a device's. Ops of a device are asked for and done later, in order; wait() returns when they are.
 * On the CPU everything is host memory, batch_begin() gives the caller's batch back and wait() has nothing to do.
 *
 * Same bits: an op's result for one token (one output element) depends on that token's inputs alone, never on the
 * other rows, their number, the tiling, the threads, the block size, or the instruction set. Each op below defines
 * its order of additions; fma means one rounding (C's fmaf). Kernels for every instruction set give equal bits.
 *
 * Allocation: what is called create, alloc or reserve allocates; no op does.
 * Threads: one caller at a time.  Source: order of operations ours; batch fields as vLLM's attention metadata. */
#ifndef QR_BACKEND_BACKEND_H
#define QR_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/comm.h"
#include "base/pool.h"
#include "base/status.h"
#include "tensor/tensor.h"

typedef struct qr_backend qr_backend;
typedef struct qr_weight qr_weight;     /* a packed matrix [N, K] (rows = outputs) */
typedef struct qr_kv_cache qr_kv_cache; /* K and V of all layers, num_blocks blocks */

typedef enum qr_compute {
    QR_COMPUTE_AUTO,
    QR_COMPUTE_FLOAT32,
    QR_COMPUTE_TENSOR,
    QR_COMPUTE_TENSOR_LT
} qr_compute; /* weight_create() */

/* One step's tokens. Arrays belong to the caller. block_table rows are max_blocks apart. */
typedef struct qr_batch {
    int num_tokens, num_reqs, num_samples;
    int max_blocks;                 /* row stride of block_table */
    const int32_t *input_ids;       /* [num_tokens] */
    const int32_t *positions;       /* [num_tokens] */
    const int64_t *slot_mapping;    /* [num_tokens] block_id * block_size + offset */
    const int32_t *query_start_loc; /* [num_reqs + 1] */
    const int32_t *seq_lens;        /* [num_reqs] context length, this step's tokens included */
    const int32_t *block_table;     /* [num_reqs, max_blocks] */
    const int32_t *logits_indices;  /* [num_samples] rows that need logits */
    const int32_t *prefix_order;  /* [num_reqs] requests, those that begin with the same blocks side by side; or NULL */
    const int32_t *prefix_blocks; /* [num_reqs] blocks that prefix_order[i] begins with like the one before it */
} qr_batch;

/* The longest context. */
static inline int qr_batch_max_seq_len(const qr_batch *batch)
{
    int max = 0;
    for (int i = 0; i < batch->num_reqs; i++)
        if (batch->seq_lens[i] > max) max = batch->seq_lens[i];
    return max;
}

/* What a stored value of K or V is: XX(id, name, bytes). Values of K and V are stored and read as:
 *   F32, F16   themselves, rounded to nearest.
 *   INT8       codes -127 .. 127 and, per token, head and K or V, one scale d in float16 (2 bytes more per head_size):
 *              d = max|x| / 127 rounded up to a float16 (at least 2^-24), 0 when all are 0;
 *              code = round-to-even(x * (1 / d)), 0 when d = 0.
 *              A row that holds a NaN, an infinity or more than 127 * 65504 has d = NaN.
 *   FP8_E4M3   sign, 4 bits of exponent, 3 of mantissa, no infinity: as vLLM's fp8 with scales of 1. Rounded to nearest
 *   FP8_E5M2   even and kept within +-448 (E4M3) or +-57344 (E5M2), infinities too; NaN is code 0x7F.
 * A token's bytes depend on its own K and V alone, so blocks can be shared, copied and stored whatever the type. */
#define QR_KV_DTYPE_MAP(XX)     \
    XX(F32, "float32", 4)       \
    XX(F16, "float16", 2)       \
    XX(INT8, "int8", 1)         \
    XX(FP8_E4M3, "fp8_e4m3", 1) \
    XX(FP8_E5M2, "fp8_e5m2", 1)

typedef enum qr_kv_dtype {
#define XX(id, name, bytes) QR_KV_##id,
    QR_KV_DTYPE_MAP(XX)
#undef XX
        QR_NUM_KV_DTYPES
} qr_kv_dtype;

typedef struct qr_kv_config {
    int num_layers, num_kv_heads;
    int head_size;  /* 1 to 512 */
    int block_size; /* 8, 16, 32, 64 or 128 */
    int64_t num_blocks;
    qr_kv_dtype dtype;
} qr_kv_config;

typedef enum qr_rope_style {
    QR_ROPE_NONE,
    QR_ROPE_HALVES,  /* pairs (i, i + rotary_dim/2): Hugging Face, GPT-NeoX */
    QR_ROPE_ADJACENT /* pairs (2i, 2i + 1): GGUF llama */
} qr_rope_style;

typedef enum qr_act { QR_ACT_SILU, QR_ACT_GELU_TANH, QR_ACT_GELU_ERF, QR_ACT_RELU } qr_act;

/* Q, K, V of a layer: normalise heads (optional), rotate, write K and V to the cache; q is changed in place. */
typedef struct qr_rope_kv_args {
    float *qkv; /* [num_tokens, ld] rows: q heads | k heads | v heads */
    int64_t ld;
    int num_heads, num_kv_heads, head_size;
    qr_rope_style style;
    int rotary_dim;               /* <= head_size, even */
    const float *cos, *sin;       /* [max_position, rotary_dim / 2], attention scaling included */
    const float *q_norm, *k_norm; /* [head_size] RMS weights per head before rotation, or NULL */
    float norm_eps;
    qr_kv_cache *cache;
    int layer;
} qr_rope_kv_args;

typedef struct qr_attention_args {
    const float *q; /* [num_tokens, ld_q], heads of head_size */
    int64_t ld_q;
    float *out; /* [num_tokens, num_heads * head_size] */
    int num_heads, num_kv_heads, head_size;
    float scale; /* of q . k */
    int window;  /* 0: all; else position p sees keys p - window + 1 .. p */
    const qr_kv_cache *cache;
    int layer;
} qr_attention_args;

typedef struct qr_copy_pair {
    int32_t src_block, dst_block;
} qr_copy_pair;

/* ---- sampling (see the op `sample`) */
enum {
    QR_MAX_TOP = 128,      /* likeliest tokens of a row that can be asked for */
    QR_MAX_DRAWS = 64,     /* of one call */
    QR_MAX_VOCAB = 1 << 23 /* that weights of tokens can be added up for */
};

/* A change of a logit before something is drawn. */
typedef struct qr_logit_edit {
    int32_t id;
    float value;
} qr_logit_edit;

/* What is asked of a row of logits: a token, and the likeliest ones. */
typedef struct qr_draw {
    int32_t row;
    int32_t given_token; /* >= 0: that one, nothing is drawn */
    /* edits, in this order: logit += value (an id may come again); once per id, logit = (logit > 0 ? logit / repetition
     * : logit * repetition) - value; logit = -INFINITY */
    int32_t first_edit, num_biases, num_penalties, num_banned;
    float repetition;
    float inverse_temperature; /* 0: greedy */
    float min_p_offset;        /* <= 0, from the largest logit to the least that may be drawn; -INFINITY: any */
    int32_t top_k;             /* 0: all */
    double top_p;              /* 1: all */
    uint64_t random;
    int32_t num_top;  /* <= QR_MAX_TOP */
    bool edited_top;  /* of the logits after the edits, else before */
    bool wants_stats; /* qr_drawn's rank, max and sum_exp */
} qr_draw;

typedef struct qr_drawn {
    int32_t token;
    int32_t rank; /* of the token in the row, 1 the likeliest; like the rest before the edits */
    float logit, max, sum_exp;
} qr_drawn;

/* Arrays but `logits` and `scratch` are buffers that the host reads and writes, not before wait(). */
typedef struct qr_sample_args {
    const float *logits; /* [rows, vocab_size] */
    int vocab_size;
    const qr_draw *draws; /* [num_draws] */
    int num_draws;        /* <= QR_MAX_DRAWS */
    const qr_logit_edit *edits;
    float *scratch; /* [QR_MAX_DRAWS, vocab_size] */
    qr_drawn *out;  /* [num_draws] */
    int32_t *top_ids;
    float *top_logits; /* [num_draws, QR_MAX_TOP], likeliest first */
} qr_sample_args;

typedef struct qr_backend_ops {
    const char *name; /* "cpu (avx512vnni)" */

    void (*destroy)(qr_backend *be);

    /* ---- memory */
    /* Bytes that KV caches may take beside what is there now, when `utilization` (0: the device's default) is the part
     * of the memory that the program may use: of a device's whole memory, less what has been taken since the backend
     * was created; of a machine's, which others use too, the part of what is free now. *total: all there is, 0 when
     * unknown. */
    uint64_t (*cache_bytes)(qr_backend *be, double utilization, uint64_t *total);
    /* 64-byte aligned, zeroed; NULL on failure. host_reads: after wait() the host may read it too. */
    void *(*buffer_alloc)(qr_backend *be, size_t bytes, bool host_reads);
    void (*buffer_free)(qr_backend *be, void *ptr, size_t bytes);
    /* A copy of values where ops read them (norm weights, biases, RoPE tables); NULL on failure. */
    float *(*vector_create)(qr_backend *be, const float *values, int64_t count);
    void (*vector_destroy)(qr_backend *be, float *vector); /* NULL is fine */
    /* Scratch for batches of up to max_tokens rows in up to max_reqs requests, matrices of up to max_cols inputs,
     * contexts of max_context, and for all that was reserved before. */
    quire_status (*reserve)(qr_backend *be, int max_tokens, int max_reqs, int64_t max_cols, int max_context,
                            quire_error *error);
    /* Until all ops so far are done. */
    void (*wait)(qr_backend *be);
    /* What a buffer holds after all ops so far, to host memory; done on return. */
    void (*read)(qr_backend *be, void *host, const void *buffer, size_t bytes);

    /* ---- weights
     * Pack a matrix view (2-D: dims {K, N}; 1-D is not a matrix) for linear(). AUTO: quantized types stay low-bit and
     * are multiplied with int8 activations; F32, F16, BF16 keep their type and are multiplied in float32.
     * FLOAT32: quantized types are dequantized to float32 first. TENSOR (CUDA): as cuda/mma_linear.h says, for the
     * types that it has; else AUTO. TENSOR_LT (CUDA): likewise, but 16-bit weights, and for many tokens all, through
     * cuBLASLt (cuda/gemm_lt.h): a token's bits then depend on how many tokens a step has; it comes before reserve();
     * DEVICE when there is none. The view's data may go afterwards. UNSUPPORTED names tensor and type. */
    quire_status (*weight_create)(qr_backend *be, const qr_tensor_view *view, qr_compute compute, qr_weight **out,
                                  quire_error *error);
    void (*weight_destroy)(qr_backend *be, qr_weight *w);
    size_t (*weight_bytes)(const qr_weight *w);
    /* The table of an embedding: *out is the view with its rows where embed() reads them; on the CPU the view itself,
     * whose data must outlive the table. */
    quire_status (*table_create)(qr_backend *be, const qr_tensor_view *view, qr_tensor_view *out, quire_error *error);
    void (*table_destroy)(qr_backend *be, qr_tensor_view *table); /* a zeroed one is fine */

    /* ---- KV cache */
    quire_status (*kv_cache_create)(qr_backend *be, const qr_kv_config *config, qr_kv_cache **out, quire_error *error);
    void (*kv_cache_destroy)(qr_backend *be, qr_kv_cache *cache);
    size_t (*kv_block_bytes)(qr_backend *be, const qr_kv_config *config); /* all layers, K and V */
    /* All layers of src_block to dst_block, for each pair, in order. */
    void (*kv_copy_blocks)(qr_backend *be, qr_kv_cache *cache, const qr_copy_pair *pairs, int num_pairs);
    /* One whole block to or from host memory, kv_block_bytes() each (swap, persistence). */
    void (*kv_read_block)(qr_backend *be, const qr_kv_cache *cache, int32_t block_id, void *dst);
    void (*kv_write_block)(qr_backend *be, qr_kv_cache *cache, int32_t block_id, const void *src);
    /* For idle moments, NULL where there is nothing to do: have the system give a little more of the cache's memory, in
     * a few ms, as far as 1 GiB past the highest block that was written. False: that is done. Changes no content. */
    bool (*kv_warm)(qr_backend *be, qr_kv_cache *cache);

    /* ---- ops
     * batch_begin: the batch as the ops of this step take it, valid until the next call; its block tables are of
     *   `cache`. The counts are the caller's. */
    const qr_batch *(*batch_begin)(qr_backend *be, const qr_batch *batch, const qr_kv_cache *cache);

    /* pass_begin, pass_end: the same for a whole forward pass, whose ops are the same for each batch of a size but for
     *   what is in the batch; NULL: batch_begin() will do. The device may record the ops and do them at once the next
     *   time. owner: whose ops and activations, of max_tokens rows. The batch that is returned may have more tokens and
     *   requests than the caller's, up to max_tokens, behind them, that write nothing to the cache; *done: the pass is
     *   done, else ask for its ops and call pass_end(). pass_end: false: they are lost, ask again. */
    const qr_batch *(*pass_begin)(qr_backend *be, const qr_batch *batch, qr_kv_cache *cache, const void *owner,
                                  int max_tokens, bool *done);
    bool (*pass_end)(qr_backend *be);

    /* embed: out[t] = row ids[t] of the table, dequantized to float32, times scale.
     *   pos_view (or NULL): row positions[t] + pos_offset of that table is added. */
    void (*embed)(qr_backend *be, const qr_tensor_view *view, const int32_t *ids, int num_tokens, float scale,
                  const qr_tensor_view *pos_view, const int32_t *positions, int pos_offset, float *out, int64_t cols);

    /* rms_norm: s = sum of x[i]^2 in 16 lanes (lane i % 16, fma, i ascending), lanes added as a binary tree
     *   (8 apart, 4, 2, 1); r = 1 / sqrtf(s / cols + eps); out[i] = x[i] * r * w[i].  layer_norm: mean likewise,
     *   then the variance of x - mean; out = (x - mean) * r * w + b (fma).  out may be x. */
    void (*rms_norm)(qr_backend *be, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                     float *out);
    void (*layer_norm)(qr_backend *be, const float *x, const float *w, const float *b, float eps, int num_tokens,
                       int64_t cols, float *out);

    /* linear: y[t, off_j + n] = sum_k x[t, k] * w_j[n, k] (+ bias_j[n]) (+ y when accumulate), for num_weights
     *   matrices of the same K side by side (off_j = sum of the N before j): Q, K, V in one pass.
     *   Float weights: acc = fma(x[k], w[k], acc), k ascending from acc = 0.
     *   Low-bit weights, AUTO: x in groups of 32: d = max|x| / 127, q = round-to-even(x * (1 / d)) (all 0 when d = 0),
     *     (d below FLT_MIN: all 0).  Per weight group (32, or 16 for Q2_K, Q3_K, Q6_K) in ascending k:
     *     acc = fma((float)isum, ws * d, acc); then, when the format has minimums, acc = fma(wm, asum, acc), where
     *     asum = d * sum of the group's q, isum = the exact integer sum of q * (code - zero),
     *     zero = 8 (Q4_0), 16 (Q5_0), 4 (Q3_K), 32 (Q6_K), 0 (Q8_0's signed codes and formats with minimums),
     *     ws = d_w (K formats: d_w * sc), wm = m (Q4_1, Q5_1) or -(dmin * mn) (Q2_K, Q4_K, Q5_K): exact products. */
    void (*linear)(qr_backend *be, const float *x, int64_t ld_x, int num_tokens, const qr_weight *const *weights,
                   const float *const *biases, int num_weights, float *y, int64_t ld_y, bool accumulate);

    /* gated_act: out[t, i] = act(gate_up[t, i]) * gate_up[t, cols + i].   act: x[i] = act(x[i]) in place. */
    void (*gated_act)(qr_backend *be, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out);
    void (*act)(qr_backend *be, float *x, qr_act act, int num_tokens, int64_t cols);

    /* rope_kv_write: per pair x0 = fma(x0, cos, -(x1 * sin)), x1 = fma(x0, sin, x1 * cos). K and V as qr_kv_dtype
     * says. */
    void (*rope_kv_write)(qr_backend *be, const qr_batch *batch, const qr_rope_kv_args *args);

    /* attention over the paged context, causal within each request.
     *   score(p, t) = fma chain over d ascending, times scale.  Per (token, head) and tile of 128 absolute positions:
     *   m = largest visible score, l = sum of exp(score - m) (16 lanes, lane t % 16, and tree), o = fma chain of
     *   exp(score - m) and v over visible t ascending, from 0.
     *   INT8: both chains take the codes as numbers; score = chain * (dK(t) * scale), and exp(score - m) * dV(t) is
     *   what is multiplied with the codes of V.  FP8_E4M3: likewise, with d = 256 and codes * 2^-8.
     *   Tiles are merged in order within segments of 512 positions, segments in order:
     *   merge(A, B): M = max(mA, mB), a = exp(mA - M), b = exp(mB - M), l = fma(lA, a, lB * b), o = fma(oA, a, oB * b);
     *   the first is taken as it is.  out = o * (1 / l).  exp is the backend's own fixed polynomial.
     *   Positions that no query sees (stale slots, freed window blocks) are never used, whatever they hold.
     *   With prefix_order, requests that begin with the same blocks may read them together: the same bits. */
    void (*attention)(qr_backend *be, const qr_batch *batch, const qr_attention_args *args);

    /* out[i, :] = x[rows[i], :]; rows as batch_begin() has them */
    void (*gather_rows)(qr_backend *be, const float *x, const int32_t *rows, int num_rows, int64_t cols, float *out);

    /* sample: what `draws` ask of rows of logits, drawn where the logits are; NULL: engine/sampler.h does it on the
     *   host, the same. Orders of tokens: best first (the larger logit, then the lower id). NaN is below all.
     *   No draw, the best token of the edited logits: greedy, or it is not finite. Else p(i) = exp((logit - largest) *
     *   inverse_temperature), weight = floor(p * 2^40), a whole number, so that sums are the same in any order;
     *   kept: logits from largest + min_p_offset on; of these the best top_k; of these the shortest beginning, best
     *   first, whose weights reach floor(top_p * (double)sum of all their weights), one token at least.
     *   The token: the first, by id, with which the weights kept so far exceed floor(random * their sum / 2^64).
     *   max, sum_exp: as row_stats. */
    void (*sample)(qr_backend *be, const qr_sample_args *args);

    /* For the sampler on the host, on logits [num_rows, ld] that the host reads; rows run in parallel; done on return.
     *   argmax: lowest index of the largest value.  sum_exp: sum of exp(x - max), 16 lanes and tree as in rms_norm. */
    void (*row_stats)(qr_backend *be, const float *x, int64_t ld, int num_rows, int64_t cols, float *out_max,
                      int32_t *out_argmax, float *out_sum_exp);
    /* out[i] = exp((x[i] - sub) * scale), one row in host memory; the same polynomial; done on return. Any thread. */
    void (*exp_row)(qr_backend *be, const float *x, int64_t cols, float sub, float scale, float *out);

    /* ---- several ranks (base/comm.h), a device each.  NULL where buffers are host memory: there the comm itself moves
     * their bytes. All ranks call the same; results are there for the ops that follow.
     * ranks_join: once, before the others, which use the comm's ranks but not the comm. max_cols: of ranks_gather.
     *   returns  OK, or the first failure of a rank, on every rank */
    quire_status (*ranks_join)(qr_backend *be, qr_comm *comm, int64_t max_cols, quire_error *error);
    /* x[i] = ((x[i] of rank 0 + x[i] of rank 1) + x[i] of rank 2) + ..., on every rank, whatever count is. */
    void (*ranks_sum)(qr_backend *be, float *x, size_t count);
    /* Rows [num_rows, cols[r]] of each rank r > 0 behind one another's columns on rank 0, where x is [num_rows, ld] and
     * has its own cols[0] in place. */
    void (*ranks_gather)(qr_backend *be, float *x, int num_rows, int64_t ld, const int64_t *cols);
} qr_backend_ops;

struct qr_backend {
    const qr_backend_ops *ops;
    qr_pool *pool; /* worker threads, shared with whoever needs a parallel loop; owned by the backend */
};

/* The CPU backend. `isa`: NULL or "" for the best the processor has (QUIRE_CPU overrides), else "ref", "avx2",
 * "avx512bw", "avx512", "neon"; UNSUPPORTED when the processor lacks it. threads 0: qr_cpu_count(). */
QUIRE_MUST_USE quire_status qr_cpu_backend_create(const char *isa, int threads, qr_backend **out, quire_error *error);

#endif
