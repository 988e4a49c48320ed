/* config: what a checkpoint says about its architecture, and the descriptor table of the architectures quire runs.
 *
 *   config.json (safetensors) ─┐
 *                              ├─► qr_model_config ──► model.c: one decoder forward pass for all of them
 *   GGUF metadata             ─┘         ▲
 *   descriptor row (this file's table) ──┘   norm kind, biases, RoPE kind, QK-norm, gated or plain MLP, ...
 *
 * A new dense architecture is a new row in config.c, not new forward code.
 * Threads: any; immutable after reading.  Source: Hugging Face transformers' configuration_*.py, llama.cpp's keys. */
#ifndef QR_MODEL_CONFIG_H
#define QR_MODEL_CONFIG_H

#include "backend/backend.h"
#include "model/quantized.h"
#include "weights/checkpoint.h"

enum { QR_MAX_LAYERS = 512 };

typedef enum qr_rope_scaling {
    QR_ROPE_SCALING_NONE,
    QR_ROPE_SCALING_LINEAR,
    QR_ROPE_SCALING_DYNAMIC,
    QR_ROPE_SCALING_LLAMA3,
    QR_ROPE_SCALING_YARN
} qr_rope_scaling;

/* One row per architecture. Tensor names are GGUF's; `hf_*` are the names in a Hugging Face checkpoint. */
typedef struct qr_arch {
    const char *name;          /* general.architecture, and Hugging Face's model_type */
    bool layer_norm;           /* LayerNorm with bias instead of RMSNorm */
    bool gated_mlp;            /* down(act(gate(x)) * up(x)) instead of down(act(up(x))) */
    bool qk_norm;              /* RMSNorm per head on Q and K before RoPE */
    bool qkv_bias, other_bias; /* biases that must be there (others are used when present) */
    bool fused_qkv;            /* one attn_qkv matrix */
    bool transposed;           /* Hugging Face stores linears as [in, out] (Conv1D) */
    bool learned_positions;    /* position embedding instead of RoPE */
    int position_offset;       /* of the position embedding's rows */
    qr_rope_style gguf_rope;   /* pairing in GGUF files; safetensors always pair halves */
    qr_act act;
    const char *hf_layer;             /* "model.layers.%d." */
    const char *const (*hf_names)[2]; /* {GGUF stem, Hugging Face stem} pairs, {NULL, NULL} ends */
} qr_arch;

typedef struct qr_model_config {
    const qr_arch *arch;
    char name[128]; /* general.name, or the folder's */
    int num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_size, vocab_size;
    int max_position_embeddings;
    float norm_eps, attention_scale;
    bool tie_word_embeddings;
    qr_rope_style rope_style;
    int rotary_dim;
    double rope_theta;
    qr_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor, rope_beta_fast, rope_beta_slow;
    double rope_attention_factor; /* multiplies cos and sin; 0: the scaling's default */
    bool rope_truncate;           /* YaRN: round the correction range */
    int rope_original_max_position;
    qr_quantization quantization; /* of linears in safetensors */
    int window[QR_MAX_LAYERS];    /* sliding window per layer, 0: none */
} qr_model_config;

/* OK | UNSUPPORTED (architecture or feature named) | FORMAT (key named: missing, of the wrong kind or absurd) */
QUIRE_MUST_USE quire_status qr_model_config_read(const qr_checkpoint *ckpt, qr_model_config *out, quire_error *error);

/* cos and sin [num_positions, rotary_dim / 2] of the configured RoPE, attention factor included.
 * freq_factors [rotary_dim / 2] divides the frequencies (GGUF's rope_freqs.weight), or NULL. */
void qr_model_rope_tables(const qr_model_config *config, const float *freq_factors, int num_positions, float *cos_out,
                          float *sin_out);

#endif
