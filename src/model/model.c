#include "model/model.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* A matrix, or this rank's part of it, with its optional bias. */
typedef struct linear {
    qr_weight *weight;
    float *bias; /* [rows] or NULL */
} linear;

typedef struct norm {
    float *weight, *bias;
} norm;

typedef struct layer {
    norm attn_norm, ffn_norm;
    linear qkv[3]; /* Q, K, V, or one fused matrix */
    float *q_norm, *k_norm;
    linear attn_output, ffn_up[2], ffn_down; /* ffn_up: gate, up; or up alone */
} layer;

struct qr_model {
    qr_model_config config;
    qr_backend *be;
    const qr_checkpoint *ckpt;
    qr_compute compute;
    qr_comm *comm; /* NULL: one rank, which holds all */
    qr_shard shard;
    qr_tensor_view token_embd, position_embd; /* tables */
    norm output_norm;
    linear output;
    float *freq_factors; /* [rotary_dim / 2] or NULL */
    layer *layers;       /* [num_layers] */
    size_t weights_bytes;
    int64_t num_parameters;
};

struct qr_model_workspace {
    qr_backend *be;
    float *cos, *sin;
    float *x, *h, *qkv, *attn, *up, *act, *rows, *logits;
    float *host_logits; /* where tokens are drawn on the device: a copy of logits for the host; else NULL */
    int max_tokens;
    const int32_t *logits_indices; /* of the last forward's batch */
    float *gathered; /* with several ranks in host memory: sums under way; on rank 0 also the others' logits */
    size_t x_bytes, qkv_bytes, attn_bytes, up_bytes, act_bytes, rows_bytes, logits_bytes, gathered_bytes;
};

/* ---- tensors by name ------------------------------------------------------------------------------ */

static const char *hf_stem(const qr_arch *arch, const char *stem)
{
    for (int i = 0; arch->hf_names[i][0]; i++)
        if (strcmp(arch->hf_names[i][0], stem) == 0) return arch->hf_names[i][1];
    return stem;
}

/* Find `stem`.`suffix` (of layer `il`, or of the model when il < 0) under its name in this checkpoint's format. */
static const qr_tensor_view *find(const qr_model *m, int il, const char *stem, const char *suffix, char *name,
                                  size_t bytes)
{
    const qr_arch *arch = m->config.arch;
    if (qr_checkpoint_is_gguf(m->ckpt)) {
        if (il < 0)
            snprintf(name, bytes, "%s.%s", stem, suffix);
        else
            snprintf(name, bytes, "blk.%d.%s.%s", il, stem, suffix);
        return qr_checkpoint_find(m->ckpt, name);
    }
    int n = 0;
    if (il >= 0) {
        const char *percent = strstr(arch->hf_layer, "%d");
        n = snprintf(name, bytes, "%.*s%d%s", (int)(percent - arch->hf_layer), arch->hf_layer, il, percent + 2);
    }
    snprintf(name + n, bytes - (size_t)n, "%s.%s", hf_stem(arch, stem), suffix);
    const qr_tensor_view *view = qr_checkpoint_find(m->ckpt, name);
    /* checkpoints of the bare decoder leave the outermost "model." or "transformer." out */
    const char *dot = strchr(name, '.');
    return view || !dot ? view : qr_checkpoint_find(m->ckpt, dot + 1);
}

/* The same for a matrix, which may lie in the checkpoint as codes (model/quantized.h). */
static const qr_tensor_view *find_matrix(const qr_model *m, int il, const char *stem, char *name, size_t bytes)
{
    static const char *const suffixes[] = {"qweight", "weight_packed", "weight"}; /* the last is what is missed */
    const qr_tensor_view *view = NULL;
    for (size_t i = 0; !view && i < sizeof suffixes / sizeof *suffixes; i++)
        view = find(m, il, stem, suffixes[i], name, bytes);
    return view;
}

static bool is_codes(const qr_tensor_view *v) { return v->dtype >= QR_NUM_DTYPES; }

static quire_status not_values(const qr_model *m, const qr_tensor_view *v, quire_error *error)
{
    return qr_fail(error, QUIRE_UNSUPPORTED, "%s: tensor '%s' holds %s codes; only linears can be quantized",
                   qr_checkpoint_path(m->ckpt), v->name, qr_dtype_name(v->dtype));
}

static quire_status wrong_shape(const qr_model *m, const qr_tensor_view *v, int64_t cols, int64_t rows,
                                quire_error *error)
{
    return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' is %lld x %lld, expected %lld x %lld (rows x columns)",
                   qr_checkpoint_path(m->ckpt), v->name, (long long)qr_tensor_rows(v), (long long)qr_tensor_cols(v),
                   (long long)rows, (long long)cols);
}

/* A vector as float32 in host memory; *out NULL when it is absent and not required. */
static quire_status read_vector(qr_model *m, int il, const char *stem, const char *suffix, int64_t len, bool required,
                                float **out, quire_error *error)
{
    char name[256];
    const qr_tensor_view *view = find(m, il, stem, suffix, name, sizeof name);
    if (!view)
        return required ? qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' is missing", qr_checkpoint_path(m->ckpt), name)
                        : QUIRE_OK;
    if (qr_tensor_cols(view) != len || qr_tensor_rows(view) != 1) return wrong_shape(m, view, len, 1, error);
    if (is_codes(view)) return not_values(m, view, error);
    *out = qr_malloc((size_t)len * sizeof **out);
    if (!*out) return qr_fail_nomem(error, view->name, (size_t)len * sizeof **out);
    qr_dequantize(view->dtype, view->data, *out, len);
    m->num_parameters += len;
    m->weights_bytes += (size_t)len * sizeof **out;
    return QUIRE_OK;
}

/* A vector for the backend's ops; likewise. */
static quire_status load_vector(qr_model *m, int il, const char *stem, const char *suffix, int64_t len, bool required,
                                float **out, quire_error *error)
{
    float *values = NULL;
    QR_TRY(read_vector(m, il, stem, suffix, len, required, &values, error));
    if (!values) return QUIRE_OK;
    *out = m->be->ops->vector_create(m->be, values, len);
    qr_free(values);
    return *out ? QUIRE_OK : qr_fail_nomem(error, stem, (size_t)len * sizeof **out);
}

static quire_status load_norm(qr_model *m, int il, const char *stem, norm *out, quire_error *error)
{
    QR_TRY(load_vector(m, il, stem, "weight", m->config.hidden_size, true, &out->weight, error));
    return m->config.arch->layer_norm ? load_vector(m, il, stem, "bias", m->config.hidden_size, true, &out->bias, error)
                                      : QUIRE_OK;
}

/* The values of this rank's rows, moved to the front; returns how many, 0 where the bias is another rank's to add. */
static int64_t cut_bias(const qr_model *m, const qr_cut *cut, int64_t cols, float *values)
{
    if (cut->cols.count < cols && m->comm->rank > 0) return 0;
    float *to = values;
    for (int i = 0; i < 3; to += cut->rows[i++].count)
        memmove(to, values + cut->rows[i].first, (size_t)cut->rows[i].count * sizeof *to);
    return to - values;
}

static quire_status load_bias(qr_model *m, int il, const char *stem, int64_t rows, int64_t cols, const qr_cut *cut,
                              bool required, float **out, quire_error *error)
{
    float *values = NULL;
    QR_TRY(read_vector(m, il, stem, "bias", rows, required, &values, error));
    const int64_t count = values ? cut_bias(m, cut, cols, values) : 0;
    if (count > 0) *out = m->be->ops->vector_create(m->be, values, count);
    qr_free(values);
    return *out || count == 0 ? QUIRE_OK : qr_fail_nomem(error, stem, (size_t)count * sizeof **out);
}

/* Pack the matrix [rows, cols], or the part of it that `cut` says. */
static quire_status pack(qr_model *m, const qr_tensor_view *view, int64_t rows, int64_t cols, const qr_cut *cut,
                         bool transposed, linear *out, quire_error *error)
{
    qr_tensor_view part = *view;
    const bool copied = is_codes(view) || transposed || cut->cols.count < cols || qr_cut_rows(cut) < rows;
    if (is_codes(view))
        QR_TRY(qr_quantized_read(m->ckpt, &m->config.quantization, view, rows, cols, cut,
                                 m->compute == QR_COMPUTE_FLOAT32, m->be->pool, &part, error));
    else if (copied)
        QR_TRY(qr_cut_copy(view, cut, transposed, &part, error));
    const quire_status status = m->be->ops->weight_create(m->be, &part, m->compute, &out->weight, error);
    if (copied) qr_free((void *)part.data);
    if (status != QUIRE_OK) return status;
    m->num_parameters += rows * cols;
    m->weights_bytes += m->be->ops->weight_bytes(out->weight);
    return QUIRE_OK;
}

static quire_status load_linear(qr_model *m, int il, const char *stem, int64_t rows, int64_t cols, const qr_cut *cut,
                                bool bias, linear *out, quire_error *error)
{
    char name[256];
    const qr_tensor_view *view = find_matrix(m, il, stem, name, sizeof name);
    if (!view) return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' is missing", qr_checkpoint_path(m->ckpt), name);
    bool transposed = il >= 0 && m->config.arch->transposed && !qr_checkpoint_is_gguf(m->ckpt);
    int64_t want_cols = transposed ? rows : cols, want_rows = transposed ? cols : rows;
    if (!is_codes(view) &&
        (view->num_dims != 2 || qr_tensor_cols(view) != want_cols || qr_tensor_rows(view) != want_rows))
        return wrong_shape(m, view, want_cols, want_rows, error);
    QR_TRY(pack(m, view, rows, cols, cut, transposed, out, error));
    return load_bias(m, il, stem, rows, cols, cut, bias, &out->bias, error);
}

static qr_range scaled(qr_range r, int64_t unit) { return (qr_range){r.first * unit, r.count * unit}; }

static qr_range moved(qr_range r, int64_t by) { return (qr_range){r.first + by, r.count}; }

static quire_status load_qkv(qr_model *m, int il, qr_range q, qr_range kv, quire_error *error)
{
    const qr_model_config *c = &m->config;
    const bool bias = c->arch->qkv_bias;
    linear *out = m->layers[il].qkv;
    const int64_t hidden = c->hidden_size, num_q = (int64_t)c->num_heads * c->head_size,
                  num_kv = (int64_t)c->num_kv_heads * c->head_size;
    const qr_range all = {0, hidden};
    if (c->arch->fused_qkv) {
        const qr_cut cut = {{q, moved(kv, num_q), moved(kv, num_q + num_kv)}, all};
        return load_linear(m, il, "attn_qkv", num_q + 2 * num_kv, hidden, &cut, bias, &out[0], error);
    }
    const qr_cut q_cut = {{q}, all}, kv_cut = {{kv}, all};
    QR_TRY(load_linear(m, il, "attn_q", num_q, hidden, &q_cut, bias, &out[0], error));
    QR_TRY(load_linear(m, il, "attn_k", num_kv, hidden, &kv_cut, bias, &out[1], error));
    return load_linear(m, il, "attn_v", num_kv, hidden, &kv_cut, bias, &out[2], error);
}

static quire_status load_layer(qr_model *m, int il, quire_error *error)
{
    const qr_model_config *c = &m->config;
    const qr_arch *a = c->arch;
    layer *l = &m->layers[il];
    const int64_t hidden = c->hidden_size, mlp = c->intermediate_size;
    const qr_range q = scaled(m->shard.heads, c->head_size), kv = scaled(m->shard.kv_heads, c->head_size);
    const qr_cut out_cut = {{{0, hidden}}, q};
    const qr_cut up_cut = {{m->shard.mlp}, {0, hidden}}, down_cut = {{{0, hidden}}, m->shard.mlp};
    QR_TRY(load_norm(m, il, "attn_norm", &l->attn_norm, error));
    QR_TRY(load_qkv(m, il, q, kv, error));
    if (a->qk_norm) {
        QR_TRY(load_vector(m, il, "attn_q_norm", "weight", c->head_size, true, &l->q_norm, error));
        QR_TRY(load_vector(m, il, "attn_k_norm", "weight", c->head_size, true, &l->k_norm, error));
    }
    QR_TRY(load_linear(m, il, "attn_output", hidden, (int64_t)c->num_heads * c->head_size, &out_cut, a->other_bias,
                       &l->attn_output, error));
    QR_TRY(load_norm(m, il, "ffn_norm", &l->ffn_norm, error));
    if (a->gated_mlp) QR_TRY(load_linear(m, il, "ffn_gate", mlp, hidden, &up_cut, a->other_bias, &l->ffn_up[0], error));
    QR_TRY(load_linear(m, il, "ffn_up", mlp, hidden, &up_cut, a->other_bias, &l->ffn_up[a->gated_mlp], error));
    return load_linear(m, il, "ffn_down", hidden, mlp, &down_cut, a->other_bias, &l->ffn_down, error);
}

/* checkpoint_view (or NULL): the same where the checkpoint has it. */
static quire_status load_embedding(qr_model *m, const char *stem, int64_t min_rows, qr_tensor_view *out,
                                   qr_tensor_view *checkpoint_view, quire_error *error)
{
    char name[256];
    const qr_tensor_view *view = find(m, -1, stem, "weight", name, sizeof name);
    if (!view) return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' is missing", qr_checkpoint_path(m->ckpt), name);
    if (view->num_dims != 2 || qr_tensor_cols(view) != m->config.hidden_size || qr_tensor_rows(view) < min_rows)
        return wrong_shape(m, view, m->config.hidden_size, min_rows, error);
    if (is_codes(view)) return not_values(m, view, error);
    m->num_parameters += qr_tensor_rows(view) * qr_tensor_cols(view);
    if (checkpoint_view) *checkpoint_view = *view;
    return m->be->ops->table_create(m->be, view, out, error);
}

static quire_status load_ends(qr_model *m, quire_error *error)
{
    const qr_model_config *c = &m->config;
    qr_tensor_view token_embd;
    QR_TRY(load_embedding(m, "token_embd", c->vocab_size, &m->token_embd, &token_embd, error));
    if (c->arch->learned_positions)
        QR_TRY(load_embedding(m, "position_embd", c->max_position_embeddings + c->arch->position_offset,
                              &m->position_embd, NULL, error));
    QR_TRY(load_norm(m, -1, "output_norm", &m->output_norm, error));
    if (!c->arch->learned_positions && qr_checkpoint_is_gguf(m->ckpt))
        QR_TRY(read_vector(m, -1, "rope_freqs", "weight", c->rotary_dim / 2, false, &m->freq_factors, error));
    for (int i = 0; m->freq_factors && i < c->rotary_dim / 2; i++)
        if (!(m->freq_factors[i] > 0))
            return qr_fail(error, QUIRE_FORMAT, "%s: tensor 'rope_freqs.weight' must be positive",
                           qr_checkpoint_path(m->ckpt));
    char name[256];
    const qr_cut cut = {{m->shard.vocab}, {0, c->hidden_size}};
    if (!c->tie_word_embeddings && find_matrix(m, -1, "output", name, sizeof name))
        return load_linear(m, -1, "output", c->vocab_size, c->hidden_size, &cut, false, &m->output, error);
    m->num_parameters -= qr_tensor_rows(&token_embd) * c->hidden_size; /* counted once */
    return pack(m, &token_embd, qr_tensor_rows(&token_embd), c->hidden_size, &cut, false, &m->output, error);
}

static quire_status load_all(qr_model *m, qr_model_progress on_progress, void *user, quire_error *error)
{
    QR_TRY(load_ends(m, error));
    for (int il = 0; il < m->config.num_layers; il++) {
        QR_TRY(load_layer(m, il, error));
        if (on_progress) on_progress(user, (il + 1.0) / m->config.num_layers);
    }
    return QUIRE_OK;
}

static quire_status read_config(qr_model *m, quire_error *error)
{
    QR_TRY(qr_model_config_read(m->ckpt, &m->config, error));
    return qr_shard_plan(&m->config, m->comm ? m->comm->rank : 0, m->comm ? m->comm->size : 1, &m->shard, error);
}

quire_status qr_model_load(const qr_checkpoint *ckpt, qr_backend *be, qr_compute compute, qr_comm *comm,
                           qr_model_progress on_progress, void *user, qr_model **out, quire_error *error)
{
    qr_model *m = qr_calloc(1, sizeof *m);
    if (!m) return qr_fail_nomem(error, "the model", sizeof *m);
    m->be = be;
    m->ckpt = ckpt;
    m->compute = compute;
    m->comm = comm;
    quire_status status = read_config(m, error);
    if (status == QUIRE_OK) {
        m->layers = qr_calloc((size_t)m->config.num_layers, sizeof *m->layers);
        if (!m->layers)
            status = qr_fail_nomem(error, "the layers", (size_t)m->config.num_layers * sizeof *m->layers);
        else
            status = load_all(m, on_progress, user, error);
    }
    if (status != QUIRE_OK) {
        qr_model_destroy(m);
        return status;
    }
    *out = m;
    return QUIRE_OK;
}

static void free_linear(qr_model *m, linear *l)
{
    if (l->weight) m->be->ops->weight_destroy(m->be, l->weight);
    m->be->ops->vector_destroy(m->be, l->bias);
}

static void free_norm(qr_model *m, norm *n)
{
    m->be->ops->vector_destroy(m->be, n->weight);
    m->be->ops->vector_destroy(m->be, n->bias);
}

void qr_model_destroy(qr_model *m)
{
    if (!m) return;
    for (int il = 0; m->layers && il < m->config.num_layers; il++) {
        layer *l = &m->layers[il];
        free_norm(m, &l->attn_norm);
        free_norm(m, &l->ffn_norm);
        for (int i = 0; i < 3; i++) free_linear(m, &l->qkv[i]);
        for (int i = 0; i < 2; i++) free_linear(m, &l->ffn_up[i]);
        free_linear(m, &l->attn_output);
        free_linear(m, &l->ffn_down);
        m->be->ops->vector_destroy(m->be, l->q_norm);
        m->be->ops->vector_destroy(m->be, l->k_norm);
    }
    free_norm(m, &m->output_norm);
    free_linear(m, &m->output);
    m->be->ops->table_destroy(m->be, &m->token_embd);
    m->be->ops->table_destroy(m->be, &m->position_embd);
    qr_free(m->freq_factors);
    qr_free(m->layers);
    qr_free(m);
}

const qr_model_config *qr_model_get_config(const qr_model *m) { return &m->config; }

size_t qr_model_weights_bytes(const qr_model *m) { return m->weights_bytes; }

int64_t qr_model_num_parameters(const qr_model *m) { return m->num_parameters; }

qr_kv_config qr_model_kv_config(const qr_model *m)
{
    return (qr_kv_config){.num_layers = m->config.num_layers,
                          .num_kv_heads = (int)m->shard.kv_heads.count,
                          .head_size = m->config.head_size};
}

/* ---- forward --------------------------------------------------------------------------------------- */

static int64_t qkv_cols(const qr_model *m)
{
    return (m->shard.heads.count + 2 * m->shard.kv_heads.count) * m->config.head_size;
}

/* Outputs of the attention, and of the MLP's first half. */
static int64_t attn_cols(const qr_model *m) { return m->shard.heads.count * m->config.head_size; }
static int64_t up_cols(const qr_model *m) { return m->shard.mlp.count * (m->config.arch->gated_mlp ? 2 : 1); }

/* Logits of a row on this rank: rank 0 has room for all. */
static int64_t logits_cols(const qr_model *m)
{
    return m->comm && m->comm->rank > 0 ? m->shard.vocab.count : m->config.vocab_size;
}

static quire_status take(qr_model_workspace *ws, float **out, size_t *out_bytes, int64_t rows, int64_t cols,
                         bool host_reads, const char *what, quire_error *error)
{
    size_t bytes;
    if (qr_mul_overflow((size_t)rows, (size_t)cols * sizeof(float), &bytes))
        return qr_fail_nomem(error, what, SIZE_MAX);
    *out = ws->be->ops->buffer_alloc(ws->be, bytes, host_reads);
    if (!*out) return qr_fail_nomem(error, what, bytes);
    *out_bytes = bytes;
    return QUIRE_OK;
}

static quire_status create_rope_tables(const qr_model *m, qr_model_workspace *ws, int max_positions, quire_error *error)
{
    int64_t count = (int64_t)max_positions * (m->config.rotary_dim / 2);
    float *tables = qr_calloc((size_t)count, 2 * sizeof *tables);
    if (tables) {
        qr_model_rope_tables(&m->config, m->freq_factors, max_positions, tables, tables + count);
        ws->cos = ws->be->ops->vector_create(ws->be, tables, count);
        ws->sin = ws->be->ops->vector_create(ws->be, tables + count, count);
    }
    qr_free(tables);
    return ws->cos && ws->sin ? QUIRE_OK : qr_fail_nomem(error, "the RoPE tables", (size_t)count * 2 * sizeof *tables);
}

static quire_status take_all(const qr_model *m, qr_model_workspace *ws, int max_tokens, int max_reqs, int max_rows,
                             int max_positions, quire_error *error)
{
    const qr_model_config *c = &m->config;
    const bool is_leader = !m->comm || m->comm->rank == 0;
    if (!c->arch->learned_positions) QR_TRY(create_rope_tables(m, ws, max_positions, error));
    QR_TRY(take(ws, &ws->x, &ws->x_bytes, max_tokens, c->hidden_size, false, "activations", error));
    QR_TRY(take(ws, &ws->h, &ws->x_bytes, max_tokens, c->hidden_size, false, "activations", error));
    QR_TRY(take(ws, &ws->qkv, &ws->qkv_bytes, max_tokens, qkv_cols(m), false, "activations", error));
    QR_TRY(take(ws, &ws->attn, &ws->attn_bytes, max_tokens, attn_cols(m), false, "activations", error));
    QR_TRY(take(ws, &ws->up, &ws->up_bytes, max_tokens, up_cols(m), false, "activations", error));
    if (c->arch->gated_mlp)
        QR_TRY(take(ws, &ws->act, &ws->act_bytes, max_tokens, m->shard.mlp.count, false, "activations", error));
    QR_TRY(take(ws, &ws->rows, &ws->rows_bytes, max_rows, c->hidden_size, false, "the rows that sample", error));
    const bool on_device = qr_model_samples_on_device(m);
    QR_TRY(
        take(ws, &ws->logits, &ws->logits_bytes, max_rows, logits_cols(m), is_leader && !on_device, "logits", error));
    if (is_leader && on_device)
        QR_TRY(take(ws, &ws->host_logits, &ws->logits_bytes, max_rows, logits_cols(m), true, "logits", error));
    if (m->comm && !ws->be->ops->ranks_join) {
        const int64_t sums = (int64_t)m->comm->size * QR_REDUCE_PIECE, logits = max_rows * (int64_t)c->vocab_size;
        QR_TRY(take(ws, &ws->gathered, &ws->gathered_bytes, 1, sums > logits ? sums : logits, false,
                    "other ranks' results", error));
    }
    int64_t max_cols = attn_cols(m) > m->shard.mlp.count ? attn_cols(m) : m->shard.mlp.count;
    if (max_cols < c->hidden_size) max_cols = c->hidden_size;
    int rows = max_tokens > max_rows ? max_tokens : max_rows;
    return ws->be->ops->reserve(ws->be, rows, max_reqs, max_cols, max_positions, error);
}

quire_status qr_model_workspace_create(const qr_model *m, int max_tokens, int max_reqs, int max_logits_rows,
                                       int max_positions, qr_model_workspace **out, quire_error *error)
{
    qr_model_workspace *ws = qr_calloc(1, sizeof *ws);
    if (!ws) return qr_fail_nomem(error, "the workspace", sizeof *ws);
    ws->be = m->be;
    ws->max_tokens = max_tokens;
    quire_status status = take_all(m, ws, max_tokens, max_reqs, max_logits_rows, max_positions, error);
    if (status != QUIRE_OK) {
        qr_model_workspace_destroy(ws);
        return status;
    }
    *out = ws;
    return QUIRE_OK;
}

void qr_model_workspace_destroy(qr_model_workspace *ws)
{
    if (!ws) return;
    const struct {
        float *ptr;
        size_t bytes;
    } buffers[] = {{ws->x, ws->x_bytes},
                   {ws->h, ws->x_bytes},
                   {ws->qkv, ws->qkv_bytes},
                   {ws->attn, ws->attn_bytes},
                   {ws->up, ws->up_bytes},
                   {ws->act, ws->act_bytes},
                   {ws->rows, ws->rows_bytes},
                   {ws->logits, ws->logits_bytes},
                   {ws->host_logits, ws->logits_bytes},
                   {ws->gathered, ws->gathered_bytes}};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (buffers[i].ptr) ws->be->ops->buffer_free(ws->be, buffers[i].ptr, buffers[i].bytes);
    ws->be->ops->vector_destroy(ws->be, ws->cos);
    ws->be->ops->vector_destroy(ws->be, ws->sin);
    qr_free(ws);
}

static void apply_norm(const qr_model *m, const norm *n, const float *x, int num_tokens, float *out)
{
    const qr_model_config *c = &m->config;
    if (c->arch->layer_norm)
        m->be->ops->layer_norm(m->be, x, n->weight, n->bias, c->norm_eps, num_tokens, c->hidden_size, out);
    else
        m->be->ops->rms_norm(m->be, x, n->weight, c->norm_eps, num_tokens, c->hidden_size, out);
}

/* y (+)= x times the matrices side by side */
static void apply_linear(const qr_model *m, const linear *l, int num, const float *x, int64_t cols, int num_tokens,
                         float *y, int64_t ld_y, bool accumulate)
{
    const qr_weight *weights[3];
    const float *biases[3];
    for (int i = 0; i < num; i++) {
        weights[i] = l[i].weight;
        biases[i] = l[i].bias;
    }
    m->be->ops->linear(m->be, x, cols, num_tokens, weights, biases, num, y, ld_y, accumulate);
}

/* x += the product of every rank's columns: rank 0 adds its own to x, the others' are added to that in their order, and
 * all have the sum. */
static void add_product(const qr_model *m, qr_model_workspace *ws, const linear *l, const float *y, int64_t cols,
                        int num_tokens)
{
    const int64_t hidden = m->config.hidden_size;
    apply_linear(m, l, 1, y, cols, num_tokens, ws->x, hidden, !m->comm || m->comm->rank == 0);
    const size_t count = (size_t)num_tokens * (size_t)hidden;
    if (m->comm && m->be->ops->ranks_sum)
        m->be->ops->ranks_sum(m->be, ws->x, count);
    else if (m->comm)
        qr_comm_all_reduce_sum(m->comm, ws->x, count, ws->gathered);
}

static void attention_part(const qr_model *m, qr_model_workspace *ws, const qr_batch *batch, qr_kv_cache *cache, int il)
{
    const qr_model_config *c = &m->config;
    const layer *l = &m->layers[il];
    int num_tokens = batch->num_tokens;
    const int num_heads = (int)m->shard.heads.count, num_kv_heads = (int)m->shard.kv_heads.count;
    const int64_t ld = qkv_cols(m);
    apply_norm(m, &l->attn_norm, ws->x, num_tokens, ws->h);
    apply_linear(m, l->qkv, c->arch->fused_qkv ? 1 : 3, ws->h, c->hidden_size, num_tokens, ws->qkv, ld, false);
    const qr_rope_kv_args rope = {.qkv = ws->qkv,
                                  .ld = ld,
                                  .num_heads = num_heads,
                                  .num_kv_heads = num_kv_heads,
                                  .head_size = c->head_size,
                                  .style = c->rope_style,
                                  .rotary_dim = c->rotary_dim,
                                  .cos = ws->cos,
                                  .sin = ws->sin,
                                  .q_norm = l->q_norm,
                                  .k_norm = l->k_norm,
                                  .norm_eps = c->norm_eps,
                                  .cache = cache,
                                  .layer = il};
    m->be->ops->rope_kv_write(m->be, batch, &rope);
    const qr_attention_args args = {.q = ws->qkv,
                                    .ld_q = ld,
                                    .out = ws->attn,
                                    .num_heads = num_heads,
                                    .num_kv_heads = num_kv_heads,
                                    .head_size = c->head_size,
                                    .scale = c->attention_scale,
                                    .window = c->window[il],
                                    .cache = cache,
                                    .layer = il};
    m->be->ops->attention(m->be, batch, &args);
    add_product(m, ws, &l->attn_output, ws->attn, attn_cols(m), num_tokens);
}

static void mlp_part(const qr_model *m, qr_model_workspace *ws, int num_tokens, int il)
{
    const qr_model_config *c = &m->config;
    const layer *l = &m->layers[il];
    const int64_t cols = m->shard.mlp.count;
    const float *act = ws->up;
    apply_norm(m, &l->ffn_norm, ws->x, num_tokens, ws->h);
    if (c->arch->gated_mlp) {
        apply_linear(m, l->ffn_up, 2, ws->h, c->hidden_size, num_tokens, ws->up, 2 * cols, false);
        m->be->ops->gated_act(m->be, ws->up, c->arch->act, num_tokens, cols, ws->act);
        act = ws->act;
    } else {
        apply_linear(m, l->ffn_up, 1, ws->h, c->hidden_size, num_tokens, ws->up, cols, false);
        m->be->ops->act(m->be, ws->up, c->arch->act, num_tokens, cols);
    }
    add_product(m, ws, &l->ffn_down, act, cols, num_tokens);
}

static void run_pass(const qr_model *m, qr_model_workspace *ws, const qr_batch *batch, qr_kv_cache *cache)
{
    const qr_model_config *c = &m->config;
    m->be->ops->embed(m->be, &m->token_embd, batch->input_ids, batch->num_tokens, 1.0f,
                      c->arch->learned_positions ? &m->position_embd : NULL, batch->positions, c->arch->position_offset,
                      ws->x, c->hidden_size);
    for (int il = 0; il < c->num_layers; il++) {
        attention_part(m, ws, batch, cache, il);
        mlp_part(m, ws, batch->num_tokens, il);
    }
}

void qr_model_forward(const qr_model *m, qr_model_workspace *ws, const qr_batch *batch, qr_kv_cache *cache)
{
    const qr_backend_ops *ops = m->be->ops;
    const bool recorded = ops->pass_begin && !m->comm;
    bool done = false;
    batch = recorded ? ops->pass_begin(m->be, batch, cache, ws, ws->max_tokens, &done)
                     : ops->batch_begin(m->be, batch, cache);
    ws->logits_indices = batch->logits_indices;
    while (!done) {
        run_pass(m, ws, batch, cache);
        done = !recorded || ops->pass_end(m->be);
    }
}

/* Rank 0's columns are in ws->logits; the other ranks' beside them. */
static void gather_logits(const qr_model *m, qr_model_workspace *ws, int num_rows)
{
    const int vocab = m->config.vocab_size, size = m->comm->size;
    int64_t cols[QR_MAX_RANKS];
    for (int r = 0; r < size; r++) cols[r] = qr_shard_vocab(&m->config, r, size).count;
    if (m->be->ops->ranks_gather) {
        m->be->ops->ranks_gather(m->be, ws->logits, num_rows, logits_cols(m), cols);
        return;
    }
    size_t bytes[QR_MAX_RANKS] = {0};
    for (int r = 1; r < size; r++) bytes[r] = (size_t)num_rows * (size_t)cols[r] * sizeof(float);
    m->comm->gather(m->comm, ws->logits, bytes, ws->gathered);
    const float *from = ws->gathered;
    for (int r = 1; m->comm->rank == 0 && r < size; r++) {
        const qr_range part = qr_shard_vocab(&m->config, r, size);
        for (int i = 0; i < num_rows; i++, from += part.count)
            memcpy(ws->logits + (int64_t)i * vocab + part.first, from, (size_t)part.count * sizeof *from);
    }
}

bool qr_model_samples_on_device(const qr_model *m) { return m->be->ops->sample != NULL; }

const float *qr_model_device_logits(const qr_model *m, qr_model_workspace *ws, int first, int num_rows)
{
    const qr_model_config *c = &m->config;
    m->be->ops->gather_rows(m->be, ws->x, ws->logits_indices + first, num_rows, c->hidden_size, ws->rows);
    apply_norm(m, &m->output_norm, ws->rows, num_rows, ws->rows);
    apply_linear(m, &m->output, 1, ws->rows, c->hidden_size, num_rows, ws->logits, logits_cols(m), false);
    if (m->comm) gather_logits(m, ws, num_rows);
    return ws->logits;
}

const float *qr_model_logits(const qr_model *m, qr_model_workspace *ws, int first, int num_rows)
{
    const float *logits = qr_model_device_logits(m, ws, first, num_rows);
    if (ws->host_logits) {
        const size_t bytes = (size_t)num_rows * (size_t)m->config.vocab_size * sizeof *logits;
        m->be->ops->read(m->be, ws->host_logits, logits, bytes);
        return ws->host_logits;
    }
    m->be->ops->wait(m->be);
    return logits;
}
