#include "engine/model_api.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/mem.h"

const char *quire_version(void) { return QUIRE_VERSION; }

void quire_model_options_init(quire_model_options *options)
{
    *options = (quire_model_options){
        .compute_dtype = "auto", .device = "auto", .tensor_parallel_size = 1, .batch_invariant = true};
}

static quire_status parse_compute(const char *text, bool batch_invariant, qr_compute *out, quire_error *error)
{
    const bool tensor = text && strcmp(text, "tensor") == 0;
    if (!batch_invariant && !tensor)
        return qr_fail_param(error, "batch_invariant", "batch_invariant: false is for compute_dtype tensor");
    if (tensor) return *out = batch_invariant ? QR_COMPUTE_TENSOR : QR_COMPUTE_TENSOR_LT, QUIRE_OK;
    if (!text || strcmp(text, "auto") == 0) return *out = QR_COMPUTE_AUTO, QUIRE_OK;
    if (strcmp(text, "float32") == 0) return *out = QR_COMPUTE_FLOAT32, QUIRE_OK;
    return qr_fail_param(error, "compute_dtype", "compute_dtype: auto, float32 or tensor, not '%s'", text);
}

/* "cuda" or "cuda:N" */
static bool parse_cuda(const char *text, int *index)
{
    *index = 0;
    if (strncmp(text, "cuda", 4) != 0) return false;
    if (text[4] == '\0') return true;
    if (text[4] != ':' || text[5] == '\0') return false;
    for (const char *p = text + 5; *p; p++) {
        if (*p < '0' || *p > '9' || *index > 1000) return false;
        *index = *index * 10 + (*p - '0');
    }
    return true;
}

/* What the ranks together make of their outcomes (qr_comm_agree). After a failure, which all then know, no more. */
static quire_status agree(quire_model *m, quire_status mine, quire_error *error)
{
    if (!m->comm || m->ranks_failed) return mine;
    const quire_status status = qr_comm_agree(m->comm, mine, error);
    m->ranks_failed = status != QUIRE_OK;
    return status;
}

static void close_backend(quire_model *m)
{
    if (m->backend) m->backend->ops->destroy(m->backend);
    m->backend = NULL;
}

/* Device 0, or of several ranks each its own; all of them or none.   DEVICE: none */
static quire_status open_any_cuda(quire_model *m, int threads, bool tensor, quire_error *error)
{
    const int index = m->comm ? m->comm->local_rank : 0;
    quire_status status = qr_cuda_backend_create(NULL, index, threads, tensor, &m->backend, error);
    if (m->comm) status = qr_comm_agree(m->comm, status, error);
    if (status != QUIRE_OK) close_backend(m);
    return status;
}

static quire_status open_backend(quire_model *m, const char *device, int threads, quire_error *error)
{
    const bool tensor = m->compute >= QR_COMPUTE_TENSOR;
    int index;
    if (!device) device = "auto";
    if (parse_cuda(device, &index)) {
        if (m->comm && strchr(device, ':'))
            return qr_fail_param(error, "device",
                                 "device: %s is one device, but %d ranks take one each: cuda "
                                 "(CUDA_VISIBLE_DEVICES says of which)",
                                 device, m->comm->size);
        if (m->comm) index = m->comm->local_rank;
        return qr_cuda_backend_create(NULL, index, threads, tensor, &m->backend, error);
    }
    if (strcmp(device, "auto") == 0) {
        const quire_status status = open_any_cuda(m, threads, tensor, error);
        m->ranks_failed = m->comm && status != QUIRE_OK && (status != QUIRE_DEVICE || tensor);
        if (status != QUIRE_DEVICE || tensor) return status;
    } else if (strcmp(device, "cpu") != 0) {
        return qr_fail_param(error, "device", "device: auto, cpu, cuda or cuda:N, not '%s'", device);
    }
    if (tensor) return qr_fail_param(error, "compute_dtype", "compute_dtype: tensor is for a CUDA device, not the CPU");
    return qr_cpu_backend_create(NULL, threads, &m->backend, error);
}

static bool quantized(qr_dtype dtype) { return qr_dtype_block_len(dtype) > 1; }

/* The type that most values have. */
static qr_dtype commonest_dtype(const qr_checkpoint *ckpt)
{
    double values[QR_NUM_DTYPES] = {0};
    int best = QR_F32;
    for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) {
        const qr_tensor_view *t = qr_checkpoint_tensor(ckpt, i);
        if (t->dtype < QR_NUM_DTYPES) values[t->dtype] += (double)qr_tensor_rows(t) * (double)qr_tensor_cols(t);
    }
    for (int i = 0; i < QR_NUM_DTYPES; i++)
        if (values[i] > values[best]) best = i;
    return (qr_dtype)best;
}

static void fill_model_info(quire_model *m)
{
    const qr_model_config *c = qr_model_get_config(m->model);
    quire_model_info *info = &m->info;
    info->name = c->name;
    info->architecture = c->arch->name;
    bool int8 = m->compute == QR_COMPUTE_AUTO &&
                (c->quantization.method != QR_QUANT_NONE || quantized(commonest_dtype(m->ckpt)));
    info->compute_dtype = m->compute >= QR_COMPUTE_TENSOR ? "tensor" : int8 ? "int8" : "float32";
    info->batch_invariant = m->compute != QR_COMPUTE_TENSOR_LT;
    info->device = m->backend->ops->name;
    info->tensor_parallel_size = m->comm ? m->comm->size : 1;
    info->num_layers = c->num_layers;
    info->hidden_size = c->hidden_size;
    info->num_attention_heads = c->num_heads;
    info->num_key_value_heads = c->num_kv_heads;
    info->head_size = c->head_size;
    info->vocab_size = c->vocab_size;
    info->max_position_embeddings = c->max_position_embeddings;
    info->num_parameters = qr_model_num_parameters(m->model);
    info->weights_bytes = qr_model_weights_bytes(m->model);
    info->kv_bytes_per_token = (size_t)c->num_layers * 2 * (size_t)c->num_kv_heads * (size_t)c->head_size * 2;
}

/* Without a tokenizer, what the checkpoint's numbers say: one id, or a list of them. */
static void read_eos_ids(quire_model *m)
{
    const json_t *json = NULL;
    int64_t id = -1;
    if (qr_checkpoint_is_gguf(m->ckpt)) {
        const qr_meta *meta = qr_checkpoint_meta(m->ckpt, "tokenizer.ggml.eos_token_id");
        if (meta && qr_meta_i64(meta, &id)) m->eos_ids[m->num_eos_ids++] = (int32_t)id;
    } else if (qr_checkpoint_json(m->ckpt, "config.json", &json, NULL) == QUIRE_OK) {
        json = json_object_get(json, "eos_token_id");
        if (json_is_integer(json)) m->eos_ids[m->num_eos_ids++] = (int32_t)json_integer_value(json);
        for (size_t i = 0; i < json_array_size(json) && m->num_eos_ids < QR_MAX_EOS_IDS; i++)
            m->eos_ids[m->num_eos_ids++] = (int32_t)json_integer_value(json_array_get(json, i));
    }
    if (m->num_eos_ids > 0) m->info.eos_token_id = m->eos_ids[0];
}

static void fill_text_info(quire_model *m)
{
    quire_model_info *info = &m->info;
    info->bos_token_id = info->eos_token_id = -1;
    info->has_chat_template = m->chat_template != NULL;
    if (!m->tokenizer) {
        read_eos_ids(m);
        return;
    }
    const int32_t *ids = qr_tokenizer_stop_ids(m->tokenizer, &m->num_eos_ids);
    if (m->num_eos_ids > QR_MAX_EOS_IDS) m->num_eos_ids = QR_MAX_EOS_IDS;
    memcpy(m->eos_ids, ids, (size_t)m->num_eos_ids * sizeof *ids);
    info->bos_token_id = qr_tokenizer_bos_id(m->tokenizer);
    info->eos_token_id = qr_tokenizer_eos_id(m->tokenizer);
    if (info->vocab_size == 0) info->vocab_size = qr_tokenizer_vocab_size(m->tokenizer);
    for (int id = 0; id < qr_tokenizer_vocab_size(m->tokenizer); id++) {
        size_t bytes;
        if (qr_tokenizer_token(m->tokenizer, id, &bytes) && bytes > m->max_token_bytes) m->max_token_bytes = bytes;
    }
}

static bool has_tokenizer(const qr_checkpoint *ckpt, quire_status *status, quire_error *error)
{
    const json_t *json = NULL;
    if (qr_checkpoint_is_gguf(ckpt)) return qr_checkpoint_meta(ckpt, "tokenizer.ggml.model") != NULL;
    *status = qr_checkpoint_json(ckpt, "tokenizer.json", &json, error);
    return json != NULL;
}

quire_status qr_model_tokenizer_create(const qr_checkpoint *ckpt, qr_tokenizer **out, quire_error *error)
{
    quire_status status = QUIRE_OK;
    *out = NULL;
    return has_tokenizer(ckpt, &status, error) ? qr_tokenizer_create(ckpt, out, error) : status;
}

static quire_status open_text(quire_model *m, quire_error *error)
{
    QR_TRY(qr_model_tokenizer_create(m->ckpt, &m->tokenizer, error));
    if (!m->tokenizer) return QUIRE_OK;
    const char *source = qr_tokenizer_chat_template(m->tokenizer);
    if (!source) return QUIRE_OK;
    quire_error detail;
    const quire_status status = qr_chat_template_parse(source, strlen(source), &m->chat_template, &detail);
    if (status == QUIRE_OK || status == QUIRE_NOMEM) return status;
    return qr_fail(error, status, "%s: the chat template: %s", qr_checkpoint_path(m->ckpt), detail.message);
}

/* The ranks agree before a step that needs them all, so that nobody waits for one that has failed. */
static quire_status open_weights(quire_model *m, const quire_model_options *o, quire_error *error)
{
    const bool is_leader = !m->comm || m->comm->rank == 0;
    int threads = o->threads;
    if (threads == 0 && m->comm) threads = qr_cpu_count() / m->comm->num_local; /* the ranks share the machine */
    if (threads == 0 && m->comm) threads = 1;
    QR_TRY(agree(m, QUIRE_OK, error));
    QR_TRY(open_backend(m, o->device, threads, error));
    QR_TRY(qr_model_load(m->ckpt, m->backend, m->compute, m->comm, is_leader ? o->on_progress : NULL, o->user,
                         &m->model, error));
    if (!m->comm) return QUIRE_OK;
    QR_TRY(agree(m, QUIRE_OK, error));
    if (m->backend->ops->ranks_join) {
        const int vocab_size = qr_model_get_config(m->model)->vocab_size;
        const quire_status status = m->backend->ops->ranks_join(m->backend, m->comm, vocab_size, error);
        m->ranks_failed = status != QUIRE_OK;
        if (status != QUIRE_OK) return status;
    }
    return qr_ranks_create(m->comm, m->backend, m->model, &m->ranks, error);
}

static quire_status open_all(quire_model *m, const char *path, const quire_model_options *o, quire_error *error)
{
    QR_TRY(parse_compute(o->compute_dtype, o->batch_invariant, &m->compute, error));
    if (o->threads < 0) return qr_fail_param(error, "threads", "threads: 0 (automatic) or more, not %d", o->threads);
    QR_TRY(qr_checkpoint_open(path, &m->ckpt, error));
    m->info.format = qr_checkpoint_is_gguf(m->ckpt) ? "gguf" : "safetensors";
    m->info.weight_dtype = qr_dtype_name(commonest_dtype(m->ckpt));
    m->info.name = qr_checkpoint_path(m->ckpt);
    m->info.architecture = m->info.compute_dtype = "";
    QR_TRY(open_text(m, error));
    if (!o->vocab_only) {
        QR_TRY(open_weights(m, o, error));
        fill_model_info(m);
    } else if (!m->tokenizer) {
        return qr_fail(error, QUIRE_FORMAT, "%s: no tokenizer in this checkpoint", qr_checkpoint_path(m->ckpt));
    }
    fill_text_info(m);
    return QUIRE_OK;
}

/* What a group has more: all ranks know whether all have their part, and then only rank 0 goes on. */
static quire_status join_ranks(quire_model *m, quire_status status, quire_error *error)
{
    status = agree(m, status, error);
    m->others_serve = status == QUIRE_OK && m->comm->rank == 0;
    if (status != QUIRE_OK || m->comm->rank == 0) return status;
    qr_ranks_serve(m->ranks);
    return QUIRE_RANK_ENDED;
}

quire_status qr_model_api_open(const char *path, const quire_model_options *options, qr_comm *comm, quire_model **out,
                               quire_error *error)
{
    quire_error detail = {0};
    quire_model *m = qr_calloc(1, sizeof *m);
    if (!m) { /* the other ranks notice when this process ends */
        if (comm) comm->destroy(comm);
        return qr_fail_nomem(error, "the model", sizeof *m);
    }
    pthread_mutex_init(&m->lock, NULL);
    m->comm = comm;
    quire_status status = open_all(m, path, options, &detail);
    if (comm) status = join_ranks(m, status, &detail);
    if (status == QUIRE_OK) {
        *out = m;
        return QUIRE_OK;
    }
    quire_model_close(m);
    if (error) *error = detail;
    return status;
}

quire_status quire_model_open(const char *path, const quire_model_options *options, quire_model **out,
                              quire_error *error)
{
    quire_model_options defaults;
    quire_model_options_init(&defaults);
    if (!options) options = &defaults;
    if (!path || !out) return qr_fail_param(error, "path", "path: missing");
    const int size = options->tensor_parallel_size;
    if (size < 1 || size > QR_MAX_RANKS)
        return qr_fail_param(error, "tensor_parallel_size", "tensor_parallel_size: 1 to %d, not %d", QR_MAX_RANKS,
                             size);
    qr_comm *comm = NULL;
    if (size > 1 && !options->vocab_only) QR_TRY(qr_comm_open(size, &comm, error));
    return qr_model_api_open(path, options, comm, out, error);
}

void quire_model_close(quire_model *m)
{
    if (!m) return;
    if (m->others_serve) qr_ranks_end(m->ranks);
    qr_ranks_destroy(m->ranks);
    qr_model_destroy(m->model);
    if (m->comm) m->comm->destroy(m->comm);
    close_backend(m);
    qr_chat_template_destroy(m->chat_template);
    qr_tokenizer_destroy(m->tokenizer);
    qr_checkpoint_close(m->ckpt);
    pthread_mutex_destroy(&m->lock);
    qr_free(m);
}

void quire_model_get_info(const quire_model *model, quire_model_info *out) { *out = model->info; }

/* ---- logits of one prompt -------------------------------------------------------------------------- */

typedef struct one_prompt {
    qr_kv_cache *cache;
    qr_model_workspace *ws;
    int32_t *ints; /* positions | block_table | rows */
    int64_t *slot_mapping;
} one_prompt;

enum { LOGITS_ROWS = 64 };

static quire_status one_prompt_create(quire_model *m, qr_kv_dtype kv_dtype, int num_ids, one_prompt *p,
                                      quire_error *error)
{
    qr_kv_config kv = qr_model_kv_config(m->model);
    kv.block_size = 16;
    kv.num_blocks = (num_ids + 15) / 16;
    kv.dtype = kv_dtype;
    p->ints = qr_malloc((size_t)num_ids * 3 * sizeof *p->ints);
    p->slot_mapping = qr_malloc((size_t)num_ids * sizeof *p->slot_mapping);
    if (!p->ints || !p->slot_mapping) return qr_fail_nomem(error, "the prompt", (size_t)num_ids * 20);
    QR_TRY(m->backend->ops->kv_cache_create(m->backend, &kv, &p->cache, error));
    QR_TRY(qr_model_workspace_create(m->model, num_ids, 1, LOGITS_ROWS, num_ids, &p->ws, error));
    const qr_ranks_config ranks = {
        .kv = kv, .max_tokens = num_ids, .max_seqs = 1, .max_context = num_ids, .logits_rows = LOGITS_ROWS};
    return qr_ranks_open(m->ranks, &ranks, error);
}

static void one_prompt_run(quire_model *m, one_prompt *p, const int32_t *ids, int num_ids, float *out)
{
    int32_t *positions = p->ints, *table = p->ints + num_ids, *rows = p->ints + 2 * num_ids;
    int32_t query_start_loc[2] = {0, num_ids}, seq_len = num_ids;
    for (int i = 0; i < num_ids; i++) {
        positions[i] = table[i] = rows[i] = i;
        p->slot_mapping[i] = i;
    }
    const qr_batch batch = {.num_tokens = num_ids,
                            .num_reqs = 1,
                            .num_samples = num_ids,
                            .max_blocks = num_ids,
                            .input_ids = ids,
                            .positions = positions,
                            .slot_mapping = p->slot_mapping,
                            .query_start_loc = query_start_loc,
                            .seq_lens = &seq_len,
                            .block_table = table,
                            .logits_indices = rows};
    size_t vocab = (size_t)m->info.vocab_size;
    qr_ranks_step(m->ranks, &(qr_block_moves){0}, &batch);
    qr_model_forward(m->model, p->ws, &batch, p->cache);
    for (int i = 0; i < num_ids; i += LOGITS_ROWS) {
        int num = num_ids - i < LOGITS_ROWS ? num_ids - i : LOGITS_ROWS;
        const float *logits = qr_model_logits(m->model, p->ws, i, num);
        memcpy(out + (size_t)i * vocab, logits, (size_t)num * vocab * sizeof *out);
    }
}

quire_status qr_model_api_logits(quire_model *m, qr_kv_dtype kv_dtype, const int32_t *ids, size_t num_ids, float *out,
                                 quire_error *error)
{
    if (!m->model) return qr_fail(error, QUIRE_INVALID, "the model was opened for its vocabulary only");
    if (num_ids < 1 || num_ids > (size_t)m->info.max_position_embeddings)
        return qr_fail_param(error, "ids", "ids: 1 to %d token ids, got %zu", m->info.max_position_embeddings, num_ids);
    for (size_t i = 0; i < num_ids; i++)
        if (ids[i] < 0 || ids[i] >= m->info.vocab_size)
            return qr_fail_param(error, "ids", "ids: token id %d is outside the vocabulary (0 to %d)", ids[i],
                                 m->info.vocab_size - 1);
    one_prompt p = {0};
    pthread_mutex_lock(&m->lock);
    quire_status status = one_prompt_create(m, kv_dtype, (int)num_ids, &p, error);
    if (status == QUIRE_OK) {
        one_prompt_run(m, &p, ids, (int)num_ids, out);
        qr_ranks_close(m->ranks);
    }
    qr_model_workspace_destroy(p.ws);
    if (p.cache) m->backend->ops->kv_cache_destroy(m->backend, p.cache);
    pthread_mutex_unlock(&m->lock);
    qr_free(p.ints);
    qr_free(p.slot_mapping);
    return status;
}

quire_status quire_model_logits(quire_model *m, const int32_t *ids, size_t num_ids, float *out, quire_error *error)
{
    qr_kv_dtype kv_dtype = m->compute == QR_COMPUTE_FLOAT32 ? QR_KV_F32 : QR_KV_F16;
    return qr_model_api_logits(m, kv_dtype, ids, num_ids, out, error);
}

/* ---- text ---------------------------------------------------------------------------------------------- */

static quire_status need_tokenizer(const quire_model *m, quire_error *error)
{
    if (m->tokenizer) return QUIRE_OK;
    return qr_fail(error, QUIRE_UNSUPPORTED, "%s has no tokenizer: give token ids instead of text", m->info.name);
}

quire_status quire_tokenize(const quire_model *m, const char *text, size_t text_bytes, bool add_special,
                            bool parse_special, int32_t **out_ids, size_t *out_num_ids, quire_error *error)
{
    QR_TRY(need_tokenizer(m, error));
    return qr_tokenizer_encode(m->tokenizer, text, text_bytes, add_special, parse_special, out_ids, out_num_ids, error);
}

quire_status quire_detokenize(const quire_model *m, const int32_t *ids, size_t num_ids, bool skip_special,
                              char **out_text, size_t *out_bytes, quire_error *error)
{
    QR_TRY(need_tokenizer(m, error));
    qr_buf buf = {0};
    qr_detok detok;
    qr_detok_init(&detok, m->tokenizer, skip_special);
    quire_status status = qr_buf_reserve(&buf, 1) == 0 ? QUIRE_OK : QUIRE_NOMEM;
    for (size_t i = 0; i < num_ids && status == QUIRE_OK; i++) {
        if (ids[i] < 0 || ids[i] >= m->info.vocab_size)
            status = qr_fail_param(error, "ids", "ids: token id %d is outside the vocabulary (0 to %d)", ids[i],
                                   m->info.vocab_size - 1);
        else
            status = qr_detok_push(&detok, ids[i], &buf);
    }
    if (status == QUIRE_OK) status = qr_detok_flush(&detok, &buf);
    if (status == QUIRE_NOMEM) qr_fail_nomem(error, "the text", buf.cap);
    if (status != QUIRE_OK) {
        qr_free(buf.data);
        return status;
    }
    buf.data[buf.len] = '\0';
    *out_text = buf.data;
    *out_bytes = buf.len;
    return QUIRE_OK;
}
