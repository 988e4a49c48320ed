/* sample: what backend.h's op of that name says, a block for each draw.
 *
 *   logits ─► edits (in a copy) ─► the best ─► min_p, top_k, top_p: the least that is kept ─► draw, by id
 *
 * What is kept is told by one place in the order best first: a key (the logit as an integer that sorts alike) and an
 * id. The place is found by radix selection, of counts for top_k and of weights for top_p; the first digit is the
 * distance from the largest logit, over which tokens are spread evenly enough for atomic additions. All sums are of
 * whole numbers, so that the number of threads and their order change nothing. */
#include "backend/cuda/runtime.cuh"

typedef unsigned long long u64;

enum { BINS = 256, WARPS = 32, NO_ID = 0x7FFFFFFF };

/* Larger logits have larger keys, -0 is 0, NaN is below all. */
static __device__ __forceinline__ unsigned key_of(float x)
{
    if (x != x) return 0;
    unsigned bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
static __device__ __forceinline__ float logit_of(unsigned key)
{
    return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key);
}

struct shared {
    qr_draw draw;
    u64 bins[BINS], parts[WARPS], found;
    int digit, place, num_top;
    float max, sum_exp, top_logits[QR_MAX_TOP];
    int32_t top_ids[QR_MAX_TOP];
};

/* A row, and which of its tokens are kept: those with a larger key, and those with this key up to an id. */
struct row {
    const float *x;
    int n;
    float max, scale;
    unsigned key;
    int last_id;
};

static __device__ __forceinline__ bool is_kept(const row &r, int id, unsigned key)
{
    return key > r.key || (key == r.key && id <= r.last_id);
}

static __device__ __forceinline__ u64 weight_of(const row &r, float logit)
{
    float p = qr_exp((logit - r.max) * r.scale);
    return (u64)((p > 0.0f ? p : 0.0f) * 0x1p40f);
}

/* ---- the block together; every thread gets the result, and all may go on writing */

static __device__ u64 warp_sum(u64 v)
{
    for (int apart = 16; apart > 0; apart /= 2) v += __shfl_xor_sync(~0u, v, apart);
    return v;
}

static __device__ u64 block_sum(shared *s, u64 v)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) s->parts[threadIdx.x / 32] = v;
    __syncthreads();
    u64 sum = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++) sum += s->parts[i];
    __syncthreads();
    return sum;
}

/* The best token of a row. */
static __device__ int block_best(shared *s, const float *x, int n)
{
    u64 best = 0; /* key, then the lower id */
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        u64 v = (u64)key_of(x[i]) << 32 | (unsigned)~i;
        best = v > best ? v : best;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        u64 other = __shfl_xor_sync(~0u, best, apart);
        best = other > best ? other : best;
    }
    if (threadIdx.x % 32 == 0) s->parts[threadIdx.x / 32] = best;
    __syncthreads();
    for (int i = 0; i < (int)blockDim.x / 32; i++) best = s->parts[i] > best ? s->parts[i] : best;
    __syncthreads();
    return (int)~(unsigned)best;
}

/* ---- edits */

/* Biases that there is room for at a time; the first of an id adds its later ones too, in their order. */
static __device__ void add_biases(shared *s, const qr_logit_edit *e, int num, float *x)
{
    int i = (int)threadIdx.x;
    if (i < num) s->top_ids[i] = e[i].id, s->top_logits[i] = e[i].value;
    __syncthreads();
    bool first = i < num;
    for (int j = 0; j < i && first; j++) first = s->top_ids[j] != s->top_ids[i];
    for (int j = i; j < num && first; j++)
        if (s->top_ids[j] == s->top_ids[i]) x[s->top_ids[i]] += s->top_logits[j];
    __syncthreads();
}

static __device__ void edit(shared *s, const qr_draw &d, const qr_logit_edit *e, float *x)
{
    for (int i = 0; i < d.num_biases; i += QR_MAX_TOP)
        add_biases(s, e + i, d.num_biases - i < QR_MAX_TOP ? d.num_biases - i : QR_MAX_TOP, x);
    e += d.num_biases;
    for (int i = threadIdx.x; i < d.num_penalties; i += blockDim.x) {
        float logit = x[e[i].id];
        x[e[i].id] = (logit > 0.0f ? logit / d.repetition : logit * d.repetition) - e[i].value;
    }
    __syncthreads();
    e += d.num_penalties;
    for (int i = threadIdx.x; i < d.num_banned; i += blockDim.x) x[e[i].id] = __uint_as_float(0xFF800000u);
    __syncthreads();
}

/* ---- selection */

enum measure { TIES, TOKENS, WEIGHTS }; /* kept tokens of the last key; all that are kept; their weights */

template <int what> static __device__ __forceinline__ u64 measure_of(const row &r, int id, float logit, unsigned key)
{
    if (!is_kept(r, id, key) || (what == TIES && key != r.key)) return 0;
    return what == WEIGHTS ? weight_of(r, logit) : 1;
}

/* The warp's ids: [*first, *end), whole groups of 32. */
static __device__ void chunk_of(int n, int warp, int *first, int *end)
{
    int warps = (int)blockDim.x / 32, size = ((n + warps - 1) / warps + 31) / 32 * 32;
    *first = warp * size < n ? warp * size : n;
    *end = *first + size < n ? *first + size : n;
}

/* The first id with which the running sum over ids exceeds a place below the sum: `place`, or, when is_random, place /
 * 2^64 of the sum. */
template <int what> static __device__ int find_id(shared *s, const row &r, bool is_random, u64 place)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first, end;
    u64 sum = 0, before = 0;
    chunk_of(r.n, warp, &first, &end);
    for (int i = first + lane; i < end; i += 32) sum += measure_of<what>(r, i, r.x[i], key_of(r.x[i]));
    sum = warp_sum(sum);
    if (lane == 0) s->parts[warp] = sum;
    __syncthreads();
    u64 total = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++) {
        if (i < warp) before += s->parts[i];
        total += s->parts[i];
    }
    if (is_random) place = __umul64hi(place, total);
    if (place >= before && place < before + sum) { /* one warp */
        for (int i = first; i < end; i += 32) {
            int id = i + lane;
            u64 mine = id < end ? measure_of<what>(r, id, r.x[id], key_of(r.x[id])) : 0, upto = mine;
            for (int apart = 1; apart < 32; apart *= 2) {
                u64 other = __shfl_up_sync(~0u, upto, apart);
                if (lane >= apart) upto += other;
            }
            unsigned beyond = __ballot_sync(~0u, before + upto > place);
            if (beyond) {
                if (lane == 0) s->place = i + __ffs((int)beyond) - 1;
                break;
            }
            before += __shfl_sync(~0u, upto, 31);
        }
    }
    __syncthreads();
    int found = s->place;
    __syncthreads();
    return found;
}

/* By how much a logit is below the largest, in eighths, up to 255: larger logits have no larger distance. */
static __device__ __forceinline__ unsigned distance_of(const row &r, float logit)
{
    float d = (r.max - logit) * 8.0f;
    return d < 255.0f ? (unsigned)d : 255u;
}

/* The bin from the top with which the sum of the bins reaches `wanted`; *above: the bins before it. By warp 0. */
static __device__ void find_bin(shared *s, u64 wanted)
{
    enum { PER_LANE = BINS / 32 };
    if (threadIdx.x < 32) {
        int lane = threadIdx.x;
        u64 sum = 0;
        for (int i = 0; i < PER_LANE; i++) sum += s->bins[BINS - 1 - (lane * PER_LANE + i)];
        u64 upto = sum;
        for (int apart = 1; apart < 32; apart *= 2) {
            u64 other = __shfl_up_sync(~0u, upto, apart);
            if (lane >= apart) upto += other;
        }
        unsigned reached = __ballot_sync(~0u, upto >= wanted);
        if (lane == (reached ? __ffs((int)reached) - 1 : 31)) {
            u64 above = upto - sum;
            int bin = BINS - 1 - lane * PER_LANE;
            for (int i = 1; i < PER_LANE && above + s->bins[bin] < wanted; i++) above += s->bins[bin--];
            s->digit = bin;
            s->found = above;
        }
    }
    __syncthreads();
}

/* Of the tokens that are kept, keep the best whose measure reaches `wanted`, 1 at least and at most the sum of all. */
template <int what> static __device__ void select(shared *s, row *r, u64 wanted)
{
    unsigned far = 0, prefix = 0; /* digits so far: the distance, then bytes of the key */
    for (int level = 0; level < 5; level++) {
        int shift = 32 - 8 * level;
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) s->bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < r->n; i += blockDim.x) {
            float logit = r->x[i];
            unsigned key = key_of(logit), distance = distance_of(*r, logit);
            if (level > 0 && (distance != far || (level > 1 && key >> (shift + 8) != prefix))) continue;
            u64 m = measure_of<what>(*r, i, logit, key);
            if (m) atomicAdd(&s->bins[level == 0 ? 255u - distance : key >> shift & 255u], m);
        }
        __syncthreads();
        find_bin(s, wanted);
        wanted -= s->found;
        if (level == 0)
            far = 255u - (unsigned)s->digit;
        else
            prefix = prefix << 8 | (unsigned)s->digit;
        __syncthreads();
    }
    u64 each = what == WEIGHTS ? weight_of(*r, logit_of(prefix)) : 1, all = s->bins[prefix & 255u];
    u64 num = each ? (wanted + each - 1) / each : 1;
    int last_id = prefix == r->key ? r->last_id : NO_ID;
    __syncthreads();
    r->key = prefix;
    r->last_id = last_id;
    if (num * each < all) r->last_id = find_id<TIES>(s, *r, false, num - 1);
}

/* ---- draws */

static __device__ int draw_token(shared *s, const float *x, int n, int best)
{
    const qr_draw &d = s->draw;
    float max = x[best];
    unsigned key = key_of(max);
    if (d.inverse_temperature == 0.0f || key <= key_of(__uint_as_float(0xFF800000u)) || max - max != 0.0f) return best;
    row r = {x, n, max, d.inverse_temperature, key_of(max + d.min_p_offset), NO_ID};
    if (d.top_k > 0 && d.top_k < n) {
        u64 num = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) num += measure_of<TOKENS>(r, i, x[i], key_of(x[i]));
        if (block_sum(s, num) > (u64)d.top_k) select<TOKENS>(s, &r, (u64)d.top_k);
    }
    if (d.top_p < 1.0) {
        u64 sum = 0;
        for (int i = threadIdx.x; i < n; i += blockDim.x) sum += measure_of<WEIGHTS>(r, i, x[i], key_of(x[i]));
        sum = block_sum(s, sum);
        u64 wanted = (u64)(d.top_p * (double)sum);
        select<WEIGHTS>(s, &r, wanted < 1 ? 1 : wanted < sum ? wanted : sum);
    }
    return find_id<WEIGHTS>(s, r, true, d.random);
}

/* The sum of exp(x - max) in backend.h's order: 16 lanes, each by one thread, from pieces that all compute. */
template <int THREADS> static __device__ float sum_exp(shared *s, const float *x, int n, float max)
{
    __shared__ float piece[THREADS];
    float sum = 0.0f;
    for (int first = 0; first < n; first += THREADS) {
        int i = first + (int)threadIdx.x;
        piece[threadIdx.x] = i < n ? qr_exp(x[i] - max) : 0.0f;
        __syncthreads();
        for (int j = (int)threadIdx.x; threadIdx.x < 16 && j < THREADS; j += 16) sum = piece[j] + sum;
        __syncthreads();
    }
    if (threadIdx.x < 32) {
        sum = qr_tree_16(__shfl_sync(~0u, sum, (int)threadIdx.x % 16));
        if (threadIdx.x == 0) s->sum_exp = sum;
    }
    __syncthreads();
    return s->sum_exp;
}

/* The likeliest tokens of a row, best first, at out_*[0 ..). */
static __device__ void write_top(shared *s, const float *x, int n, int best, int32_t *out_ids, float *out_logits)
{
    const unsigned lowest = key_of(__uint_as_float(0xFF800000u));
    row r = {x, n, x[best], 0.0f, lowest, NO_ID};
    u64 num = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) num += measure_of<TOKENS>(r, i, x[i], key_of(x[i]));
    if (block_sum(s, num) > (u64)s->draw.num_top) select<TOKENS>(s, &r, (u64)s->draw.num_top);
    if (threadIdx.x == 0) s->num_top = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        if (!is_kept(r, i, key_of(x[i]))) continue;
        int at = atomicAdd(&s->num_top, 1);
        s->top_ids[at] = i;
        s->top_logits[at] = x[i];
    }
    __syncthreads();
    int i = (int)threadIdx.x;
    if (i < s->num_top) {
        float logit = s->top_logits[i];
        int32_t id = s->top_ids[i];
        int rank = 0;
        for (int j = 0; j < s->num_top; j++)
            rank += s->top_logits[j] > logit || (s->top_logits[j] == logit && s->top_ids[j] < id);
        out_ids[rank] = id;
        out_logits[rank] = logit;
    } else if (i < s->draw.num_top) { /* all others are NaN */
        out_ids[i] = 0;
        out_logits[i] = __int_as_float(0x7FC00000);
    }
    __syncthreads();
}

template <int THREADS> static __global__ void __launch_bounds__(THREADS) sample_kernel(qr_sample_args a)
{
    __shared__ shared sh;
    shared *s = &sh;
    int n = a.vocab_size;
    if (threadIdx.x == 0) s->draw = a.draws[blockIdx.x];
    __syncthreads();
    const qr_draw &d = s->draw;
    const float *raw = a.logits + (int64_t)d.row * n, *x = raw;
    if (d.num_biases + d.num_penalties + d.num_banned > 0) {
        float *copy = a.scratch + (int64_t)blockIdx.x * n;
        for (int i = threadIdx.x; i < n; i += THREADS) copy[i] = raw[i];
        __syncthreads();
        edit(s, d, a.edits + d.first_edit, copy);
        x = copy;
    }
    int best = block_best(s, x, n), token = d.given_token >= 0 ? d.given_token : draw_token(s, x, n, best);
    qr_drawn out = {token, 0, raw[token], 0.0f, 0.0f};
    int raw_best = x == raw || !(d.wants_stats || d.num_top > 0) ? best : block_best(s, raw, n);
    if (d.wants_stats) {
        u64 num = 0;
        for (int i = threadIdx.x; i < n; i += THREADS) num += raw[i] > out.logit || (raw[i] == out.logit && i < token);
        out.rank = 1 + (int)block_sum(s, num);
        out.max = raw[raw_best];
        out.sum_exp = sum_exp<THREADS>(s, raw, n, out.max);
    }
    if (threadIdx.x == 0) a.out[blockIdx.x] = out;
    int64_t at = (int64_t)blockIdx.x * QR_MAX_TOP;
    if (d.num_top > 0)
        write_top(s, d.edited_top ? x : raw, n, d.edited_top ? best : raw_best, a.top_ids + at, a.top_logits + at);
}

void qr_cuda_sample(qr_cuda_device *dev, const qr_sample_args *args)
{
    unsigned blocks = (unsigned)args->num_draws;
    if (args->vocab_size <= 4096)
        QR_CUDA_LAUNCH(dev, sample_kernel<128>, blocks, 128, 0, *args);
    else
        QR_CUDA_LAUNCH(dev, sample_kernel<1024>, blocks, 1024, 0, *args);
}
