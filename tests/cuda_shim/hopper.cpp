/* cuda_shim: what sm_90a adds, written from the PTX ISA and the driver API's reference, not from the kernels: mbarrier,
 * TMA, wgmma with its descriptors. Beyond what a GPU does it ends the program at barriers that are not initialised or
 * get too many arrivals, copies that nobody waits for, warps of a group at different products, products without a fence
 * before or a wait behind them, operands that change before the wait, boxes that leave their tensor. It does not see
 * missing proxy fences. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <vector>

#include "cuda.h"
#include "cuda_fp16.h"
#include "shim.h"

/* ---- shared addresses */

/* Not where a kernel would like it to begin: no more is promised than 16 bytes. */
enum { WINDOW = 1024 + 16 };

unsigned qr_shared_address(const void *p)
{
    size_t bytes;
    const unsigned char *shared = shim_shared(&bytes), *at = (const unsigned char *)p;
    if (at < shared || at > shared + bytes) shim_die("an address that is not in dynamic shared memory", "");
    return WINDOW + (unsigned)(at - shared);
}

static unsigned char *shared_at(unsigned address, unsigned count)
{
    size_t bytes;
    unsigned char *shared = shim_shared(&bytes);
    if (address < WINDOW || address + count > WINDOW + bytes) shim_die("outside of the block's shared memory", "");
    return shared + (address - WINDOW);
}

/* Chunks of 16 bytes change places within `span` bytes by the address bits from 7 on. */
static unsigned swizzle(unsigned address, unsigned span) { return address ^ (address >> 7 << 4 & (span - 1) & ~15u); }

/* ---- mbarrier */

struct barrier {
    int32_t tx; /* bytes that are missing */
    uint16_t count, pending : 15, phase : 1;
};
static_assert(sizeof(barrier) == sizeof(uint64_t), "an mbarrier is 8 bytes");

static barrier *barrier_at(uint64_t *p)
{
    barrier *b = (barrier *)p;
    if (b->count == 0xFFFF) shim_die("an mbarrier that is not initialised", "");
    return b;
}

static void end_phase(barrier *b)
{
    if (b->pending > 0 || b->tx != 0) return;
    b->phase ^= 1;
    b->pending = b->count;
}

void qr_mbarrier_init(uint64_t *p, unsigned arrivals)
{
    if (qr_shared_address(p) % 8 != 0 || arrivals == 0 || arrivals > 4096) shim_die("mbarrier.init", "");
    barrier b = {0, (uint16_t)arrivals, (uint16_t)arrivals, 0};
    memcpy(p, &b, sizeof b);
}

void qr_mbarrier_arrive_expect(uint64_t *p, unsigned bytes)
{
    barrier *b = barrier_at(p);
    if (b->pending == 0) shim_die("more arrivals at an mbarrier than it counts", "");
    b->tx += (int32_t)bytes;
    b->pending--;
    end_phase(b);
}
void qr_mbarrier_arrive(uint64_t *p)
{
    qr_mbarrier_arrive_expect(p, 0);
    shim_yield(); /* whoever waited may be faster than the rest of this thread */
}

struct phase_wait {
    barrier *b;
    unsigned parity;
};

void qr_mbarrier_wait(uint64_t *p, unsigned parity)
{
    phase_wait wait = {barrier_at(p), parity};
    shim_wait_until([](void *ctx) { return ((phase_wait *)ctx)->b->phase != ((phase_wait *)ctx)->parity; }, &wait);
}

/* ---- TMA */

enum { RANK = 4 };

/* What a CUtensorMap holds here. */
struct tensor {
    const unsigned char *address;
    uint64_t dims[RANK], strides[RANK]; /* bytes; of the first dimension that of an element */
    uint32_t box[RANK], span;
};
static_assert(sizeof(tensor) <= sizeof(CUtensorMap), "a tensor map");

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box,
                                const cuuint32_t *element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill)
{
    tensor t = {};
    if (type != CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || rank != RANK || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        (uintptr_t)map % alignof(CUtensorMap) != 0 || (uintptr_t)address % 16 != 0)
        return CUDA_ERROR_INVALID_VALUE;
    t.address = (const unsigned char *)address;
    t.strides[0] = sizeof(uint16_t);
    t.span = swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 16 : 16u << swizzle;
    for (int i = 0; i < RANK; i++) {
        t.dims[i] = dims[i];
        t.box[i] = box[i];
        if (i > 0) t.strides[i] = strides[i - 1];
        if (dims[i] == 0 || dims[i] > (uint64_t)1 << 32 || box[i] == 0 || box[i] > 256 || element_strides[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        if (i > 0 && (t.strides[i] % 16 != 0 || t.strides[i] >= (uint64_t)1 << 40 ||
                      t.strides[i] < t.strides[i - 1] * dims[i - 1] || t.strides[i] % t.strides[i - 1] != 0))
            return CUDA_ERROR_INVALID_VALUE;
    }
    uint32_t row = box[0] * sizeof(uint16_t);
    if (row % 16 != 0 || (swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && row > t.span)) return CUDA_ERROR_INVALID_VALUE;
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result)
{
    bool found = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = found ? (void *)cuTensorMapEncodeTiled : NULL;
    *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

struct load {
    tensor t;
    unsigned to;
    uint64_t *arrives;
    int64_t at[RANK];
};
static thread_local std::vector<load> loads; /* under way */

/* Rows of the box back to back, swizzled by where they come to lie. */
static void finish_load(const load &l)
{
    unsigned to = l.to, chunks = l.t.box[0] * (unsigned)sizeof(uint16_t) / 16;
    int64_t c[RANK];
    for (c[3] = l.at[3]; c[3] < l.at[3] + l.t.box[3]; c[3]++)
        for (c[2] = l.at[2]; c[2] < l.at[2] + l.t.box[2]; c[2]++)
            for (c[1] = l.at[1]; c[1] < l.at[1] + l.t.box[1]; c[1]++)
                for (unsigned i = 0; i < chunks; i++, to += 16) {
                    uint16_t values[8];
                    for (int e = 0; e < 8; e++) {
                        c[0] = l.at[0] + 8 * i + e;
                        uint64_t offset = 0;
                        for (int d = 0; d < RANK; d++) offset += (uint64_t)c[d] * l.t.strides[d];
                        memcpy(&values[e], l.t.address + offset, sizeof values[e]);
                    }
                    memcpy(shared_at(swizzle(to, l.t.span), 16), values, 16);
                }
    barrier *b = barrier_at(l.arrives);
    b->tx -= (int32_t)(to - l.to);
    end_phase(b);
}

void qr_tma_load(void *shared, const CUtensorMap *map, uint64_t *arrives, int c0, int c1, int c2, int c3)
{
    load l = {{}, qr_shared_address(shared), arrives, {c0, c1, c2, c3}};
    memcpy(&l.t, map, sizeof l.t);
    if (l.to % 128 != 0 || (l.t.span > 16 && l.to % (8 * l.t.span) != 0))
        shim_die("TMA: shared memory that is not aligned, to 128 bytes or where the swizzle repeats", "");
    for (int i = 0; i < RANK; i++)
        if (l.at[i] < 0 || (uint64_t)l.at[i] + l.t.box[i] > l.t.dims[i])
            shim_die("TMA: a box that leaves its tensor", "");
    if (l.t.span > 16 && l.t.box[0] * sizeof(uint16_t) != l.t.span)
        shim_die("TMA: a box narrower than its swizzle", "");
    barrier_at(arrives);
    if (shim_copies_at_once())
        finish_load(l);
    else
        loads.push_back(l);
}

/* The newest first: they come in any order. */
bool shim_hopper_progress(void)
{
    if (loads.empty()) return false;
    load l = loads.back();
    loads.pop_back();
    finish_load(l);
    return true;
}

/* ---- wgmma */

enum { MAX_COLUMNS = 256, GROUP_WARPS = 4 };

/* d of a warp from the first product that was asked for until the wait for the last. */
struct accumulator {
    float *d[32];
    int columns;
    std::vector<float> values[32];
};

struct product {
    accumulator *sum;
    uint64_t b;
    bool add, done;
    const uint32_t *a_at[32];
    uint32_t a[32][4];
    int group;
};

struct warp_state {
    std::vector<product> products;
    std::vector<accumulator *> sums;
    int commits;
    bool fenced;
    size_t asked;
};
static thread_local warp_state warps[32];
static thread_local std::vector<uint64_t> asked[32 / GROUP_WARPS]; /* descriptors by warp group, in order */

/* Element [k][n] of B, N-major, as a descriptor has it. */
static float element(uint64_t descriptor, int k, int n)
{
    unsigned start = (unsigned)(descriptor & 0x3FFF) << 4, leading = (unsigned)(descriptor >> 16 & 0x3FFF) << 4;
    unsigned stride = (unsigned)(descriptor >> 32 & 0x3FFF) << 4, mode = (unsigned)(descriptor >> 62), at;
    if (descriptor >> 49 & 7) shim_die("wgmma: the shim has no base offsets", "");
    if (mode == 0) { /* ((8, 1, m), (8, k)) : ((1, 8, stride), (8, leading)) */
        at = start + (unsigned)(n % 8 * 2 + k % 8 * 16) + (unsigned)(n / 8) * stride + (unsigned)(k / 8) * leading;
    } else { /* ((8, s, m), (8, k)) : ((1, 8, leading), (8 s, stride)), s chunks of 16 bytes to a span */
        unsigned span = mode == 1 ? 128 : mode == 2 ? 64 : 32, columns = span / 2;
        if (start / span % 8 != 0 || stride % (8 * span) != 0 || leading % (8 * span) != 0)
            shim_die("wgmma: a swizzle that does not begin where it repeats", "");
        at = start + (unsigned)n % columns * 2 + (unsigned)n / columns * leading + (unsigned)(k % 8) * span +
             (unsigned)(k / 8) * stride;
        at = swizzle(at, span);
    }
    uint16_t bits;
    memcpy(&bits, shared_at(at, 2), 2);
    return qr_f16_to_f32(bits);
}

/* Products summed in double precision, as those of mma; rounded once more where QUIRE_SHIM_WGMMA=rounds is set: a
 * device whose two instructions have different bits. */
static void multiply(product *p)
{
    const char *set = getenv("QUIRE_SHIM_WGMMA");
    bool rounds = set && strcmp(set, "rounds") == 0;
    int columns = p->sum->columns;
    static thread_local double b[16][MAX_COLUMNS], row_sums[MAX_COLUMNS];
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < columns; n++) b[k][n] = (double)element(p->b, k, n);
    for (int row = 0; row < 16; row++) {
        std::fill(row_sums, row_sums + columns, 0.0);
        for (int k = 0; k < 16; k++) {
            uint32_t pair = p->a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            double x = (double)qr_f16_to_f32((uint16_t)(k % 2 ? pair >> 16 : pair));
            for (int n = 0; n < columns; n++) row_sums[n] += x * b[k][n];
        }
        for (int n = 0; n < columns; n++) {
            float *d = &p->sum->values[row % 8 * 4 + n % 8 / 2][(size_t)(n / 8 * 4 + row / 8 * 2 + n % 2)];
            *d = (float)((p->add ? (double)*d : 0.0) + (rounds ? (double)(float)row_sums[n] : row_sums[n]));
        }
    }
    p->done = true;
}

struct wgmma_in {
    float *d;
    const uint32_t *a;
    uint64_t b;
    int columns;
    bool add;
};

static wgmma_in given(const shim_slots *s, int lane)
{
    wgmma_in in;
    memcpy(&in, s->in[lane], sizeof in);
    return in;
}

static accumulator *sum_of(warp_state *w, const shim_slots *s)
{
    wgmma_in first = given(s, 0);
    for (accumulator *sum : w->sums)
        if (sum->d[0] == first.d) return sum;
    accumulator *sum = new accumulator();
    sum->columns = first.columns;
    for (int lane = 0; lane < 32; lane++) {
        float *d = sum->d[lane] = given(s, lane).d;
        sum->values[lane].assign(d, d + first.columns / 2);
        std::fill(d, d + first.columns / 2, NAN);
    }
    w->sums.push_back(sum);
    return sum;
}

static void ask(shim_slots *s)
{
    int index = shim_warp_index();
    warp_state *w = &warps[index];
    std::vector<uint64_t> &all = asked[index / GROUP_WARPS];
    wgmma_in first = given(s, 0);
    if (!w->fenced) shim_die("wgmma without a fence since the last commit", "");
    if (first.columns % 8 != 0 || first.columns > MAX_COLUMNS) shim_die("wgmma: a shape that is not there", "");
    if (w->asked == all.size()) all.push_back(first.b);
    if (all[w->asked++] != first.b) shim_die("wgmma: warps of a group have different descriptors", "");
    product p = {sum_of(w, s), first.b, first.add, false, {}, {}, w->commits};
    for (int lane = 0; lane < 32; lane++) {
        wgmma_in in = given(s, lane);
        if (in.b != first.b || in.add != first.add || in.columns != first.columns)
            shim_die("wgmma: lanes of a warp differ", "");
        p.a_at[lane] = in.a;
        memcpy(p.a[lane], in.a, sizeof p.a[lane]);
    }
    if (!shim_copies_at_once()) multiply(&p);
    w->products.push_back(p);
}

void shim_wgmma(float *d, int columns, const uint32_t *a, uint64_t b, bool add)
{
    wgmma_in in = {d, a, b, columns, add};
    shim_warp("wgmma", ~0u, &in, sizeof in, ask);
}

void qr_wgmma_fence(void)
{
    shim_warp("wgmma.fence", ~0u, NULL, 0, [](shim_slots *) { warps[shim_warp_index()].fenced = true; });
}

void qr_wgmma_commit(void)
{
    shim_warp("wgmma.commit_group", ~0u, NULL, 0, [](shim_slots *) {
        warps[shim_warp_index()].commits++;
        warps[shim_warp_index()].fenced = false;
    });
}

/* Products of groups before `group`; then the sums that no other product adds to. */
static void finish_products(warp_state *w, int group)
{
    size_t count = 0;
    for (product &p : w->products) {
        if (p.group >= group) break;
        if (!p.done) multiply(&p);
        for (int lane = 0; lane < 32; lane++)
            if (memcmp(p.a_at[lane], p.a[lane], sizeof p.a[lane]) != 0)
                shim_die("wgmma: registers of A were written before the wait", "");
        count++;
    }
    w->products.erase(w->products.begin(), w->products.begin() + (ptrdiff_t)count);
    for (size_t i = w->sums.size(); i-- > 0;) {
        accumulator *sum = w->sums[i];
        bool used = false;
        for (const product &p : w->products) used |= p.sum == sum;
        if (used) continue;
        for (int lane = 0; lane < 32; lane++)
            std::copy(sum->values[lane].begin(), sum->values[lane].end(), sum->d[lane]);
        delete sum;
        w->sums.erase(w->sums.begin() + (ptrdiff_t)i);
    }
}

void shim_wgmma_wait(int pending)
{
    shim_warp("wgmma.wait_group", ~0u, &pending, sizeof pending, [](shim_slots *s) {
        int kept;
        memcpy(&kept, s->in[0], sizeof kept);
        warp_state *w = &warps[shim_warp_index()];
        finish_products(w, w->commits - kept);
    });
}

/* ---- blocks */

void shim_hopper_begin(int num_warps)
{
    for (int i = 0; i < num_warps; i++) {
        warps[i].commits = 0;
        warps[i].asked = 0;
        warps[i].fenced = false;
        asked[i / GROUP_WARPS].clear();
    }
}

void shim_hopper_end(int num_warps)
{
    if (!loads.empty()) shim_die("a block has ended before its TMA copies", "");
    for (int i = 0; i < num_warps; i++) {
        if (!warps[i].products.empty()) shim_die("wgmma that nobody has waited for", "");
        if (warps[i].asked != asked[i / GROUP_WARPS].size()) shim_die("wgmma of a part of a warp group", "");
    }
}
