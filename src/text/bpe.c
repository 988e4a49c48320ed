#include "text/bpe.h"

#include <stdio.h>
#include <string.h>

#include "text/unicode.h"

typedef struct qr_bpe_symbol {
    int32_t id; /* -1: merged into the symbol before it */
    int32_t prev, next;
} symbol;

typedef uint64_t candidate; /* rank of a merge << 32 | position of its left symbol: their order is the merges' order */

int qr_ids_push(qr_ids *ids, int32_t id)
{
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        int32_t *data = qr_realloc(ids->data, cap * sizeof *data);
        if (!data) return -1;
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->len++] = id;
    return 0;
}

uint32_t qr_bpe_byte_char(unsigned char byte)
{
    if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x121u + (byte - 0x7Fu);
    return 0x143;
}

void qr_bpe_init(qr_bpe *bpe, const qr_vocab *vocab)
{
    for (int b = 0; b < 256; b++) {
        char text[8];
        int n = qr_unicode_encode(bpe->raw_bytes ? qr_bpe_byte_char((unsigned char)b) : (uint32_t)b, text);
        bpe->byte_ids[b] = qr_vocab_find(vocab, text, (size_t)n);
        snprintf(text, sizeof text, "<0x%02X>", b);
        bpe->fallback_ids[b] = bpe->byte_fallback ? qr_vocab_find(vocab, text, 6) : -1;
    }
}

void qr_bpe_scratch_deinit(qr_bpe_scratch *scratch)
{
    qr_free(scratch->symbols);
    qr_free(scratch->heap);
    qr_free(scratch->spelled.data);
    *scratch = (qr_bpe_scratch){0};
}

/* Room for the symbols of a word; each position holds at most one candidate at a time plus two per merge done. */
static int reserve(qr_bpe_scratch *scratch, size_t num)
{
    if (scratch->symbols_cap < num) {
        size_t cap = num < 64 ? 64 : num;
        symbol *symbols = qr_realloc(scratch->symbols, cap * sizeof *symbols);
        if (!symbols) return -1;
        scratch->symbols = symbols;
        scratch->symbols_cap = cap;
    }
    if (scratch->heap_cap < num * 2) {
        size_t cap = num < 64 ? 128 : num * 2;
        candidate *heap = qr_realloc(scratch->heap, cap * sizeof *heap);
        if (!heap) return -1;
        scratch->heap = heap;
        scratch->heap_cap = cap;
    }
    return 0;
}

/* Symbols of a text word, as merge_word does: a known character is its token; an unknown one its <0xNN> tokens, or
 * the unknown token, which waits in `unk` so that neighbours can be fused with it. Returns their number. */
static size_t split_characters(const qr_bpe *bpe, const qr_vocab *vocab, const char *word, size_t word_bytes,
                               symbol *symbols)
{
    size_t num = 0;
    bool unk = false;
    for (size_t i = 0; i < word_bytes;) {
        int n;
        uint32_t cp = qr_unicode_decode(word + i, &n);
        int32_t id = cp < 0x80 ? bpe->byte_ids[cp] : qr_vocab_find(vocab, word + i, (size_t)n);
        bool fallback = id < 0 && bpe->byte_fallback;
        for (int k = 0; k < n && fallback; k++) fallback = bpe->fallback_ids[(unsigned char)word[i + (size_t)k]] >= 0;
        if (fallback) {
            for (int k = 0; k < n; k++) symbols[num++].id = bpe->fallback_ids[(unsigned char)word[i + (size_t)k]];
        } else if (id >= 0 || !bpe->fuse_unk) {
            if (unk) symbols[num++].id = bpe->unk_id;
            unk = id < 0 && bpe->unk_id >= 0;
            if (id >= 0) symbols[num++].id = id;
        } else {
            unk = bpe->unk_id >= 0;
        }
        i += (size_t)n;
    }
    if (unk) symbols[num++].id = bpe->unk_id;
    return num;
}

static size_t split_bytes(const qr_bpe *bpe, const char *word, size_t word_bytes, symbol *symbols)
{
    size_t num = 0;
    for (size_t i = 0; i < word_bytes; i++) {
        int32_t id = bpe->byte_ids[(unsigned char)word[i]];
        if (id < 0) id = bpe->unk_id;
        if (id >= 0) symbols[num++].id = id;
    }
    return num;
}

/* A heap with four children to a node: shallower, and the four lie side by side. */
static inline void heap_push(candidate *heap, size_t *len, candidate c)
{
    size_t i = (*len)++;
    while (i > 0 && c < heap[(i - 1) / 4]) {
        heap[i] = heap[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    heap[i] = c;
}

static inline candidate heap_pop(candidate *heap, size_t *len)
{
    candidate top = heap[0], last = heap[--*len];
    size_t i = 0, child;
    while ((child = 4 * i + 1) < *len) {
        size_t end = child + 4 < *len ? child + 4 : *len, least = child;
        for (size_t k = child + 1; k < end; k++)
            if (heap[k] < heap[least]) least = k;
        if (last <= heap[least]) break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = last;
    return top;
}

/* If the symbols at left and right can merge, note it. */
static inline void consider(const qr_vocab *vocab, const symbol *symbols, int32_t left, int32_t right, candidate *heap,
                            size_t *heap_len)
{
    const qr_merge *m = qr_vocab_merge(vocab, (uint32_t)symbols[left].id, (uint32_t)symbols[right].id);
    if (m) heap_push(heap, heap_len, (candidate)m->rank << 32 | (uint32_t)left);
}

static void merge_all(const qr_vocab *vocab, symbol *symbols, size_t num, candidate *heap)
{
    size_t heap_len = 0;
    for (size_t i = 0; i < num; i++) {
        symbols[i].prev = (int32_t)i - 1;
        symbols[i].next = i + 1 < num ? (int32_t)i + 1 : -1;
        if (i > 0) consider(vocab, symbols, (int32_t)i - 1, (int32_t)i, heap, &heap_len);
    }
    while (heap_len > 0) {
        candidate c = heap_pop(heap, &heap_len);
        uint32_t merged = vocab->merged_by_rank[c >> 32];
        int32_t left = (int32_t)(c & UINT32_MAX), right = symbols[left].next;
        if (symbols[left].id < 0 || right < 0) continue;
        const qr_merge *m = qr_vocab_merge(vocab, (uint32_t)symbols[left].id, (uint32_t)symbols[right].id);
        if (!m || m->merged != merged) continue; /* stale: one of the two has changed since */
        int32_t next = symbols[right].next, prev = symbols[left].prev;
        symbols[left].id = (int32_t)merged;
        symbols[left].next = next;
        symbols[right].id = -1;
        if (next >= 0) symbols[next].prev = left;
        if (prev >= 0) consider(vocab, symbols, prev, left, heap, &heap_len);
        if (next >= 0) consider(vocab, symbols, left, next, heap, &heap_len);
    }
}

/* The token that spells the whole word, -1: none. */
static int32_t find_whole(const qr_bpe *bpe, const qr_vocab *vocab, qr_bpe_scratch *scratch, const char *word,
                          size_t word_bytes)
{
    if (word_bytes > vocab->longest_bytes) return -1;
    if (!bpe->raw_bytes) return qr_vocab_find(vocab, word, word_bytes);
    scratch->spelled.len = 0;
    if (qr_buf_reserve(&scratch->spelled, word_bytes * 2 + 4)) return -2;
    char *out = scratch->spelled.data;
    for (size_t i = 0; i < word_bytes; i++) out += qr_unicode_encode(qr_bpe_byte_char((unsigned char)word[i]), out);
    return qr_vocab_find(vocab, scratch->spelled.data, (size_t)(out - scratch->spelled.data));
}

quire_status qr_bpe_encode(const qr_bpe *bpe, const qr_vocab *vocab, qr_bpe_scratch *scratch, const char *word,
                           size_t word_bytes, qr_ids *ids, quire_error *error)
{
    if (bpe->ignore_merges) {
        int32_t id = find_whole(bpe, vocab, scratch, word, word_bytes);
        if (id == -2 || (id >= 0 && qr_ids_push(ids, id))) return qr_fail_nomem(error, "token ids", word_bytes);
        if (id >= 0) return QUIRE_OK;
    }
    if (reserve(scratch, word_bytes)) return qr_fail_nomem(error, "a word's symbols", word_bytes * 44);
    size_t num = bpe->raw_bytes ? split_bytes(bpe, word, word_bytes, scratch->symbols)
                                : split_characters(bpe, vocab, word, word_bytes, scratch->symbols);
    merge_all(vocab, scratch->symbols, num, scratch->heap);
    for (int32_t i = 0; i >= 0 && num > 0; i = scratch->symbols[i].next)
        if (qr_ids_push(ids, scratch->symbols[i].id)) return qr_fail_nomem(error, "token ids", ids->cap * 8);
    return QUIRE_OK;
}
