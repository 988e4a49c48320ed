/* quantized: linears that a safetensors checkpoint stores as codes, as types that the kernels have.
 *
 *   config.json: quantization_config ──────► qr_quantization ─┐
 *   gptq, awq   qweight, scales, qzeros, g_idx                │                       Q4_0  4 bits, zero points 8
 *   compressed  weight_packed, weight_scale, ...              ├─► qr_quantized_read ─► Q4_1  4 bits, others
 *               weight (I8, F8_E4M3), weight_scale            │   one matrix at a      Q8_0  int8, fp8, act-order
 *   fp8         weight (F8_E4M3), weight_scale(_inv) ─────────┘   time                 F16   what fits none of these
 *
 *   value [n, k] = scale [n, group of k] * (code [n, k] - zero [n, group of k])        fp8: scale * code's own value
 *
 * Blocks of 32 columns get their group's scale. What that costs (tests/test_model_quantized.c holds it to this):
 *   scales    are rounded to float16, in which most checkpoints have them
 *   Q4_0      nothing more, nor int8 as Q8_0
 *   Q4_1      the minimum -scale * zero is rounded to float16: the block is off by at most 1/256 of a step, for the
 *             zero point 16 that GPTQ can express 0
 *   fp8       Q8_0's step is a power of two times the matrix's scale: the four highest binades of a block are exact,
 *             smaller values are off by at most half a step, 1/128 of what the highest binade begins with
 *   act-order columns of a group lie apart (desc_act), so blocks of 4 bits have several scales, as where groups are no
 *             multiple of 32: Q8_0, off by at most half of its step, 1/254 of a block's largest value
 *   F16       every value is rounded to float16. For columns that are no multiple of 32, 8 bits with zero points or in
 *             act-order
 * Scales of activations and of the KV cache are not used: activations have their own (backend.h).
 * Threads: any; reading uses the caller's pool.  Source: AutoGPTQ qlinear_cuda.py, compressed-tensors
 * pack_quantized.py; vLLM's quantization/ for AWQ, fp8 and what is published. */
#ifndef QR_MODEL_QUANTIZED_H
#define QR_MODEL_QUANTIZED_H

#include "base/pool.h"
#include "weights/checkpoint.h"

typedef enum qr_quant_method {
    QR_QUANT_NONE,
    QR_QUANT_GPTQ,
    QR_QUANT_AWQ,
    QR_QUANT_FP8, /* fbgemm_fp8 too */
    QR_QUANT_COMPRESSED
} qr_quant_method;

typedef struct qr_quantization {
    qr_quant_method method;
    int bits;                   /* of all linears; 0: the tensors say */
    int group_size;             /* columns; 0: the tensors say, -1: all */
    int zero_offset;            /* added to GPTQ's stored zero points: 1 in its first format */
    int block_rows, block_cols; /* of fp8 with a scale per block */
} qr_quantization;

struct qr_cut;

/* From config.json's quantization_config (or compression_config), else from AutoGPTQ's quantize_config.json.
 * OK with QR_QUANT_NONE when there is none | UNSUPPORTED: a method or setting, named | FORMAT */
QUIRE_MUST_USE quire_status qr_quantization_read(const qr_checkpoint *ckpt, qr_quantization *out, quire_error *error);
/* "GPTQ, 4 bits, groups of 128" */
void qr_quantization_describe(const qr_quantization *q, char *out, size_t bytes);
/* Values of the model that the tensor stands for: those of packed codes, none of scales and indices. */
int64_t qr_quantization_num_values(const qr_quantization *q, const qr_tensor_view *tensor);

/* The part `cut` of a matrix [rows, cols] of codes.
 *   view      its codes: "...qweight", "...weight_packed" or "...weight"; the other tensors are found by its name
 *   exact     as float32 without any of the roundings above
 *   out       named as view; the caller frees out->data
 *   returns   OK | FORMAT, UNSUPPORTED: what is wrong with which tensor | NOMEM */
QUIRE_MUST_USE quire_status qr_quantized_read(const qr_checkpoint *ckpt, const qr_quantization *q,
                                              const qr_tensor_view *view, int64_t rows, int64_t cols,
                                              const struct qr_cut *cut, bool exact, qr_pool *pool, qr_tensor_view *out,
                                              quire_error *error);

#endif
