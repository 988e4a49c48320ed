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

struct qr_sampler_scratch {
    int vocab_size;
    float *logits;         /* [vocab_size] working copy */
    float *probs;          /* [vocab_size] after temperature, as multiples of the likeliest token's */
    uint32_t *counts;      /* [vocab_size] all zero between calls */
    candidate *candidates; /* [vocab_size] */
    typical *typicals;     /* [vocab_size], touched only by typical_p */
};

quire_status qr_sampler_scratch_create(int vocab_size, qr_sampler_scratch **out, quire_error *error)
{
    qr_sampler_scratch *s = qr_calloc(1, sizeof *s);
    size_t n = (size_t)vocab_size,
           bytes = n * (2 * sizeof(float) + sizeof(uint32_t) + sizeof(candidate) + sizeof(typical));
    if (!s) return qr_fail_nomem(error, "the sampler", sizeof *s);
    s->vocab_size = vocab_size;
    s->logits = qr_malloc(n * sizeof *s->logits);
    s->probs = qr_malloc(n * sizeof *s->probs);
    s->counts = qr_calloc(n, sizeof *s->counts);
    s->candidates = qr_malloc(n * sizeof *s->candidates);
    s->typicals = qr_malloc(n * sizeof *s->typicals);
    if (!s->logits || !s->probs || !s->counts || !s->candidates || !s->typicals) {
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
    qr_free(s->counts);
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

double qr_sampler_uniform(uint64_t key, uint32_t seq_index, uint32_t position)
{
    uint32_t counter[4] = {position, seq_index, 0, 0};
    philox(counter, (uint32_t)key, (uint32_t)(key >> 32));
    uint64_t bits = ((uint64_t)counter[0] << 32 | counter[1]) >> 11;
    return (double)bits * 0x1.0p-53;
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

static void penalize(qr_sampler_scratch *s, const qr_sample_in *in)
{
    /* counts: bit 31 marks a prompt token, the rest counts outputs; each token is visited once and reset */
    const uint32_t prompt_mark = 1u << 31;
    const quire_sampling_params *p = in->params;
    for (int i = 0; i < in->num_prompt; i++)
        if (in_vocab(s, in->prompt[i])) s->counts[in->prompt[i]] |= prompt_mark;
    for (int i = 0; i < in->num_output; i++)
        if (in_vocab(s, in->output[i])) s->counts[in->output[i]]++;
    for (int i = 0; i < in->num_prompt + in->num_output; i++) {
        int32_t id = i < in->num_prompt ? in->prompt[i] : in->output[i - in->num_prompt];
        if (!in_vocab(s, id) || s->counts[id] == 0) continue;
        uint32_t num_outputs = s->counts[id] & ~prompt_mark;
        s->counts[id] = 0;
        float logit = s->logits[id], repetition = (float)p->repetition_penalty;
        logit = logit > 0 ? logit / repetition : logit * repetition;
        if (num_outputs > 0) logit -= (float)p->frequency_penalty * (float)num_outputs + (float)p->presence_penalty;
        s->logits[id] = logit;
    }
}

/* The logits to draw from: the row itself, or a changed copy in scratch. */
static const float *processed_logits(qr_sampler_scratch *s, const qr_sample_in *in)
{
    const quire_sampling_params *p = in->params;
    bool hold_stop = in->num_output < p->min_tokens && in->num_eos_ids + p->num_stop_token_ids > 0;
    if (p->num_logit_bias == 0 && !hold_stop && !has_penalties(p)) return in->logits;
    memcpy(s->logits, in->logits, (size_t)s->vocab_size * sizeof *s->logits);
    for (int i = 0; i < p->num_logit_bias; i++)
        if (in_vocab(s, p->logit_bias[i].token_id)) s->logits[p->logit_bias[i].token_id] += p->logit_bias[i].bias;
    if (has_penalties(p)) penalize(s, in);
    for (int i = 0; hold_stop && i < in->num_eos_ids + p->num_stop_token_ids; i++) {
        int32_t id = i < in->num_eos_ids ? in->eos_ids[i] : p->stop_token_ids[i - in->num_eos_ids];
        if (in_vocab(s, id)) s->logits[id] = -INFINITY;
    }
    return s->logits;
}

/* ---- selection: the best of many without sorting all -------------------------------------------------- */

static inline bool better(candidate a, candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

static int compare(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return better(*x, *y) ? -1 : better(*y, *x) ? 1 : 0;
}

/* Partition so that the best k come first (in any order): quickselect with a median-of-three pivot. */
static void select_best(candidate *c, int n, int k)
{
    int low = 0, high = n - 1;
    while (low < high && k > low && k <= high) {
        candidate a = c[low], b = c[low + (high - low) / 2], d = c[high];
        candidate pivot = better(a, b) ? (better(b, d)   ? b
                                          : better(a, d) ? d
                                                         : a)
                                       : (better(a, d)   ? a
                                          : better(b, d) ? d
                                                         : b);
        int i = low, j = high;
        while (i <= j) {
            while (better(c[i], pivot)) i++;
            while (better(pivot, c[j])) j--;
            if (i <= j) {
                candidate t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
}

/* Sort the best k of c[from..n) into place, best first. */
static void sort_best(candidate *c, int from, int n, int k)
{
    if (k < n - from) select_best(c + from, n - from, k);
    qsort(c + from, (size_t)k, sizeof *c, compare);
}

/* The best k of the row's logits from `floor` on, or all if there are fewer; in any order.
 *   c         [n] room to work in
 *   returns   how many are in c */
static int collect(candidate *c, const float *logits, int n, float floor, int k)
{
    const int64_t room = 4 * (int64_t)k + 512; /* so that sorting out is rare: few beat the worst kept after a while */
    int num = 0;
    for (int i = 0; i < n; i++) {
        if (logits[i] < floor) continue;
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

/* Keep the shortest best-first prefix whose probability reaches `wanted`; c[0..returned) is sorted. */
static int apply_top_p(candidate *c, int n, const float *probs, double wanted)
{
    double sum = 0;
    int num_sorted = 0;
    for (int i = 0; i < n; i++) {
        if (i == num_sorted) {
            int more = num_sorted == 0 ? 256 : num_sorted * 7;
            if (more > n - num_sorted) more = n - num_sorted;
            sort_best(c, num_sorted, n, more);
            num_sorted += more;
        }
        sum += probs[c[i].id];
        if (sum >= wanted) return i + 1;
    }
    return n;
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

static double sum_candidates(const candidate *c, int n, const float *probs)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += probs[c[i].id];
    return sum;
}

static int32_t draw_from_candidates(const candidate *c, int n, const float *probs, double u)
{
    const double wanted = u * sum_candidates(c, n, probs);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += probs[c[i].id];
        if (sum > wanted) return c[i].id;
    }
    return c[n - 1].id;
}

/* The whole vocabulary by inverse CDF in token order; sums of 64 first, so that the walk is short. */
static int32_t draw_from_all(const qr_sampler_scratch *s, double u)
{
    enum { RUN = 64 };
    int n = s->vocab_size, last = 0;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i += RUN) {
        float run = 0;
        for (int j = i; j < n && j < i + RUN; j++) run += s->probs[j];
        total += run;
    }
    for (int i = 0; i < n; i += RUN) {
        float run = 0;
        for (int j = i; j < n && j < i + RUN; j++) run += s->probs[j];
        if (run > 0) last = i;
        if (sum + run > u * total || i + RUN >= n) {
            if (!(sum + run > u * total)) i = last; /* rounding left nothing: the last run with any probability */
            int32_t id = i;
            for (int j = i; j < n && j < i + RUN; j++) {
                if (s->probs[j] <= 0) continue;
                id = j;
                sum += s->probs[j];
                if (sum > u * total) break;
            }
            return id;
        }
        sum += run;
    }
    return 0;
}

static int32_t argmax(const float *x, int n)
{
    int32_t best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* The logit whose token is `prob` times as likely as the likeliest. */
static float logit_of(double prob, float max, double temperature)
{
    return prob > 0 ? max + (float)(log(prob) * temperature) : -INFINITY;
}

/* The sum of the probabilities of the logits from `floor` on. */
static double sum_from(const float *logits, int n, float floor, const float *probs)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += logits[i] >= floor ? probs[i] : 0;
    return sum;
}

int32_t qr_sampler_sample(qr_backend *be, qr_sampler_scratch *s, const qr_sample_in *in)
{
    const quire_sampling_params *p = in->params;
    const float *logits = processed_logits(s, in);
    int n = s->vocab_size;
    int32_t best = logits == in->logits ? in->stats.argmax : argmax(logits, n);
    if (p->temperature < 1e-5 || !(logits[best] > -INFINITY)) return best; /* vLLM treats tiny temperatures as greedy */

    double u = qr_sampler_uniform(in->key, (uint32_t)in->seq_index, (uint32_t)in->num_output);
    be->ops->exp_row(be, logits, n, logits[best], (float)(1.0 / p->temperature), s->probs);
    bool top_k = p->top_k > 0 && p->top_k < n;
    if (!top_k && p->top_p >= 1.0 && p->min_p <= 0.0 && p->typical_p >= 1.0) return draw_from_all(s, u);

    float floor = logit_of(p->min_p, logits[best], p->temperature);
    double total = 0; /* of what top_p is a part of */
    if (p->top_p < 1.0 && !top_k) {
        total = sum_from(logits, n, floor, s->probs);
        /* n tokens less likely than this make up less than 1 - top_p together: none of them is needed */
        floor = fmaxf(floor, logit_of(0.5 * (1 - p->top_p) * total / n, logits[best], p->temperature));
    }
    candidate *c = s->candidates;
    int num = collect(c, logits, n, floor, top_k ? p->top_k : n);
    if (top_k) total = sum_candidates(c, num, s->probs);
    if (p->top_p < 1.0) num = apply_top_p(c, num, s->probs, p->top_p * total);
    if (p->typical_p < 1.0) num = apply_typical(s, c, num, p->temperature, p->typical_p);
    return draw_from_candidates(c, num, s->probs, u);
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
    sort_best(c, 0, collect(c, logits, s->vocab_size, -INFINITY, num_top), num_top);
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
