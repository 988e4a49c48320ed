/* vocab: token texts by id, ids by text, and the merge rules of byte-pair encoding.
 *
 *   texts    one arena; token id ─► offset, length and flags
 *   by text  hash of the text ─► id            only tokens of the model itself, not those added on top of it
 *   merges   hash of (left id, right id) ─► (rank, id of the merged token); ranks are below max_merges, no two the same
 *
 * Build: qr_vocab_init, then qr_vocab_set for each token, then qr_vocab_add_merge for each rule.
 * Invariants: ids are 0..num_tokens-1, some may be absent; an id found by text or by merge is present; texts are
 * valid UTF-8.
 * Threads: immutable once built.  Source: `tokenizers` models/bpe/model.rs. */
#ifndef QR_TEXT_VOCAB_H
#define QR_TEXT_VOCAB_H

#include <stdbool.h>

#include "base/mem.h"
#include "base/status.h"

enum {
    QR_TOKEN_PRESENT = 1,    /* the id has a text */
    QR_TOKEN_MODEL = 2,      /* found by qr_vocab_find: part of the BPE model */
    QR_TOKEN_ADDED = 4,      /* cut out of the text before the model sees it */
    QR_TOKEN_SPECIAL = 8,    /* control and other special tokens: skipped when decoding with skip_special */
    QR_TOKEN_NORMALIZED = 16 /* an added token that stands for its normalized text */
};

typedef struct qr_merge {
    uint32_t left, right, rank, merged; /* left == UINT32_MAX: an empty slot */
} qr_merge;

typedef struct qr_vocab_token {
    uint32_t offset, length; /* of its text in `texts` */
    uint8_t flags;           /* QR_TOKEN_* */
} qr_vocab_token;

typedef struct qr_vocab {
    int num_tokens;
    qr_vocab_token *tokens; /* [num_tokens] */
    qr_buf texts;
    int32_t *by_text; /* open addressing, -1: empty */
    uint32_t by_text_mask;
    qr_merge *merges;
    uint32_t merges_mask;
    uint32_t *merged_by_rank; /* [max_merges] id of the token that a rule makes */
    uint32_t max_merges;
    int num_merges;
    uint32_t longest_bytes; /* longest text of the model's tokens */
} qr_vocab;

enum { QR_VOCAB_MAX_TOKENS = 1 << 22, QR_VOCAB_MAX_MERGES = 1 << 24, QR_VOCAB_MAX_BYTES = 1 << 30 };

/* Room for num_tokens ids and num_merges rules (FORMAT above the limits). On failure: deinit does the cleaning. */
QUIRE_MUST_USE quire_status qr_vocab_init(qr_vocab *vocab, uint64_t num_tokens, uint64_t num_merges,
                                          quire_error *error);
void qr_vocab_deinit(qr_vocab *vocab); /* a zeroed one is fine */

/* Give id its text (copied; invalid UTF-8 is stored as U+FFFD), or add flags to a present one. A token on top of the
 * model (no QR_TOKEN_MODEL) may replace the text of an id, a second text from the model is FORMAT.
 * INVALID when id is out of range. */
QUIRE_MUST_USE quire_status qr_vocab_set(qr_vocab *vocab, uint64_t id, const char *text, size_t text_bytes, int flags,
                                         quire_error *error);

/* Id of the model's token with this text, -1: none. */
int32_t qr_vocab_find(const qr_vocab *vocab, const char *text, size_t text_bytes);
/* Id whose text this is, the model's tokens first, then any added token; -1: none.  Linear: for loading only. */
int32_t qr_vocab_find_any(const qr_vocab *vocab, const char *text, size_t text_bytes);
const char *qr_vocab_text(const qr_vocab *vocab, int32_t id, size_t *out_bytes); /* NULL: no such token */

/* An empty merge table with room for num_merges rules of ranks below num_merges, in place of the one qr_vocab_init
 * made. */
QUIRE_MUST_USE quire_status qr_vocab_reserve_merges(qr_vocab *vocab, uint64_t num_merges, quire_error *error);
/* left + right become the token whose text is the two joined; a later rule for the same pair wins.
 *   *out_known  false, and nothing is added, when one of the three texts is no token */
QUIRE_MUST_USE quire_status qr_vocab_add_merge(qr_vocab *vocab, const char *left, size_t left_bytes, const char *right,
                                               size_t right_bytes, uint32_t rank, bool *out_known, quire_error *error);
/* The same with all ids known (each below num_tokens), into a table with room: see qr_vocab_reserve_merges. */
void qr_vocab_put_merge(qr_vocab *vocab, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged);

static inline const qr_merge *qr_vocab_merge(const qr_vocab *vocab, uint32_t left, uint32_t right)
{
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(key >> 32);; i++) {
        const qr_merge *m = &vocab->merges[i & vocab->merges_mask];
        if (m->left == left && m->right == right) return m;
        if (m->left == UINT32_MAX) return NULL;
    }
}

#endif
