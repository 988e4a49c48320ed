#include "engine/draft.h"

#include <string.h>

#include "base/mem.h"

static quire_status same_tokens(const quire_model *target, const qr_tokenizer *tokenizer, const char *path,
                                quire_error *error)
{
    if (!tokenizer != !target->tokenizer)
        return qr_fail_param(error, "speculative_config", "speculative_config: %s has %s tokenizer, the model has %s",
                             path, tokenizer ? "a" : "no", target->tokenizer ? "one" : "none");
    const int num = tokenizer ? qr_tokenizer_vocab_size(target->tokenizer) : 0;
    for (int id = 0; id < num; id++) {
        size_t bytes = 0, target_bytes = 0;
        const char *text = qr_tokenizer_token(tokenizer, id, &bytes);
        const char *target_text = qr_tokenizer_token(target->tokenizer, id, &target_bytes);
        if (bytes == target_bytes && (bytes == 0 || memcmp(text, target_text, bytes) == 0)) continue;
        return qr_fail_param(error, "speculative_config",
                             "speculative_config: %s has another tokenizer than the model: token %d is '%.40s', not "
                             "'%.40s'; a draft model must share it",
                             path, id, text ? text : "", target_text ? target_text : "");
    }
    return QUIRE_OK;
}

static quire_status check_tokenizer(const quire_model *target, const qr_draft *d, const char *path, quire_error *error)
{
    qr_tokenizer *tokenizer = NULL;
    const int vocab_size = qr_model_get_config(d->model)->vocab_size;
    if (vocab_size != target->info.vocab_size)
        return qr_fail_param(error, "speculative_config",
                             "speculative_config: %s has a vocabulary of %d tokens, the model one of %d; a draft model "
                             "must share the model's",
                             path, vocab_size, target->info.vocab_size);
    quire_status status = qr_model_tokenizer_create(d->ckpt, &tokenizer, error);
    if (status == QUIRE_OK) status = same_tokens(target, tokenizer, path, error);
    qr_tokenizer_destroy(tokenizer);
    return status;
}

static quire_status load(const quire_model *target, const char *path, qr_draft *d, quire_error *error)
{
    QR_TRY(qr_checkpoint_open(path, &d->ckpt, error));
    QR_TRY(qr_model_load(d->ckpt, d->be, target->compute, NULL, NULL, NULL, &d->model, error));
    return check_tokenizer(target, d, path, error);
}

quire_status qr_draft_load(const quire_model *target, const char *path, qr_draft **out, quire_error *error)
{
    qr_draft *d = qr_calloc(1, sizeof *d);
    if (!d) return qr_fail_nomem(error, "the draft model", sizeof *d);
    d->be = target->backend;
    quire_error detail;
    quire_status status = load(target, path, d, &detail);
    if (status == QUIRE_OK) {
        *out = d;
        return QUIRE_OK;
    }
    qr_draft_destroy(d);
    if (status == QUIRE_NOMEM || *detail.param) {
        if (error) *error = detail;
        return status;
    }
    return qr_fail_param(error, "speculative_config", "speculative_config: draft model: %s", detail.message);
}

void qr_draft_destroy(qr_draft *d)
{
    if (!d) return;
    if (d->cache) d->be->ops->kv_cache_destroy(d->be, d->cache);
    qr_model_workspace_destroy(d->ws);
    qr_batch_deinit(&d->batch);
    qr_model_destroy(d->model);
    qr_checkpoint_close(d->ckpt);
    qr_free(d->jobs);
    qr_free(d->content_ids);
    qr_free(d);
}

qr_kv_config qr_draft_kv_config(const qr_draft *d, const qr_kv_config *target)
{
    qr_kv_config kv = qr_model_kv_config(d->model);
    kv.dtype = target->dtype;
    kv.block_size = target->block_size;
    kv.num_blocks = target->num_blocks;
    return kv;
}

quire_status qr_draft_reserve(qr_draft *d, int max_tokens, int max_seqs, int max_model_len, int max_logits_rows,
                              quire_error *error)
{
    const qr_model_config *config = qr_model_get_config(d->model);
    if (config->arch->learned_positions && config->max_position_embeddings < max_model_len)
        return qr_fail_param(error, "speculative_config",
                             "speculative_config: the draft model has positions up to %d, less than max_model_len %d",
                             config->max_position_embeddings, max_model_len);
    d->max_tokens = max_tokens > 2 * max_seqs ? max_tokens : 2 * max_seqs; /* a drafting sequence has 2 at most */
    return qr_model_workspace_create(d->model, d->max_tokens, max_seqs, max_logits_rows, max_model_len, &d->ws, error);
}

quire_status qr_draft_create_cache(qr_draft *d, const qr_kv_config *target, int max_seqs, int max_model_len,
                                   quire_error *error)
{
    const qr_kv_config kv = qr_draft_kv_config(d, target);
    QR_TRY(d->be->ops->kv_cache_create(d->be, &kv, &d->cache, error));
    QR_TRY(
        qr_batch_init(&d->batch, d->max_tokens, max_seqs, (max_model_len + kv.block_size - 1) / kv.block_size, error));
    d->jobs = qr_calloc((size_t)max_seqs, sizeof *d->jobs);
    d->content_ids = qr_calloc((size_t)kv.num_blocks, sizeof *d->content_ids);
    if (!d->jobs || !d->content_ids)
        return qr_fail_nomem(error, "the draft model's steps", (size_t)kv.num_blocks * sizeof *d->content_ids);
    return QUIRE_OK;
}
