#include "engine/fingerprint.h"

#include <string.h>
#include <xxhash.h>

enum { PIECE = 1 << 16 };

/* *h becomes the hash of what it was and the hash of the data. */
static void add(XXH128_hash_t *h, const void *data, size_t bytes)
{
    const XXH128_hash_t chain[2] = {*h, XXH3_128bits(data, bytes)};
    *h = XXH3_128bits(chain, sizeof chain);
}

static void add_text(XXH128_hash_t *h, const char *text) { add(h, text, strlen(text)); }

static void add_value(XXH128_hash_t *h, const qr_meta *meta)
{
    int64_t i;
    double d;
    bool flag;
    qr_string_view s;
    qr_meta_type type;
    uint64_t count = 0;
    if (qr_meta_i64(meta, &i)) add(h, &i, sizeof i);
    if (qr_meta_f64(meta, &d)) add(h, &d, sizeof d);
    if (qr_meta_bool(meta, &flag)) add(h, &flag, sizeof flag);
    if (qr_meta_str(meta, &s)) add(h, s.data, s.len);
    (void)qr_meta_array(meta, &type, &count);
    for (uint64_t k = 0; k < count; k++)
        if (qr_meta_array_f64(meta, k, &d)) add(h, &d, sizeof d);
}

/* A GGUF's metadata but the tokenizer's, or a folder's config.json. */
static void add_config(XXH128_hash_t *h, const qr_checkpoint *ckpt)
{
    for (int i = 0; i < qr_checkpoint_num_meta(ckpt); i++) {
        const qr_meta *meta = qr_checkpoint_meta_at(ckpt, i);
        if (strncmp(qr_meta_key(meta), "tokenizer.", strlen("tokenizer.")) == 0) continue;
        add_text(h, qr_meta_key(meta));
        add_value(h, meta);
    }
    const char *text = NULL;
    size_t bytes = 0;
    if (!qr_checkpoint_is_gguf(ckpt) && qr_checkpoint_text(ckpt, "config.json", &text, &bytes, NULL) == QUIRE_OK &&
        text)
        add(h, text, bytes);
}

static void add_weights(XXH128_hash_t *h, const qr_checkpoint *ckpt)
{
    const uint64_t limit = 1ull << 30;
    uint64_t total = 0;
    for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) total += qr_checkpoint_tensor(ckpt, i)->bytes;
    const uint64_t step = (total / limit + 1) * PIECE; /* one piece in each step of a tensor */
    for (int i = 0; i < qr_checkpoint_num_tensors(ckpt); i++) {
        const qr_tensor_view *t = qr_checkpoint_tensor(ckpt, i);
        add_text(h, t->name);
        add(h, &t->dtype, sizeof t->dtype);
        add(h, t->dims, sizeof t->dims);
        for (uint64_t at = 0; at < t->bytes; at += step) {
            const size_t rest = t->bytes - (size_t)at;
            add(h, (const uint8_t *)t->data + at, rest < PIECE ? rest : PIECE);
        }
    }
}

void qr_model_fingerprint(const quire_model *m, const char *kv_cache_dtype, int block_size, uint64_t out[2])
{
    XXH128_hash_t hash = {0, 0};
    add_text(&hash, QUIRE_VERSION);
    add_text(&hash, kv_cache_dtype);
    add(&hash, &block_size, sizeof block_size);
    add_text(&hash, m->info.compute_dtype);
    add(&hash, &m->compute, sizeof m->compute);
    add(&hash, m->info.device, strcspn(m->info.device, " "));      /* "cpu": all instruction sets give the same bits */
    if (m->comm) add(&hash, &m->comm->size, sizeof m->comm->size); /* the order of additions */
    add_config(&hash, m->ckpt);
    add_weights(&hash, m->ckpt);
    out[0] = hash.low64;
    out[1] = hash.high64;
}
