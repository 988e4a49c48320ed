#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

typedef struct typical {
    double distance, prob;
    candidate c;
} typical;

enum { RUN = 64 }; /* tokens */

struct qr_sampler_scratch {
    int vocab_size;
    float *logits;         /* [vocab_size] working copy */
    float *probs;          /* [vocab_size] after temperature, as multiples of the likeliest token's */
    uint64_t *sums;        /* [ceil(vocab_size / RUN)] */
    uint32_t *counts;      /* [vocab_size] all zero between calls */
    qr_logit_edit *edits;  /* [vocab_size] penalties */
    candidate *candidates; /* [vocab_size] */
    typical *typicals;     /* [vocab_size], touched only by typical_p */
};

quire_status qr_sampler_scratch_create(int vocab_size, qr_sampler_scratch **out, quire_error *error)
{
    size_t n = (size_t)vocab_size, bytes = n * (2 * sizeof(float) + sizeof(uint32_t) + sizeof(qr_logit_edit) +
                                                sizeof(candidate) + sizeof(typical));
    if (vocab_size > QR_MAX_VOCAB)
        return qr_fail(error, QUIRE_UNSUPPORTED, "a vocabulary of %d tokens: at most %d", vocab_size, QR_MAX_VOCAB);
    qr_sampler_scratch *s = qr_calloc(1, sizeof *s);
    if (!s) return qr_fail_nomem(error, "the sampler", sizeof *s);
    s->vocab_size = vocab_size;
    s->logits = qr_malloc(n * sizeof *s->logits);
    s->probs = qr_malloc(n * sizeof *s->probs);
    s->sums = qr_malloc((n + RUN - 1) / RUN * sizeof *s->sums);
    s->counts = qr_calloc(n, sizeof *s->counts);
    s->edits = qr_malloc(n * sizeof *s->edits);
    s->candidates = qr_malloc(n * sizeof *s->candidates);
    s->typicals = qr_malloc(n * sizeof *s->typicals);
    if (!s->logits || !s->probs || !s->sums || !s->counts || !s->edits || !s->candidates || !s->typicals) {
        qr_sampler_scratch_destroy(s);
        return qr_fail_nomem(error, "the sampler", bytes);
    }
    *out = s;
    return QUIRE_OK;
}

void qr_sampler_scratch_destroy(qr_sampler_scratch *s)
{
    if (!s) return;
    qr_free(s->logits);
    qr_free(s->probs);
    qr_free(s->sums);
    qr_free(s->counts);
    qr_free(s->edits);
    qr_free(s->candidates);
    qr_free(s->typicals);
    qr_free(s);
}

/* ---- random numbers ------------------------------------------------------------------------------- */

/* Philox4x32-10; the counter's four words are replaced by random ones. */
static void philox(uint32_t counter[4], uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ counter[1] ^ key0, (uint32_t)b,
                            (uint32_t)(a >> 32) ^ counter[3] ^ key1, (uint32_t)a};
        memcpy(counter, next, sizeof next);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

uint64_t qr_sampler_random(uint64_t key, uint32_t seq_index, uint32_t position)
{
    uint32_t counter[4] = {position, seq_index, 0, 0};
    philox(counter, (uint32_t)key, (uint32_t)(key >> 32));
    return (uint64_t)counter[0] << 32 | counter[1];
}

uint64_t qr_sampler_mix(uint64_t a, uint64_t b)
{
    uint32_t counter[4] = {(uint32_t)b, (uint32_t)(b >> 32), 0, 1};
    philox(counter, (uint32_t)a, (uint32_t)(a >> 32));
    return (uint64_t)counter[0] << 32 | counter[1];
}

/* ---- changes to the logits -------------------------------------------------------------------------- */

static bool in_vocab(const qr_sampler_scratch *s, int32_t id) { return id >= 0 && id < s->vocab_size; }

static bool has_penalties(const quire_sampling_params *p)
{
    return p->repetition_penalty != 1.0 || p->presence_penalty != 0.0 || p->frequency_penalty != 0.0;
}

/* The penalty of each token so far, once: edits [vocab_size]; returns how many. */
static int list_penalties(qr_sampler_scratch *s, const qr_sample_in *in, qr_logit_edit *edits)
{
    /* counts: bit 31 marks a prompt token, the rest counts outputs; each token is visited once and reset */
    const uint32_t prompt_mark = 1u << 31;
    const quire_sampling_params *p = in->params;
    int num = 0;
    for (int i = 0; i < in->num_prompt; i++)
        if (in_vocab(s, in->prompt[i])) s->counts[in->prompt[i]] |= prompt_mark;
    for (int i = 0; i < in->num_output; i++)
        if (in_vocab(s, in->output[i])) s->counts[in->output[i]]++;
    for (int i = 0; i < in->num_prompt + in->num_output; i++) {
        int32_t id = i < in->num_prompt ? in->prompt[i] : in->output[i - in->num_prompt];
        if (!in_vocab(s, id) || s->counts[id] == 0) continue;
        uint32_t num_outputs = s->counts[id] & ~prompt_mark;
        float value = (float)p->frequency_penalty * (float)num_outputs + (float)p->presence_penalty;
        s->counts[id] = 0;
        edits[num++] = (qr_logit_edit){id, num_outputs > 0 ? value : 0};
    }
    return num;
}

/* Tokens that may not be drawn yet: the first are the model's, then the request's. */
static int num_banned(const qr_sample_in *in)
{
    return in->num_output < in->params->min_tokens ? in->num_eos_ids + in->params->num_stop_token_ids : 0;
}
static int32_t banned_id(const qr_sample_in *in, int i)
{
    return i < in->num_eos_ids ? in->eos_ids[i] : in->params->stop_token_ids[i - in->num_eos_ids];
}

/* The logits to draw from: the row itself, or a changed copy in scratch. */
static const float *processed_logits(qr_sampler_scratch *s, const qr_sample_in *in)
{
    const quire_sampling_params *p = in->params;
    if (p->num_logit_bias == 0 && num_banned(in) == 0 && !has_penalties(p)) return in->logits;
    memcpy(s->logits, in->logits, (size_t)s->vocab_size * sizeof *s->logits);
    for (int i = 0; i < p->num_logit_bias; i++)
        if (in_vocab(s, p->logit_bias[i].token_id)) s->logits[p->logit_bias[i].token_id] += p->logit_bias[i].bias;
    const int num_penalties = has_penalties(p) ? list_penalties(s, in, s->edits) : 0;
    const float repetition = (float)p->repetition_penalty;
    for (int i = 0; i < num_penalties; i++) {
        float *logit = &s->logits[s->edits[i].id];
        *logit = (*logit > 0 ? *logit / repetition : *logit * repetition) - s->edits[i].value;
    }
    for (int i = 0; i < num_banned(in); i++)
        if (in_vocab(s, banned_id(in, i))) s->logits[banned_id(in, i)] = -INFINITY;
    return s->logits;
}

/* ---- selection: the best of many without sorting all -------------------------------------------------- */

static inline bool better(candidate a, candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static int compare(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return better(*x, *y) ? -1 : better(*y, *x) ? 1 : 0;
}

static inline void swap(candidate *a, candidate *b)
{
    candidate t = *a;
    *a = *b;
    *b = t;
}

/* Where the middle one is of c[low], c[high], and the one between: what to partition around. */
static int pivot_of(const candidate *c, int low, int high)
{
    const int between = low + (high - low) / 2;
    candidate a = c[low], b = c[between], d = c[high];
    if (better(a, b)) return better(b, d) ? between : better(a, d) ? high : low;
    return better(a, d) ? low : better(b, d) ? high : between;
}

/* Partition so that the best k come first (in any order): quickselect with a median-of-three pivot. */
static void select_best(candidate *c, int n, int k)
{
    int low = 0, high = n - 1;
    while (low < high && k > low && k <= high) {
        const candidate pivot = c[pivot_of(c, low, high)];
        int i = low, j = high;
        while (i <= j) {
            while (better(c[i], pivot)) i++;
            while (better(pivot, c[j])) j--;
            if (i <= j) swap(&c[i++], &c[j--]);
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
}

/* The best k of the row's logits from `floor` on, or all if there are fewer; in any order.
 *   c         [n] room to work in
 *   returns   how many are in c */
static int collect(candidate *c, const float *logits, int n, float floor, int k)
{
    const int64_t room = 4 * (int64_t)k + 512; /* so that sorting out is rare: few beat the worst kept after a while */
    int num = 0;
    for (int i = 0; i < n; i++) {
        if (!(logits[i] >= floor)) continue;
        c[num++] = (candidate){logits[i], i};
        if (num < room) continue;
        select_best(c, num, k);
        num = k;
        for (int j = 0; j < k; j++)
            if (j == 0 || c[j].logit < floor) floor = c[j].logit;
    }
    if (num <= k) return num;
    select_best(c, num, k);
    return k;
}

/* A probability as a whole number, so that sums are the same in any order: in 2^-40 of the likeliest token's, rounded
 * down. Sums of QR_MAX_VOCAB fit. */
static uint64_t weight_of(float prob) { return (uint64_t)(int64_t)((prob > 0 ? prob : 0) * 0x1p40f); }

/* Keep the shortest best-first beginning whose weight reaches `wanted`, in any order: quickselect by weight. */
static int apply_top_p(candidate *c, int n, const float *probs, uint64_t wanted)
{
    uint64_t kept = 0; /* weight of c[0..low), which are in */
    int low = 0, high = n;
    while (low < high && (low == 0 || kept < wanted)) {
        swap(&c[pivot_of(c, low, high - 1)], &c[high - 1]);
        const candidate pivot = c[high - 1];
        uint64_t sum = 0;
        int middle = low;
        for (int i = low; i < high - 1; i++) {
            if (!better(c[i], pivot)) continue;
            sum += weight_of(probs[c[i].id]);
            swap(&c[i], &c[middle++]);
        }
        swap(&c[middle], &c[high - 1]);
        if (middle > low && kept + sum >= wanted) {
            high = middle;
        } else {
            kept += sum + weight_of(probs[pivot.id]);
            low = middle + 1;
        }
    }
    return low;
}

static int compare_typical(const void *a, const void *b)
{
    const typical *x = a, *y = b;
    if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
    return compare(&x->c, &y->c);
}

/* Keep the tokens whose surprise is nearest to the entropy until their probability reaches typical_p. */
static int apply_typical(qr_sampler_scratch *s, candidate *c, int n, double temperature, double typical_p)
{
    typical *t = s->typicals;
    double max = c[0].logit, total = 0, entropy = 0, sum = 0;
    for (int i = 1; i < n; i++)
        if (c[i].logit > max) max = c[i].logit;
    for (int i = 0; i < n; i++) total += exp((c[i].logit - max) / temperature);
    for (int i = 0; i < n; i++) {
        double logp = (c[i].logit - max) / temperature - log(total), prob = exp(logp);
        if (prob > 0) entropy -= prob * logp;
    }
    for (int i = 0; i < n; i++) {
        double logp = (c[i].logit - max) / temperature - log(total);
        t[i] = (typical){fabs(-logp - entropy), exp(logp), c[i]};
    }
    qsort(t, (size_t)n, sizeof *t, compare_typical);
    int kept = 0;
    while (kept < n) {
        c[kept] = t[kept].c;
        sum += t[kept++].prob;
        if (sum >= typical_p) break;
    }
    qsort(c, (size_t)kept, sizeof *c, compare);
    return kept;
}

static uint64_t sum_candidates(const candidate *c, int n, const float *probs)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum += weight_of(probs[c[i].id]);
    return sum;
}

/* The place in 0 .. total - 1 that a random number picks. */
static uint64_t place_of(uint64_t random, uint64_t total)
{
    return (uint64_t)((unsigned __int128)random * total >> 64);
}

/* The candidate in whose weight `place` lies, candidates one after the other by id: halving the ids, not sorting. */
static int32_t draw_from_candidates(candidate *c, int n, int32_t vocab_size, const float *probs, uint64_t random)
{
    uint64_t place = place_of(random, sum_candidates(c, n, probs));
    for (int32_t low = 0, high = vocab_size; n > 1;) {
        const int32_t middle = low + (high - low) / 2;
        uint64_t below = 0;
        int num_below = 0;
        for (int i = 0; i < n; i++) {
            if (c[i].id >= middle) continue;
            below += weight_of(probs[c[i].id]);
            swap(&c[i], &c[num_below++]);
        }
        if (place < below) {
            high = middle;
            n = num_below;
        } else {
            low = middle;
            place -= below;
            c += num_below;
            n -= num_below;
        }
    }
    return c[0].id;
}

/* The same for the whole vocabulary; sums of RUN first, so that the walk is short. */
static int32_t draw_from_all(qr_sampler_scratch *s, uint64_t random)
{
    const int n = s->vocab_size;
    uint64_t total = 0;
    for (int first = 0; first < n; first += RUN) {
        uint64_t sum = 0;
        for (int i = first; i < n && i < first + RUN; i++) sum += weight_of(s->probs[i]);
        total += s->sums[first / RUN] = sum;
    }
    uint64_t place = place_of(random, total);
    int id = 0;
    while (place >= s->sums[id / RUN]) place -= s->sums[id / RUN], id += RUN;
    for (uint64_t weight; place >= (weight = weight_of(s->probs[id])); id++) place -= weight;
    return id;
}

static int32_t argmax(const float *x, int n)
{
    int32_t best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best] || (isnan(x[best]) && !isnan(x[i]))) best = i; /* as row_stats */
    return best;
}

/* How far above the largest logit the one is whose token is `prob` times as likely. */
static float logit_of(double prob, double temperature)
{
    return prob > 0 ? (float)(log(prob) * temperature) : -INFINITY;
}

static bool is_greedy(const quire_sampling_params *p) { return p->temperature < 1e-5; } /* tiny ones too, as vLLM */

/* The weight of the logits from `floor` on. */
static uint64_t sum_from(const float *logits, int n, float floor, const float *probs)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum += logits[i] >= floor ? weight_of(probs[i]) : 0;
    return sum;
}

int32_t qr_sampler_sample(qr_backend *be, qr_sampler_scratch *s, const qr_sample_in *in)
{
    const quire_sampling_params *p = in->params;
    const float *logits = processed_logits(s, in);
    int n = s->vocab_size;
    int32_t best = logits == in->logits ? in->stats.argmax : argmax(logits, n);
    const float max = logits[best];
    if (is_greedy(p) || !(max > -INFINITY && max < INFINITY)) return best;

    const uint64_t random = qr_sampler_random(in->key, (uint32_t)in->seq_index, (uint32_t)in->num_output);
    be->ops->exp_row(be, logits, n, max, (float)(1.0 / p->temperature), s->probs);
    bool top_k = p->top_k > 0 && p->top_k < n;
    if (!top_k && p->top_p >= 1.0 && p->min_p <= 0.0 && p->typical_p >= 1.0) return draw_from_all(s, random);

    float floor = max + logit_of(p->min_p, p->temperature);
    uint64_t total = 0; /* of what top_p is a part of */
    if (p->top_p < 1.0 && !top_k) {
        total = sum_from(logits, n, floor, s->probs);
        /* n tokens less likely than this make up less than 1 - top_p together: none of them is needed */
        const double unlikely = 0.5 * (1 - p->top_p) * ((double)total * 0x1p-40) / n;
        floor = fmaxf(floor, max + logit_of(unlikely, p->temperature));
    }
    candidate *c = s->candidates;
    int num = collect(c, logits, n, floor, top_k ? p->top_k : n);
    if (top_k) total = sum_candidates(c, num, s->probs);
    if (p->top_p < 1.0) num = apply_top_p(c, num, s->probs, (uint64_t)(p->top_p * (double)total));
    if (p->typical_p < 1.0) num = apply_typical(s, c, num, p->temperature, p->typical_p);
    return draw_from_candidates(c, num, n, s->probs, random);
}

/* ---- the same for a device ---------------------------------------------------------------------------------- */

int qr_sampler_max_edits(const qr_sampler_scratch *s, const qr_sample_in *in)
{
    const int num_tokens = in->num_prompt + in->num_output;
    int num = in->params->num_logit_bias + num_banned(in);
    if (has_penalties(in->params)) num += num_tokens < s->vocab_size ? num_tokens : s->vocab_size;
    return in->params->typical_p < 1.0 ? -1 : num;
}

int qr_sampler_describe(qr_sampler_scratch *s, const qr_sample_in *in, qr_draw *out, qr_logit_edit *edits)
{
    const quire_sampling_params *p = in->params;
    int num = 0;
    *out = (qr_draw){.given_token = -1,
                     .repetition = (float)p->repetition_penalty,
                     .inverse_temperature = is_greedy(p) ? 0 : (float)(1.0 / p->temperature),
                     .min_p_offset = logit_of(p->min_p, p->temperature),
                     .top_k = p->top_k,
                     .top_p = p->top_p,
                     .random = qr_sampler_random(in->key, (uint32_t)in->seq_index, (uint32_t)in->num_output)};
    for (int i = 0; i < p->num_logit_bias; i++)
        if (in_vocab(s, p->logit_bias[i].token_id))
            edits[num++] = (qr_logit_edit){p->logit_bias[i].token_id, p->logit_bias[i].bias};
    out->num_biases = num;
    if (has_penalties(p)) out->num_penalties = list_penalties(s, in, edits + num);
    num += out->num_penalties;
    for (int i = 0; i < num_banned(in); i++)
        if (in_vocab(s, banned_id(in, i))) edits[num++] = (qr_logit_edit){banned_id(in, i), 0};
    out->num_banned = num - out->num_biases - out->num_penalties;
    return num;
}

/* ---- log probabilities ---------------------------------------------------------------------------------- */

void qr_sampler_logprob(const float *logits, const qr_row_stats *stats, int vocab_size, int32_t token,
                        float *out_logprob, int *out_rank)
{
    float x = logits[token];
    int rank = 1;
    for (int i = 0; i < vocab_size; i++) rank += logits[i] > x || (logits[i] == x && i < token);
    *out_logprob = x - stats->max - logf(stats->sum_exp);
    *out_rank = rank;
}

void qr_sampler_top_logprobs(qr_sampler_scratch *s, const float *logits, const qr_row_stats *stats, int num_top,
                             int32_t *out_ids, float *out_logprobs)
{
    candidate *c = s->candidates;
    int num = collect(c, logits, s->vocab_size, -INFINITY, num_top);
    qsort(c, (size_t)num, sizeof *c, compare);
    for (; num < num_top; num++) c[num] = (candidate){NAN, 0}; /* all others are NaN */
    float log_sum = logf(stats->sum_exp);
    for (int i = 0; i < num_top; i++) {
        out_ids[i] = c[i].id;
        out_logprobs[i] = c[i].logit - stats->max - log_sum;
    }
}

void qr_sampler_beam_candidates(qr_sampler_scratch *s, const qr_sample_in *in, int num_top, int32_t *out_ids,
                                float *out_logprobs)
{
    qr_sampler_top_logprobs(s, processed_logits(s, in), &in->stats, num_top, out_ids, out_logprobs);
}
