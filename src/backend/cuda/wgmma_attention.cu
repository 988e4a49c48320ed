/* wgmma_attention's kernel and launch (wgmma_attention.h). */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/mma_work.cuh"
#include "backend/cuda/wgmma_attention.h"

enum {
    STAGES = 4,
    CONSUMERS = 2, /* warp groups */
    GROUP_THREADS = 128,
    GROUP_ROWS = 64,
    CONSUMER_THREADS = GROUP_THREADS * CONSUMERS,
    THREADS = CONSUMER_THREADS + GROUP_THREADS,
    EMPTY_ARRIVALS = 4 * CONSUMERS, /* warps */
    PATTERN = 1024,                 /* bytes after which a 128-byte swizzle repeats */
    PANEL_BYTES = QR_MMA_KEYS * 128 /* V: 64 dimensions of all keys */
};

template <int HD> static constexpr int tile_bytes = QR_MMA_KEYS *HD * 2;
template <int HD>
static constexpr size_t shared_bytes = PATTERN + 2 * STAGES *tile_bytes<HD> +
                                       HD / 4 * CONSUMER_THREADS * sizeof(float2) + (4 * STAGES + 1) * sizeof(uint64_t);

/* K's and V's tiles of a stage lie in places 2 stage and 2 stage + 1 of the ring. */
typedef struct ring {
    unsigned char *tiles;
    uint64_t *full, *empty; /* per place */
    uint64_t *landed;       /* V of a tile that is not whole */
    float2 *sums;           /* [HD / 4][CONSUMER_THREADS] o of the segments so far */
} ring;

template <int HD> static __device__ __forceinline__ ring make_ring(unsigned char *shared)
{
    ring r;
    r.tiles = shared + (PATTERN - qr_shared_address(shared) % PATTERN) % PATTERN;
    r.sums = reinterpret_cast<float2 *>(r.tiles + 2 * STAGES * tile_bytes<HD>);
    r.full = reinterpret_cast<uint64_t *>(r.sums + HD / 4 * CONSUMER_THREADS);
    r.empty = r.full + 2 * STAGES;
    r.landed = r.empty + 2 * STAGES;
    return r;
}

#ifdef QR_HOPPER

/* Of a block's i-th tile, K (0) or V (1). */
static __device__ __forceinline__ int place_of(int i, int kv) { return 2 * (i % STAGES) + kv; }
static __device__ __forceinline__ unsigned parity_of(int i) { return (unsigned)(i / STAGES) & 1; }

/* ---- producer */

/* V of keys out of the block's range. */
template <int HD>
static __device__ __forceinline__ void clear_values(const qr_mma_work &w, int start, unsigned char *tile, int lane)
{
    for (int i = lane; i < tile_bytes<HD> / 16; i += 32) {
        int position = start + i * 16 % PANEL_BYTES / 128;
        if (position < w.begin || position >= w.end) reinterpret_cast<uint4 *>(tile)[i] = make_uint4(0, 0, 0, 0);
    }
}

template <int HD>
static __device__ __forceinline__ void produce(const qr_mma_attention &a, const qr_mma_work &w, const ring &r,
                                               const CUtensorMap *k_map, const CUtensorMap *v_map, int lane)
{
    const int piece = qr_piece_keys(a.block_size), pieces = QR_MMA_KEYS / piece;
    int start = w.begin / QR_MMA_KEYS * QR_MMA_KEYS;
    unsigned num_landed = 0;
    for (int i = 0; start < w.end; i++, start += QR_MMA_KEYS) {
        int position = start + lane * piece, slot = position & (a.block_size - 1);
        bool mine = lane < pieces && position < w.end && position + piece > w.begin;
        int block = mine ? w.table[position >> w.block_shift] : 0;
        unsigned bytes = (unsigned)(__popc(__ballot_sync(0xffffffffu, mine)) * piece * HD * 2);

        int k_place = place_of(i, 0), v_place = place_of(i, 1);
        unsigned char *k = r.tiles + k_place * tile_bytes<HD>, *v = r.tiles + v_place * tile_bytes<HD>;
        qr_mbarrier_wait(&r.empty[k_place], parity_of(i) ^ 1);
        if (lane == 0) qr_mbarrier_arrive_expect(&r.full[k_place], bytes);
        __syncwarp();
        if (mine) qr_tma_load(k + lane * piece * HD * 2, k_map, &r.full[k_place], slot, 0, w.kv_head, block);

        bool whole = start >= w.begin && start + QR_MMA_KEYS <= w.end;
        uint64_t *arrives = whole ? &r.full[v_place] : r.landed;
        qr_mbarrier_wait(&r.empty[v_place], parity_of(i) ^ 1);
        if (lane == 0) qr_mbarrier_arrive_expect(arrives, bytes);
        __syncwarp();
        for (int panel = 0; mine && panel < HD / 64; panel++)
            qr_tma_load(v + panel * PANEL_BYTES + lane * piece * 128, v_map, arrives, 64 * panel, slot, w.kv_head,
                        block);
        if (!whole) {
            qr_mbarrier_wait(r.landed, num_landed++ & 1);
            clear_values<HD>(w, start, v, lane);
            qr_fence_proxy_async();
            __syncwarp();
            if (lane == 0) qr_mbarrier_arrive(&r.full[v_place]);
        }
    }
}

/* ---- consumers */

static __device__ __forceinline__ void wait_full(const ring &r, int i, int kv)
{
    qr_mbarrier_wait(&r.full[place_of(i, kv)], parity_of(i));
    __syncwarp(); /* wgmma is the whole warp's */
}
static __device__ __forceinline__ void release(const ring &r, int i, int kv, int lane)
{
    __syncwarp();
    if (lane == 0) qr_mbarrier_arrive(&r.empty[place_of(i, kv)]);
}

/* The warp's 16 queries from `row` on as A, rounded to float16; zeros for rows that are not there. */
template <int HD>
static __device__ __forceinline__ void load_queries(const qr_mma_attention &a, const qr_mma_work &w, int row,
                                                    uint32_t (&q)[HD / 16][4], int lane)
{
    QR_UNROLL
    for (int half = 0; half < 2; half++) {
        int r = row + qr_mma_a_row(lane, half);
        const float *x = qr_query_row(a, w, min(r, w.end_row - 1));
        QR_UNROLL
        for (int step = 0; step < HD / 16; step++) QR_UNROLL
        for (int i = half; i < 4; i += 2) {
            float2 pair = *reinterpret_cast<const float2 *>(x + 16 * step + qr_mma_a_col(lane, i, 0));
            q[step][i] = r < w.end_row ? qr_pack_f16(pair.x, pair.y) : 0;
        }
    }
}

/* Ask for s = q K of tile i, when it is there. */
template <int HD>
static __device__ __forceinline__ void ask_scores(const ring &r, int i, uint64_t shape, unsigned k_step,
                                                  uint32_t (&q)[HD / 16][4], float (&s)[QR_KEY_COLS][4])
{
    wait_full(r, i, 0);
    unsigned tile = qr_shared_address(r.tiles + place_of(i, 0) * tile_bytes<HD>);
    qr_wgmma_hold(s);
    qr_wgmma_fence();
    QR_UNROLL
    for (int step = 0; step < HD / 16; step++)
        qr_wgmma_f16(s, q[step], qr_wgmma_at(shape, tile + (unsigned)step * k_step), step > 0);
    qr_wgmma_commit();
}

/* Ask for o += P V of tile i, when it is there. */
template <int HD>
static __device__ __forceinline__ void ask_values(const ring &r, int i, uint32_t (&p)[QR_MMA_KEYS / 16][4],
                                                  float (&o)[HD / 8][4])
{
    wait_full(r, i, 1);
    unsigned tile = qr_shared_address(r.tiles + place_of(i, 1) * tile_bytes<HD>);
    qr_wgmma_hold(o);
    qr_wgmma_hold(p);
    qr_wgmma_fence();
    QR_UNROLL
    for (int step = 0; step < QR_MMA_KEYS / 16; step++)
        qr_wgmma_f16(o, p[step], qr_wgmma_at(qr_wgmma_value_shape(), tile + (unsigned)step * qr_wgmma_value_step()),
                     true);
    qr_wgmma_commit();
}

/* A warp group's 64 rows over the tiles that some of them sees; the block's other tiles are passed on. */
template <int HD>
static __device__ __forceinline__ void consume(const qr_mma_attention &a, const qr_mma_work &w, const ring &r,
                                               int group_row, int lane)
{
    const int row = group_row + ((int)threadIdx.x % GROUP_THREADS) / 32 * 16;
    const uint64_t shape = qr_wgmma_key_shape(HD, qr_piece_keys(a.block_size));
    const unsigned k_step = qr_wgmma_key_step(qr_piece_keys(a.block_size));
    const float scale = qr_score_scale(a);
    int begin = w.end, end = w.begin, first, last; /* keys that the group sees: none yet */
    if (qr_row_range(w, group_row, GROUP_ROWS, &first, &last)) begin = qr_first_key(first, a.window), end = last + 1;
    int position[1][2];
    qr_row_positions(w, row, position, lane);
    first = 0x7fffffff, last = -1;
    qr_row_range(w, row, 16, &first, &last);
    uint32_t q[HD / 16][4];
    load_queries<HD>(a, w, row, q, lane);

    int i = 0, start = w.begin / QR_MMA_KEYS * QR_MMA_KEYS;
    auto pass = [&](int up_to) {
        for (; start < up_to; i++, start += QR_MMA_KEYS)
            for (int kv = 0; kv < 2; kv++) wait_full(r, i, kv), release(r, i, kv, lane);
    };
    pass(begin / QR_MMA_KEYS * QR_MMA_KEYS);

    float m[1][2], l[1][2];
    for (bool first_segment = true; start < end; first_segment = false) {
        qr_mma_state<HD, 1> state;
        float s[1][QR_KEY_COLS][4], shrink[1][2];
        uint32_t p[QR_MMA_KEYS / 16][4];
        int segment_end = min(end, (start / QR_MMA_SEGMENT + 1) * QR_MMA_SEGMENT);
        auto softmax = [&]() {
            bool all_seen = start + QR_MMA_KEYS - 1 <= first && start >= qr_first_key(last, a.window) && last >= 0;
            qr_softmax(state.m, state.l, shrink, s, scale, a.window, start, position, all_seen, lane);
        };
        auto pack = [&]() {
            QR_UNROLL
            for (int step = 0; step < QR_MMA_KEYS / 16; step++) qr_pack_probabilities(s[0], step, p[step]);
        };
        qr_clear_state(state);
        ask_scores<HD>(r, i, shape, k_step, q, s[0]);
        qr_wgmma_wait<0>();
        qr_wgmma_hold(s[0]);
        release(r, i, 0, lane);
        softmax();
        pack();
        for (i++, start += QR_MMA_KEYS; start < segment_end; i++, start += QR_MMA_KEYS) {
            ask_scores<HD>(r, i, shape, k_step, q, s[0]);
            ask_values<HD>(r, i - 1, p, state.o[0]);
            qr_wgmma_wait<1>();
            qr_wgmma_hold(s[0]);
            release(r, i, 0, lane);
            softmax();
            qr_wgmma_wait<0>();
            qr_wgmma_hold(state.o[0]);
            qr_wgmma_hold(p);
            release(r, i - 1, 1, lane);
            qr_shrink_output(state, shrink);
            pack();
        }
        ask_values<HD>(r, i - 1, p, state.o[0]);
        qr_wgmma_wait<0>();
        qr_wgmma_hold(state.o[0]);
        release(r, i - 1, 1, lane);
        qr_complete_sums(state.l);
        bool last_segment = start >= end;
        qr_merge_segment(a, w, row, state, m, l, first_segment, last_segment, lane, [&](int out_row, int half) {
            float2 *sum = r.sums + half * CONSUMER_THREADS + threadIdx.x;
            return qr_mma_place{sum, last_segment ? qr_out_place(a, w, out_row, lane) : sum, 2 * CONSUMER_THREADS,
                                last_segment ? 4 : 2 * CONSUMER_THREADS};
        });
    }
    pass(w.end);
}

#endif /* QR_HOPPER */

template <int HD>
__global__ void __launch_bounds__(THREADS, 1)
    wgmma_prefill_kernel(const qr_mma_attention a, int first_item, const __grid_constant__ CUtensorMap k_map,
                         const __grid_constant__ CUtensorMap v_map)
{
#ifdef QR_HOPPER
    QR_DYNAMIC_SHARED(unsigned char, shared);
    qr_mma_work w = qr_prefill_work(a, a.items[first_item + blockIdx.x], GROUP_ROWS * CONSUMERS);
    ring r = make_ring<HD>(shared);
    int thread = (int)threadIdx.x, group = thread / GROUP_THREADS, lane = thread % 32;
    if (thread == 0) {
        for (int place = 0; place < 2 * STAGES; place++) {
            qr_mbarrier_init(&r.full[place], 1);
            qr_mbarrier_init(&r.empty[place], EMPTY_ARRIVALS);
        }
        qr_mbarrier_init(r.landed, 1);
        qr_fence_mbarrier_init();
    }
    __syncthreads();
    if (group == CONSUMERS) {
        qr_fewer_registers<40>();
        if (thread < CONSUMER_THREADS + 32) produce<HD>(a, w, r, &k_map, &v_map, lane);
    } else {
        qr_more_registers<232>();
        consume<HD>(a, w, r, w.first_row + group * GROUP_ROWS, lane);
    }
#endif
}

/* ---- host */

template <int HD> static int run(const qr_mma_attention &a, int first_item, int num_items, cudaStream_t stream)
{
    const int piece = qr_piece_keys(a.block_size);
    CUtensorMap k_map, v_map;
    const qr_tma_tensor k = {a.k, HD, a.block_size, a.num_kv_heads, a.num_blocks, a.head_bytes, a.block_bytes};
    const qr_tma_tensor v = {a.v, a.block_size, HD, a.num_kv_heads, a.num_blocks, a.head_bytes, a.block_bytes};
    if (!qr_tma_describe(&k, HD, piece, &k_map) || !qr_tma_describe(&v, piece, 64, &v_map))
        return (int)cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute(wgmma_prefill_kernel<HD>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)shared_bytes<HD>);
    if (error != cudaSuccess) return (int)error;
    QR_LAUNCH(wgmma_prefill_kernel<HD>, dim3((unsigned)num_items, (unsigned)a.num_kv_heads), dim3(THREADS),
              shared_bytes<HD>, stream, a, first_item, k_map, v_map);
    return (int)cudaGetLastError();
}

int qr_wgmma_attention_run(const qr_mma_attention *args, int first_item, int num_items, void *stream)
{
    cudaStream_t s = static_cast<cudaStream_t>(stream);
    return args->head_size == 64 ? run<64>(*args, first_item, num_items, s) : run<128>(*args, first_item, num_items, s);
}
