#include "engine/ngram.h"

#include <assert.h>

#include "base/mem.h"

enum { MAX_CANDIDATES = 32 };

struct qr_ngram {
    int min_ngram, max_ngram;
    int32_t num_tokens, max_tokens;
    int32_t *tokens; /* [max_tokens] */
    int32_t *links;  /* [max_tokens] end of an n-gram ─► the latest earlier end with the same hash; 0: none */
    int32_t *heads;  /* [mask + 1] hash ─► the latest end; 0: none */
    uint32_t mask;
};

quire_status qr_ngram_create(int32_t max_tokens, int min_ngram, int max_ngram, qr_ngram **out, quire_error *error)
{
    assert(max_tokens > 0 && min_ngram >= 1 && max_ngram >= min_ngram);
    qr_ngram *g = qr_calloc(1, sizeof *g);
    if (!g) return qr_fail_nomem(error, "the n-gram index", sizeof *g);
    size_t num_heads = 64;
    while (num_heads < (size_t)max_tokens && num_heads < 1 << 20) num_heads *= 2;
    *g = (qr_ngram){.min_ngram = min_ngram,
                    .max_ngram = max_ngram,
                    .max_tokens = max_tokens,
                    .mask = (uint32_t)num_heads - 1,
                    .tokens = qr_malloc((size_t)max_tokens * sizeof *g->tokens),
                    .links = qr_malloc((size_t)max_tokens * sizeof *g->links),
                    .heads = qr_calloc(num_heads, sizeof *g->heads)};
    if (!g->tokens || !g->links || !g->heads) {
        qr_ngram_destroy(g);
        return qr_fail_nomem(error, "the n-gram index", (size_t)max_tokens * 8 + num_heads * 4);
    }
    *out = g;
    return QUIRE_OK;
}

void qr_ngram_destroy(qr_ngram *g)
{
    if (!g) return;
    qr_free(g->tokens);
    qr_free(g->links);
    qr_free(g->heads);
    qr_free(g);
}

int32_t qr_ngram_num_tokens(const qr_ngram *g) { return g->num_tokens; }

/* Of the min_ngram tokens before `end`. */
static uint32_t hash_at(const qr_ngram *g, int32_t end)
{
    uint64_t hash = 0;
    for (int32_t i = end - g->min_ngram; i < end; i++) hash = (hash ^ (uint32_t)g->tokens[i]) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(hash >> 32) & g->mask;
}

void qr_ngram_push(qr_ngram *g, int32_t token)
{
    assert(g->num_tokens < g->max_tokens);
    const int32_t end = g->num_tokens++;
    g->tokens[end] = token;
    if (end < g->min_ngram) return;
    int32_t *head = &g->heads[hash_at(g, end)]; /* what ends here has a follower now */
    g->links[end] = *head;
    *head = end;
}

/* How many tokens before `end` are the last ones of the sequence, at most max_ngram. */
static int match_length(const qr_ngram *g, int32_t end)
{
    int length = 0;
    while (length < g->max_ngram && length < end &&
           g->tokens[end - 1 - length] == g->tokens[g->num_tokens - 1 - length])
        length++;
    return length;
}

int qr_ngram_propose(const qr_ngram *g, int max_drafts, int32_t *out)
{
    if (g->num_tokens <= g->min_ngram) return 0;
    int best = g->min_ngram - 1;
    int32_t from = 0, end = g->heads[hash_at(g, g->num_tokens)];
    for (int i = 0; i < MAX_CANDIDATES && end > 0 && best < g->max_ngram; i++, end = g->links[end]) {
        const int length = match_length(g, end);
        if (length <= best) continue;
        best = length;
        from = end;
    }
    if (from == 0) return 0;
    const int32_t period = g->num_tokens - from;
    for (int i = 0; i < max_drafts; i++) out[i] = i < period ? g->tokens[from + i] : out[i - period];
    return max_drafts;
}
