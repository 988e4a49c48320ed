/* cuda: the boundary between quire and libquire-cuda.so, which alone knows CUDA.
 *
 *   cuda_backend.c (in quire) ──► qr_cuda_api (this table) ──► libquire-cuda.so: runtime.cu, rows.cu, linear.cu, ...
 *
 * The library is loaded at run time, so that one program runs where there is no driver. It is compiled by nvcc; the
 * tests compile the same files for the CPU (tests/cuda_shim), where a device's memory is the host's.
 *
 * A device does what it is asked in order, later; wait() returns when it is done. Pointers are to its memory unless
 * said otherwise. A device that fails in the middle of its work (a fault of the hardware or a bug here) cannot be used
 * any more: the library says what happened and aborts.
 * Threads: as backend.h. */
#ifndef QR_BACKEND_CUDA_CUDA_H
#define QR_BACKEND_CUDA_CUDA_H

#include "backend/cuda/gemm_lt.h"
#include "backend/cuda/mma_attention.h"
#include "backend/cuda/mma_linear.h"

enum {
    QR_CUDA_VERSION = 5,           /* of this table */
    QR_CUDA_PARTS_BYTES = 16 << 20 /* partial results of contexts, or of K, that are split over blocks */
};

typedef struct qr_cuda_device qr_cuda_device;
typedef struct qr_cuda_graph qr_cuda_graph;

typedef struct qr_cuda_info {
    char name[256];
    int compute_major, compute_minor, num_multiprocessors;
} qr_cuda_info;

/* 32 activations as int8 (backend.h, linear). */
typedef struct qr_cuda_act {
    int32_t q[8]; /* four each, the first lowest */
    float d, asum, half_asum[2];
} qr_cuda_act;

/* y[t, n] = x[t] . w[n] (+ bias[n]) (+ y[t, n]) */
typedef struct qr_cuda_linear {
    qr_dtype dtype;
    const void *w; /* rows as in a checkpoint, back to back */
    size_t row_bytes;
    int64_t num_rows, num_cols;
    const float *x; /* float types */
    int64_t ld_x;
    const qr_cuda_act *act; /* low-bit types: [num_tokens, num_cols / 32] */
    int num_tokens;
    const float *bias; /* or NULL */
    float *y;
    int64_t ld_y;
    bool accumulate;
} qr_cuda_linear;

typedef struct qr_cuda_embed {
    qr_dtype dtype, pos_dtype;
    const void *table, *pos_table; /* pos_table or NULL */
    size_t row_bytes, pos_row_bytes;
    const int32_t *ids, *positions;
    int num_tokens, pos_offset;
    float scale;
    float *out;
    int64_t cols;
} qr_cuda_embed;

/* Where K and V of a layer lie: block b at data + b * block_bytes, inside as on the CPU:
 *   K of head 0 | K of head 1 | ... | V of head 0 | ...
 *   K [head_size][block_size] | INT8: scales f16[block_size],  V [block_size][padded] | the same */
typedef struct qr_cuda_kv {
    qr_kv_dtype dtype;
    uint8_t *data; /* of block 0 in this layer */
    size_t block_bytes, head_k_bytes, head_v_bytes;
    int num_kv_heads, head_size, padded, block_size; /* padded: head_size rounded up to 16 */
} qr_cuda_kv;

typedef struct qr_cuda_attention {
    qr_cuda_kv kv;
    const float *q;
    int64_t ld_q;
    float *out;
    int num_heads, num_tokens, num_reqs, max_blocks, window;
    float scale;
    const int32_t *query_start_loc, *seq_lens, *block_table;
    int max_segments; /* of the longest context */
    float *parts;     /* QR_CUDA_PARTS_BYTES */
} qr_cuda_attention;

typedef struct qr_cuda_api {
    int version; /* QR_CUDA_VERSION */

    /* ---- the device and its memory.  Functions that return int: 0, or an error code for error_text(). */
    const char *(*error_text)(int code);
    int (*num_devices)(int *count);
    int (*open)(int index, qr_cuda_device **out, qr_cuda_info *info);
    void (*close)(qr_cuda_device *dev);
    int (*memory)(qr_cuda_device *dev, size_t *free_bytes, size_t *total_bytes);
    void *(*alloc)(qr_cuda_device *dev, size_t bytes);      /* 256-byte aligned, zeroed; NULL on failure */
    void *(*alloc_host)(qr_cuda_device *dev, size_t bytes); /* host memory that the device reads and writes; likewise */
    void (*free)(qr_cuda_device *dev, void *ptr);           /* of either; NULL is fine */
    void (*write)(qr_cuda_device *dev, void *dst, const void *host, size_t bytes); /* host may be reused on return */
    void (*read)(qr_cuda_device *dev, void *host, const void *src, size_t bytes);  /* done on return */
    void (*copy)(qr_cuda_device *dev, void *dst, const void *src, size_t bytes);
    /* Staging: `host` is of alloc_host() and must not change until stage_wait() has returned. */
    void (*stage)(qr_cuda_device *dev, void *dst, const void *host, size_t bytes);
    void (*stage_wait)(qr_cuda_device *dev); /* until all that was staged has been read */
    void (*wait)(qr_cuda_device *dev);
    /* Graphs: ops between capture_begin and capture_end are not done but kept, with the arguments they have; transfers,
     * stage_wait and wait may not be among them. graph_launch does them all, as often as one likes. capture_end: *out
     * is NULL on failure, and the ops are lost. */
    void (*capture_begin)(qr_cuda_device *dev);
    int (*capture_end)(qr_cuda_device *dev, qr_cuda_graph **out);
    void (*graph_launch)(qr_cuda_device *dev, qr_cuda_graph *graph);
    void (*graph_free)(qr_cuda_device *dev, qr_cuda_graph *graph); /* waits for the device; NULL is fine */

    /* ---- ops, as backend.h says */
    void (*embed)(qr_cuda_device *dev, const qr_cuda_embed *args);
    void (*rms_norm)(qr_cuda_device *dev, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                     float *out);
    void (*layer_norm)(qr_cuda_device *dev, const float *x, const float *w, const float *b, float eps, int num_tokens,
                       int64_t cols, float *out);
    void (*gated_act)(qr_cuda_device *dev, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out);
    void (*act)(qr_cuda_device *dev, float *x, qr_act act, int64_t count);
    void (*gather_rows)(qr_cuda_device *dev, const float *x, const int32_t *rows, int num_rows, int64_t cols,
                        float *out);
    void (*quantize)(qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t cols, qr_cuda_act *out);
    void (*linear)(qr_cuda_device *dev, const qr_cuda_linear *args);
    void (*rope_kv_write)(qr_cuda_device *dev, const qr_rope_kv_args *args, const qr_cuda_kv *kv, int num_tokens,
                          const int32_t *positions, const int64_t *slot_mapping);
    void (*attention)(qr_cuda_device *dev, const qr_cuda_attention *args);
    void (*sample)(qr_cuda_device *dev, const qr_sample_args *args);
    /* on tensor cores, in orders of their own: mma_linear.h, mma_attention.h */
    void (*mma_pack)(qr_cuda_device *dev, const qr_mma_weight *w, const void *rows, size_t row_bytes);
    void (*mma_linear)(qr_cuda_device *dev, const qr_mma_linear *args);
    void (*mma_attention)(qr_cuda_device *dev, const qr_mma_attention *args, const qr_mma_plan *plan);
    bool (*wgmma_check)(qr_cuda_device *dev); /* wgmma_attention.h */

    /* ---- several devices as one: cuda_ranks.c */
    /* The cudaStream_t that all of this happens on; the device is this thread's from now on. */
    void *(*stream)(qr_cuda_device *dev);
    /* out[i] = (parts[i] + parts[stride + i]) + parts[2 stride + i] + ...; num_parts >= 2; out may be one of parts */
    void (*sum_parts)(qr_cuda_device *dev, const float *parts, size_t stride, int num_parts, size_t count, float *out);
    /* num_rows rows of cols; either side may be alloc_host()'s */
    void (*copy_rows)(qr_cuda_device *dev, float *dst, int64_t ld_dst, const float *src, int64_t ld_src, int64_t cols,
                      int num_rows);
    /* by cuBLASLt: gemm_lt.h */
    bool (*lt_open)(qr_cuda_device *dev, char *problem, size_t problem_bytes);
    bool (*lt_describe)(qr_cuda_device *dev, qr_dtype dtype, int64_t num_rows, int64_t num_cols, const void *rows,
                        const qr_mma_weight *packed, qr_lt_weight *out);
    void (*lt_round_x)(qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t num_cols, bool is_f16,
                       void *x16);
    void (*lt_multiply)(qr_cuda_device *dev, const qr_lt_linear *args);
} qr_cuda_api;

/* What libquire-cuda.so exports. */
#define QR_CUDA_SYMBOL "quire_cuda_api"
typedef const qr_cuda_api *(*qr_cuda_api_fn)(void);

/* The backend of CUDA device `index`. tensor_cores: attention on them where mma_attention.h has it (weight_create()'s
 * compute says the same of matrices), else all ops in the CPU's bits. library: path of libquire-cuda.so, or NULL:
 * QUIRE_CUDA_LIBRARY, else where base/plugin.h looks. `threads` is for what
 * the host does (sampling). DEVICE: no library, no driver, no such device; the text says which and what to do. */
QUIRE_MUST_USE quire_status qr_cuda_backend_create(const char *library, int index, int threads, bool tensor_cores,
                                                   qr_backend **out, quire_error *error);

/* ---- between the .cu files */
#ifdef __cplusplus
extern "C" {
#endif
void qr_cuda_embed_rows(qr_cuda_device *dev, const qr_cuda_embed *args);
void qr_cuda_rms_norm(qr_cuda_device *dev, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                      float *out);
void qr_cuda_layer_norm(qr_cuda_device *dev, const float *x, const float *w, const float *b, float eps, int num_tokens,
                        int64_t cols, float *out);
void qr_cuda_gated_act(qr_cuda_device *dev, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out);
void qr_cuda_act_rows(qr_cuda_device *dev, float *x, qr_act act, int64_t count);
void qr_cuda_gather_rows(qr_cuda_device *dev, const float *x, const int32_t *rows, int num_rows, int64_t cols,
                         float *out);
void qr_cuda_quantize(qr_cuda_device *dev, const float *x, int64_t ld_x, int num_tokens, int64_t cols,
                      qr_cuda_act *out);
void qr_cuda_multiply(qr_cuda_device *dev, const qr_cuda_linear *args);
void qr_cuda_rope_kv_write(qr_cuda_device *dev, const qr_rope_kv_args *args, const qr_cuda_kv *kv, int num_tokens,
                           const int32_t *positions, const int64_t *slot_mapping);
void qr_cuda_attend(qr_cuda_device *dev, const qr_cuda_attention *args);
void *qr_cuda_stream(qr_cuda_device *dev);
void qr_cuda_sum_parts(qr_cuda_device *dev, const float *parts, size_t stride, int num_parts, size_t count, float *out);
void qr_cuda_copy_rows(qr_cuda_device *dev, float *dst, int64_t ld_dst, const float *src, int64_t ld_src, int64_t cols,
                       int num_rows);
void qr_cuda_sample(qr_cuda_device *dev, const qr_sample_args *args);
#ifdef __cplusplus
}
#endif

#endif
