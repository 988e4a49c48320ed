#define _GNU_SOURCE
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const llama_names[][2] = {{"token_embd", "model.embed_tokens"},
                                             {"output_norm", "model.norm"},
                                             {"output", "lm_head"},
                                             {"attn_norm", "input_layernorm"},
                                             {"attn_q", "self_attn.q_proj"},
                                             {"attn_k", "self_attn.k_proj"},
                                             {"attn_v", "self_attn.v_proj"},
                                             {"attn_q_norm", "self_attn.q_norm"},
                                             {"attn_k_norm", "self_attn.k_norm"},
                                             {"attn_output", "self_attn.o_proj"},
                                             {"ffn_norm", "post_attention_layernorm"},
                                             {"ffn_gate", "mlp.gate_proj"},
                                             {"ffn_up", "mlp.up_proj"},
                                             {"ffn_down", "mlp.down_proj"},
                                             {NULL, NULL}};

static const char *const gpt2_names[][2] = {{"token_embd", "transformer.wte"},
                                            {"position_embd", "transformer.wpe"},
                                            {"output_norm", "transformer.ln_f"},
                                            {"output", "lm_head"},
                                            {"attn_norm", "ln_1"},
                                            {"attn_qkv", "attn.c_attn"},
                                            {"attn_output", "attn.c_proj"},
                                            {"ffn_norm", "ln_2"},
                                            {"ffn_up", "mlp.c_fc"},
                                            {"ffn_down", "mlp.c_proj"},
                                            {NULL, NULL}};

static const char *const opt_names[][2] = {{"token_embd", "model.decoder.embed_tokens"},
                                           {"position_embd", "model.decoder.embed_positions"},
                                           {"output_norm", "model.decoder.final_layer_norm"},
                                           {"output", "lm_head"},
                                           {"attn_norm", "self_attn_layer_norm"},
                                           {"attn_q", "self_attn.q_proj"},
                                           {"attn_k", "self_attn.k_proj"},
                                           {"attn_v", "self_attn.v_proj"},
                                           {"attn_output", "self_attn.out_proj"},
                                           {"ffn_norm", "final_layer_norm"},
                                           {"ffn_up", "fc1"},
                                           {"ffn_down", "fc2"},
                                           {NULL, NULL}};

static const qr_arch archs[] = {
    {.name = "llama",
     .gated_mlp = true,
     .gguf_rope = QR_ROPE_ADJACENT,
     .act = QR_ACT_SILU,
     .hf_layer = "model.layers.%d.",
     .hf_names = llama_names},
    {.name = "mistral",
     .gated_mlp = true,
     .gguf_rope = QR_ROPE_ADJACENT,
     .act = QR_ACT_SILU,
     .hf_layer = "model.layers.%d.",
     .hf_names = llama_names},
    {.name = "qwen2",
     .gated_mlp = true,
     .qkv_bias = true,
     .gguf_rope = QR_ROPE_HALVES,
     .act = QR_ACT_SILU,
     .hf_layer = "model.layers.%d.",
     .hf_names = llama_names},
    {.name = "qwen3",
     .gated_mlp = true,
     .qk_norm = true,
     .gguf_rope = QR_ROPE_HALVES,
     .act = QR_ACT_SILU,
     .hf_layer = "model.layers.%d.",
     .hf_names = llama_names},
    {.name = "gpt2",
     .layer_norm = true,
     .qkv_bias = true,
     .other_bias = true,
     .fused_qkv = true,
     .transposed = true,
     .learned_positions = true,
     .act = QR_ACT_GELU_TANH,
     .hf_layer = "transformer.h.%d.",
     .hf_names = gpt2_names},
    {.name = "opt",
     .layer_norm = true,
     .qkv_bias = true,
     .other_bias = true,
     .learned_positions = true,
     .position_offset = 2,
     .act = QR_ACT_RELU,
     .hf_layer = "model.decoder.layers.%d.",
     .hf_names = opt_names},
};

static const qr_arch *find_arch(const char *name)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(archs[i].name, name) == 0) return &archs[i];
    return NULL;
}

static quire_status unknown_arch(const char *name, const char *path, quire_error *error)
{
    return qr_fail(error, QUIRE_UNSUPPORTED,
                   "%s: architecture '%s' is not supported (llama, mistral, qwen2, qwen3, gpt2, opt are)", path, name);
}

/* ---- one way to read numbers from either source ------------------------------------------------ */

typedef struct source {
    const qr_checkpoint *ckpt;
    const json_t *json; /* config.json, or NULL for a GGUF */
    const char *arch;   /* prefix of GGUF keys */
    quire_error *error;
    quire_status status; /* the first failure; later reads do nothing */
} source;

static void fail(source *s, const char *key, const char *what)
{
    if (s->status != QUIRE_OK) return;
    s->status = qr_fail(s->error, QUIRE_FORMAT, "%s: %s%s%s: %s", qr_checkpoint_path(s->ckpt),
                        s->json ? "config.json: " : s->arch, s->json ? "" : ".", key, what);
}

static const qr_meta *gguf_meta(const source *s, const char *key)
{
    char full[192];
    snprintf(full, sizeof full, "%s.%s", s->arch, key);
    return qr_checkpoint_meta(s->ckpt, full);
}

/* The value of `key`; false when absent (or of another kind, which is an error). */
static bool find_f64(source *s, const json_t *object, const char *key, double *out)
{
    if (s->json) {
        const json_t *value = json_object_get(object, key);
        if (!value || json_is_null(value)) return false;
        if (json_is_number(value)) return *out = json_number_value(value), true;
    } else {
        const qr_meta *meta = gguf_meta(s, key);
        qr_meta_type elem;
        uint64_t count;
        if (!meta) return false;
        if (qr_meta_f64(meta, out)) return true;
        if (qr_meta_array(meta, &elem, &count) && count > 0 && qr_meta_array_f64(meta, 0, out)) {
            for (uint64_t i = 1; i < count; i++) { /* per-layer values: fine as long as they are all the same */
                double other;
                if (!qr_meta_array_f64(meta, i, &other) || other != *out)
                    return fail(s, key, "differs between layers, which is not supported"), false;
            }
            return true;
        }
    }
    fail(s, key, "must be a number");
    return false;
}

static double get_f64(source *s, const json_t *object, const char *key, double fallback)
{
    double value;
    if (!find_f64(s, object, key, &value)) return fallback;
    if (!isfinite(value)) fail(s, key, "must be finite");
    return value;
}

/* An integer in [min, max]; fallback < 0: the key is required. */
static int get_int(source *s, const char *key, int min, int max, int fallback)
{
    double value;
    if (!find_f64(s, s->json, key, &value)) {
        if (fallback < 0) fail(s, key, "missing");
        return fallback < 0 ? min : fallback;
    }
    if (!(value >= min && value <= max) || value != floor(value)) {
        char what[96];
        snprintf(what, sizeof what, "must be an integer from %d to %d, got %g", min, max, value);
        fail(s, key, what);
        return min;
    }
    return (int)value;
}

static const char *get_str(const source *s, const json_t *object, const char *key, char *buf, size_t bytes)
{
    if (s->json) return json_string_value(json_object_get(object, key));
    const qr_meta *meta = gguf_meta(s, key);
    qr_string_view v;
    if (!meta || !qr_meta_str(meta, &v)) return NULL;
    snprintf(buf, bytes, "%.*s", (int)(v.len < bytes ? v.len : bytes - 1), v.data);
    return buf;
}

/* ---- RoPE --------------------------------------------------------------------------------------- */

static void read_rope_scaling(source *s, const json_t *object, qr_model_config *c)
{
    char buf[32];
    const char *type = s->json ? get_str(s, object, "rope_type", buf, sizeof buf)
                               : get_str(s, NULL, "rope.scaling.type", buf, sizeof buf);
    if (!type && s->json) type = get_str(s, object, "type", buf, sizeof buf);
    static const struct {
        const char *name;
        qr_rope_scaling scaling;
    } kinds[] = {{"none", QR_ROPE_SCALING_NONE},     {"default", QR_ROPE_SCALING_NONE},
                 {"linear", QR_ROPE_SCALING_LINEAR}, {"dynamic", QR_ROPE_SCALING_DYNAMIC},
                 {"llama3", QR_ROPE_SCALING_LLAMA3}, {"yarn", QR_ROPE_SCALING_YARN}};
    if (!type) return;
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && strcmp(kinds[i].name, type) != 0) i++;
    if (i == sizeof kinds / sizeof *kinds) {
        if (s->status == QUIRE_OK)
            s->status = qr_fail(s->error, QUIRE_UNSUPPORTED,
                                "%s: RoPE scaling '%s' is not supported (linear, dynamic, llama3, yarn are)",
                                qr_checkpoint_path(s->ckpt), type);
        return;
    }
    c->rope_scaling = kinds[i].scaling;
    if (c->rope_scaling == QR_ROPE_SCALING_NONE) return;
    c->rope_factor = get_f64(s, object, s->json ? "factor" : "rope.scaling.factor", 1.0);
    c->rope_original_max_position = (int)fmin(
        1e9, get_f64(s, object, s->json ? "original_max_position_embeddings" : "rope.scaling.original_context_length",
                     c->max_position_embeddings));
    c->rope_low_freq_factor = get_f64(s, object, "low_freq_factor", 1.0);
    c->rope_high_freq_factor = get_f64(s, object, "high_freq_factor", 4.0);
    c->rope_beta_fast = get_f64(s, object, s->json ? "beta_fast" : "rope.scaling.yarn_beta_fast", 32.0);
    c->rope_beta_slow = get_f64(s, object, s->json ? "beta_slow" : "rope.scaling.yarn_beta_slow", 1.0);
    if (s->json) {
        const json_t *truncate = json_object_get(object, "truncate");
        c->rope_truncate = !json_is_false(truncate);
        c->rope_attention_factor = get_f64(s, object, "attention_factor", 0.0);
        double mscale = get_f64(s, object, "mscale", 0.0), mscale_all = get_f64(s, object, "mscale_all_dim", 0.0);
        if (c->rope_attention_factor == 0.0 && mscale > 0 && mscale_all > 0 && c->rope_factor > 1)
            c->rope_attention_factor =
                (0.1 * mscale * log(c->rope_factor) + 1) / (0.1 * mscale_all * log(c->rope_factor) + 1);
    } else {
        double attn_factor = get_f64(s, object, "rope.scaling.attn_factor", 0.0);
        if (attn_factor > 0 && c->rope_factor > 1)
            c->rope_attention_factor = attn_factor * (0.1 * log(c->rope_factor) + 1);
    }
    if (!(c->rope_factor >= 1.0) || c->rope_original_max_position < 1 ||
        !(c->rope_high_freq_factor > c->rope_low_freq_factor))
        fail(s, "rope scaling",
             "factor must be at least 1, the original context positive, high_freq_factor above low_freq_factor");
}

static void read_rope(source *s, qr_model_config *c)
{
    c->rope_truncate = true;
    c->rope_factor = 1.0;
    if (c->arch->learned_positions) return;
    c->rope_style = s->json ? QR_ROPE_HALVES : c->arch->gguf_rope;
    if (s->json) {
        const json_t *rope = json_object_get(s->json, "rope_parameters"); /* transformers 5 */
        if (!json_is_object(rope)) rope = json_object_get(s->json, "rope_scaling");
        c->rope_theta = get_f64(s, s->json, "rope_theta", 10000.0);
        double partial = get_f64(s, s->json, "partial_rotary_factor", 1.0);
        if (json_is_object(rope)) {
            c->rope_theta = get_f64(s, rope, "rope_theta", c->rope_theta);
            partial = get_f64(s, rope, "partial_rotary_factor", partial);
            read_rope_scaling(s, rope, c);
        }
        c->rotary_dim = (int)(c->head_size * partial);
    } else {
        c->rope_theta = get_f64(s, NULL, "rope.freq_base", 10000.0);
        c->rotary_dim = get_int(s, "rope.dimension_count", 2, c->head_size, c->head_size);
        read_rope_scaling(s, NULL, c);
    }
    if (!(c->rope_theta > 1.0)) fail(s, "rope_theta", "must be above 1");
    if (c->rotary_dim < 2 || c->rotary_dim > c->head_size || c->rotary_dim % 2)
        fail(s, "rotary dimension", "must be even and at most the head size");
}

/* Frequencies of plain RoPE with base theta. */
static void plain_inv_freq(double theta, int dim, double *inv_freq)
{
    for (int i = 0; i < dim / 2; i++) inv_freq[i] = 1.0 / pow(theta, 2.0 * i / dim);
}

static void llama3_inv_freq(const qr_model_config *c, double *inv_freq)
{
    double low_wavelen = c->rope_original_max_position / c->rope_low_freq_factor;
    double high_wavelen = c->rope_original_max_position / c->rope_high_freq_factor;
    for (int i = 0; i < c->rotary_dim / 2; i++) {
        double wavelen = 2.0 * M_PI / inv_freq[i], scaled = inv_freq[i] / c->rope_factor;
        if (wavelen > low_wavelen) {
            inv_freq[i] = scaled;
        } else if (wavelen >= high_wavelen) {
            double smooth = (c->rope_original_max_position / wavelen - c->rope_low_freq_factor) /
                            (c->rope_high_freq_factor - c->rope_low_freq_factor);
            inv_freq[i] = (1.0 - smooth) * scaled + smooth * inv_freq[i];
        }
    }
}

/* Dimension whose wavelength makes num_rotations turns within the original context. */
static double yarn_dim(const qr_model_config *c, double num_rotations)
{
    return c->rotary_dim * log(c->rope_original_max_position / (num_rotations * 2.0 * M_PI)) /
           (2.0 * log(c->rope_theta));
}

static void yarn_inv_freq(const qr_model_config *c, double *inv_freq)
{
    double low = yarn_dim(c, c->rope_beta_fast), high = yarn_dim(c, c->rope_beta_slow);
    if (c->rope_truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0.0);
    high = fmin(high, c->rotary_dim - 1.0);
    if (low == high) high += 0.001;
    for (int i = 0; i < c->rotary_dim / 2; i++) {
        double ramp = fmin(1.0, fmax(0.0, (i - low) / (high - low))); /* 0: keep, 1: interpolate */
        inv_freq[i] = inv_freq[i] / c->rope_factor * ramp + inv_freq[i] * (1.0 - ramp);
    }
}

void qr_model_rope_tables(const qr_model_config *c, const float *freq_factors, int num_positions, float *cos_out,
                          float *sin_out)
{
    enum { MAX_HALF = 1024 };
    double inv_freq[MAX_HALF];
    int half = c->rotary_dim / 2;
    double factor = 1.0;
    plain_inv_freq(c->rope_theta, c->rotary_dim, inv_freq);
    if (c->rope_scaling == QR_ROPE_SCALING_LINEAR)
        for (int i = 0; i < half; i++) inv_freq[i] /= c->rope_factor;
    if (c->rope_scaling == QR_ROPE_SCALING_LLAMA3) llama3_inv_freq(c, inv_freq);
    if (c->rope_scaling == QR_ROPE_SCALING_YARN) {
        yarn_inv_freq(c, inv_freq);
        factor = c->rope_factor > 1 ? 0.1 * log(c->rope_factor) + 1.0 : 1.0;
    }
    if (c->rope_attention_factor > 0) factor = c->rope_attention_factor;
    for (int p = 0; p < num_positions; p++) {
        /* Dynamic NTK grows the base with the length. Position p uses the base of length p + 1, whatever the chunks:
         * what token-by-token decoding gives, and the plain base within the original context. */
        if (c->rope_scaling == QR_ROPE_SCALING_DYNAMIC && p >= c->rope_original_max_position) {
            double grown = c->rope_factor * (p + 1) / c->rope_original_max_position - (c->rope_factor - 1.0);
            double exponent = c->rotary_dim > 2 ? c->rotary_dim / (c->rotary_dim - 2.0) : 1.0;
            plain_inv_freq(c->rope_theta * pow(grown, exponent), c->rotary_dim, inv_freq);
        }
        for (int i = 0; i < half; i++) {
            /* float32 frequency times float32 position, as the reference does */
            float freq = (float)inv_freq[i];
            if (freq_factors) freq = freq / freq_factors[i];
            float angle = (float)p * freq;
            cos_out[(size_t)p * half + i] = (float)(cos((double)angle) * factor);
            sin_out[(size_t)p * half + i] = (float)(sin((double)angle) * factor);
        }
    }
}

/* ---- the whole config ----------------------------------------------------------------------------- */

static void read_windows_json(source *s, qr_model_config *c)
{
    int window = get_int(s, "sliding_window", 0, INT32_MAX, 0);
    const json_t *types = json_object_get(s->json, "layer_types");
    const json_t *use = json_object_get(s->json, "use_sliding_window");
    bool qwen = strncmp(c->arch->name, "qwen", 4) == 0;
    if (strcmp(c->arch->name, "mistral") != 0 && !json_is_true(use)) return;
    int first = qwen ? get_int(s, "max_window_layers", 0, INT32_MAX, 0) : 0;
    for (int i = 0; i < c->num_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool sliding = type ? strcmp(type, "sliding_attention") == 0 : i >= first;
        c->window[i] = sliding ? window : 0;
    }
}

static void read_json(source *s, qr_model_config *c)
{
    bool gpt2 = strcmp(c->arch->name, "gpt2") == 0, opt = strcmp(c->arch->name, "opt") == 0;
    c->num_layers = get_int(s, gpt2 ? "n_layer" : "num_hidden_layers", 1, QR_MAX_LAYERS, -1);
    c->hidden_size = get_int(s, gpt2 ? "n_embd" : "hidden_size", 1, 1 << 20, -1);
    c->num_heads = get_int(s, gpt2 ? "n_head" : "num_attention_heads", 1, 4096, -1);
    c->num_kv_heads = gpt2 || opt ? c->num_heads : get_int(s, "num_key_value_heads", 1, c->num_heads, c->num_heads);
    c->head_size =
        gpt2 || opt ? c->hidden_size / c->num_heads : get_int(s, "head_dim", 1, 2048, c->hidden_size / c->num_heads);
    c->vocab_size = get_int(s, "vocab_size", 1, 1 << 24, -1);
    c->max_position_embeddings = get_int(s, gpt2 ? "n_positions" : "max_position_embeddings", 1, 1 << 28, -1);
    c->intermediate_size = gpt2  ? get_int(s, "n_inner", 1, 1 << 22, 4 * c->hidden_size)
                           : opt ? get_int(s, "ffn_dim", 1, 1 << 22, -1)
                                 : get_int(s, "intermediate_size", 1, 1 << 22, -1);
    c->norm_eps = (float)(gpt2  ? get_f64(s, s->json, "layer_norm_epsilon", 1e-5)
                          : opt ? 1e-5
                                : get_f64(s, s->json, "rms_norm_eps", 1e-6));
    const json_t *tie = json_object_get(s->json, "tie_word_embeddings");
    c->tie_word_embeddings = tie ? json_is_true(tie) : gpt2 || opt;
    if (opt &&
        (json_is_false(json_object_get(s->json, "do_layer_norm_before")) ||
         get_int(s, "word_embed_proj_dim", 1, 1 << 20, c->hidden_size) != c->hidden_size) &&
        s->status == QUIRE_OK)
        s->status =
            qr_fail(s->error, QUIRE_UNSUPPORTED,
                    "%s: OPT with normalization after the layer or projected embeddings (OPT-350M) is not supported",
                    qr_checkpoint_path(s->ckpt));
    char buf[32];
    const char *act = get_str(s, s->json, gpt2 || opt ? "activation_function" : "hidden_act", buf, sizeof buf);
    static const char *const expected[] = {
        [QR_ACT_SILU] = "silu", [QR_ACT_GELU_TANH] = "gelu_new", [QR_ACT_GELU_ERF] = "gelu", [QR_ACT_RELU] = "relu"};
    if (act && strcmp(act, expected[c->arch->act]) != 0 && !(gpt2 && strcmp(act, "gelu_pytorch_tanh") == 0) &&
        s->status == QUIRE_OK)
        s->status =
            qr_fail(s->error, QUIRE_UNSUPPORTED, "%s: config.json: activation '%s' is not supported for %s (%s is)",
                    qr_checkpoint_path(s->ckpt), act, c->arch->name, expected[c->arch->act]);
    read_windows_json(s, c);
}

static void read_gguf(source *s, qr_model_config *c)
{
    c->num_layers = get_int(s, "block_count", 1, QR_MAX_LAYERS, -1);
    c->hidden_size = get_int(s, "embedding_length", 1, 1 << 20, -1);
    c->num_heads = get_int(s, "attention.head_count", 1, 4096, -1);
    c->num_kv_heads = get_int(s, "attention.head_count_kv", 1, c->num_heads, c->num_heads);
    c->head_size = get_int(s, "attention.key_length", 1, 2048, c->hidden_size / c->num_heads);
    c->intermediate_size = get_int(s, "feed_forward_length", 1, 1 << 22, -1);
    c->max_position_embeddings = get_int(s, "context_length", 1, 1 << 28, -1);
    c->norm_eps = (float)get_f64(
        s, NULL, c->arch->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5);
    if (get_int(s, "expert_count", 0, 1 << 20, 0) > 0 && s->status == QUIRE_OK)
        s->status = qr_fail(s->error, QUIRE_UNSUPPORTED, "%s: mixtures of experts are not supported yet",
                            qr_checkpoint_path(s->ckpt));
    const qr_tensor_view *embd = qr_checkpoint_find(s->ckpt, "token_embd.weight");
    c->vocab_size = embd && embd->num_dims == 2 && embd->dims[1] <= 1 << 24 ? (int)embd->dims[1] : 0;
    if (!c->vocab_size) fail(s, "token_embd.weight", "missing or not a matrix");
    c->tie_word_embeddings = qr_checkpoint_find(s->ckpt, "output.weight") == NULL;
    int window = get_int(s, "attention.sliding_window", 0, INT32_MAX, 0);
    for (int i = 0; i < c->num_layers; i++) c->window[i] = window;
}

static quire_status arch_of(const qr_checkpoint *ckpt, const json_t *json, const qr_arch **out, quire_error *error)
{
    char name[64] = "";
    if (json) {
        const char *type = json_string_value(json_object_get(json, "model_type"));
        if (!type) return qr_fail(error, QUIRE_FORMAT, "%s: config.json: model_type missing", qr_checkpoint_path(ckpt));
        snprintf(name, sizeof name, "%s", type);
    } else {
        const qr_meta *meta = qr_checkpoint_meta(ckpt, "general.architecture");
        qr_string_view v;
        if (!meta || !qr_meta_str(meta, &v))
            return qr_fail(error, QUIRE_FORMAT, "%s: general.architecture missing", qr_checkpoint_path(ckpt));
        snprintf(name, sizeof name, "%.*s", (int)(v.len < sizeof name ? v.len : sizeof name - 1), v.data);
    }
    *out = find_arch(name);
    return *out ? QUIRE_OK : unknown_arch(name, qr_checkpoint_path(ckpt), error);
}

static void read_name(const qr_checkpoint *ckpt, qr_model_config *c)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, "general.name");
    qr_string_view v;
    if (meta && qr_meta_str(meta, &v)) {
        snprintf(c->name, sizeof c->name, "%.*s", (int)(v.len < sizeof c->name ? v.len : sizeof c->name - 1), v.data);
        return;
    }
    const char *path = qr_checkpoint_path(ckpt), *slash = strrchr(path, '/');
    snprintf(c->name, sizeof c->name, "%s", slash && slash[1] ? slash + 1 : path);
}

quire_status qr_model_config_read(const qr_checkpoint *ckpt, qr_model_config *out, quire_error *error)
{
    const json_t *json = NULL;
    if (!qr_checkpoint_is_gguf(ckpt)) {
        QR_TRY(qr_checkpoint_json(ckpt, "config.json", &json, error));
        if (!json) return qr_fail(error, QUIRE_FORMAT, "%s: no config.json in this folder", qr_checkpoint_path(ckpt));
    }
    memset(out, 0, sizeof *out);
    QR_TRY(arch_of(ckpt, json, &out->arch, error));
    source s = {.ckpt = ckpt, .json = json, .arch = out->arch->name, .error = error, .status = QUIRE_OK};
    if (json)
        read_json(&s, out);
    else
        read_gguf(&s, out);
    if (s.status != QUIRE_OK) return s.status;
    if (out->num_heads % out->num_kv_heads) fail(&s, "num_key_value_heads", "must divide the number of heads");
    if (out->head_size < 1 || !(out->norm_eps > 0)) fail(&s, "head size or norm epsilon", "must be positive");
    read_rope(&s, out);
    out->attention_scale = 1.0f / sqrtf((float)out->head_size);
    read_name(ckpt, out);
    return s.status == QUIRE_OK ? qr_quantization_read(ckpt, &out->quantization, error) : s.status;
}
