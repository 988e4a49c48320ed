/* bpe: one word to token ids by byte-pair encoding.
 *
 *   word ─► symbols (one per byte or character), a doubly linked list in an array
 *        ─► heap of possible merges, lowest rank first, leftmost first ─► merge, push the two new neighbours, repeat
 *
 * O(n log n) in the word's length.  A merge that has gone stale is recognised when it is popped.
 * Threads: each brings its own scratch.  Source: `tokenizers` models/bpe/model.rs merge_word, word.rs merge_all. */
#ifndef QR_TEXT_BPE_H
#define QR_TEXT_BPE_H

#include "text/vocab.h"

/* A growable list of ids. Zero-initialise; free data with qr_free. */
typedef struct qr_ids {
    int32_t *data;
    size_t len, cap;
} qr_ids;
int qr_ids_push(qr_ids *ids, int32_t id); /* 0 ok, -1 no memory */

typedef struct qr_bpe {
    bool raw_bytes;        /* words are raw bytes and tokens spell them in GPT-2's byte alphabet; else words are text */
    bool byte_fallback;    /* a character without a token becomes <0xNN> tokens */
    bool fuse_unk;         /* neighbouring unknown characters become one unknown token */
    bool ignore_merges;    /* a word that is a token is that token */
    int32_t unk_id;        /* -1: unknown characters are dropped */
    int32_t byte_ids[256]; /* raw_bytes: token of each byte; else of each ASCII character; -1: none */
    int32_t fallback_ids[256]; /* <0x00> ... <0xFF>; -1: none */
} qr_bpe;

/* Fill the two id tables from the vocabulary; the flags above are set before. */
void qr_bpe_init(qr_bpe *bpe, const qr_vocab *vocab);

/* GPT-2's byte alphabet: the character that stands for a byte, and back (-1: stands for none). */
uint32_t qr_bpe_byte_char(unsigned char byte);
static inline int qr_bpe_char_byte(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xAC) || (cp >= 0xAE && cp <= 0xFF)) return (int)cp;
    if (cp >= 0x100 && cp <= 0x120) return (int)(cp - 0x100);
    if (cp >= 0x121 && cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

typedef struct qr_bpe_scratch {
    struct qr_bpe_symbol *symbols;
    uint64_t *heap;
    size_t symbols_cap, heap_cap;
    qr_buf spelled;
} qr_bpe_scratch;
void qr_bpe_scratch_deinit(qr_bpe_scratch *scratch); /* zero-initialise */

/* Append the ids of a word (not empty, below 2^30 bytes). OK | NOMEM (ids may hold a part) */
QUIRE_MUST_USE quire_status qr_bpe_encode(const qr_bpe *bpe, const qr_vocab *vocab, qr_bpe_scratch *scratch,
                                          const char *word, size_t word_bytes, qr_ids *ids, quire_error *error);

#endif
