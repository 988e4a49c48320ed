/* model_api: what is behind a quire_model handle.
 *
 *   quire_model ── checkpoint (mapped file) ── tokenizer, chat template
 *              ├── backend (device, worker threads) ── model (packed weights)      none of these with vocab_only
 *              └── comm, ranks: the other processes of a tensor-parallel group
 *
 * Threads: immutable after open, except that the backend serves one caller at a time: hold `lock` around it. */
#ifndef QR_ENGINE_MODEL_API_H
#define QR_ENGINE_MODEL_API_H

#include <pthread.h>

#include "engine/ranks.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

enum { QR_MAX_EOS_IDS = 16 };

struct quire_model {
    qr_checkpoint *ckpt;
    qr_tokenizer *tokenizer;         /* NULL when the checkpoint has none (tiny test models) */
    qr_chat_template *chat_template; /* NULL: none */
    qr_backend *backend;
    qr_model *model;
    qr_comm *comm;     /* NULL: one process */
    qr_ranks *ranks;   /* NULL likewise */
    bool others_serve; /* this is rank 0, and they do what it says */
    bool ranks_failed; /* all know that one of them cannot go on */
    pthread_mutex_t lock;
    quire_model_info info;
    qr_compute compute;
    size_t max_token_bytes;          /* longest token's text */
    int32_t eos_ids[QR_MAX_EOS_IDS]; /* what ends a sequence */
    int num_eos_ids;
};

/* quire_model_open() in a group that is there; comm NULL: one process. The comm is the model's, also on failure. */
QUIRE_MUST_USE quire_status qr_model_api_open(const char *path, const quire_model_options *options, qr_comm *comm,
                                              quire_model **out, quire_error *error);

/* quire_model_logits() over a KV cache of that type; its own is what kv_cache_dtype "auto" means. */
QUIRE_MUST_USE quire_status qr_model_api_logits(quire_model *model, qr_kv_dtype kv_dtype, const int32_t *ids,
                                                size_t num_ids, float *out, quire_error *error);

/* The checkpoint's tokenizer; *out NULL when it has none: it still runs on token ids. */
QUIRE_MUST_USE quire_status qr_model_tokenizer_create(const qr_checkpoint *ckpt, qr_tokenizer **out,
                                                      quire_error *error);

#endif
