/* Whether wgmma rounds as mma.sync does on this device: both prefill kernels on the same random values. */
#include <math.h>
#include <stdlib.h>

#include "backend/cuda/device.cuh"
#include "backend/cuda/wgmma_attention.h"

/* One request: two blocks of rows, the second not full; two segments, the last tile not full. */
enum { TOKENS = 70, GROUP = 2, CONTEXT = 600, BLOCK_SIZE = 16, NUM_BLOCKS = (CONTEXT + BLOCK_SIZE - 1) / BLOCK_SIZE };

/* Integers first; what follows is 16-byte aligned. */
typedef struct check_case {
    int32_t query_start_loc[4], seq_lens[4], block_table[NUM_BLOCKS + 4 - NUM_BLOCKS % 4];
    qr_mma_item items[2];
} check_case;

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
    return *state;
}

/* q float32 and K, V float16 with all bits of their mantissas, of magnitudes 1/8 .. 2. */
static void fill_case(check_case *c, float *q, int num_q, uint16_t *kv, int num_kv)
{
    uint32_t state = 0x9E3779B9u;
    c->query_start_loc[1] = TOKENS;
    c->seq_lens[0] = CONTEXT;
    for (int i = 0; i < NUM_BLOCKS; i++) c->block_table[i] = (i * 7 + 3) % NUM_BLOCKS; /* 38 and 7: every block once */
    c->items[1].idx = 1;
    for (int i = 0; i < num_q; i++)
        q[i] = ldexpf((float)(int32_t)next_random(&state), -30 - (int)(next_random(&state) % 4));
    for (int i = 0; i < num_kv; i++) {
        uint32_t x = next_random(&state);
        kv[i] = (uint16_t)((x & 0x83FF) | (12 + (x >> 16) % 4) << 10);
    }
}

/* Both kernels on the case at `device`; their results, one behind the other, to `out`. */
static bool run_both(int head_size, void *device, int num_q, size_t head_bytes, float *out, cudaStream_t stream)
{
    check_case *c = static_cast<check_case *>(device);
    float *q = reinterpret_cast<float *>(c + 1), *results = q + num_q;
    const qr_mma_plan plan = {0, 0, 2, 0};
    qr_mma_attention a = {};
    a.q = q, a.ld_q = GROUP * head_size;
    a.num_heads = GROUP, a.num_kv_heads = 1, a.head_size = head_size;
    a.scale = 1 / sqrtf((float)head_size);
    a.k = reinterpret_cast<const uint8_t *>(results + 2 * num_q), a.v = a.k + head_bytes;
    a.block_bytes = (int64_t)(2 * head_bytes), a.head_bytes = (int64_t)head_bytes;
    a.dtype = QR_KV_F16, a.block_size = BLOCK_SIZE, a.num_blocks = NUM_BLOCKS;
    a.query_start_loc = c->query_start_loc, a.seq_lens = c->seq_lens;
    a.block_table = c->block_table, a.max_blocks = NUM_BLOCKS;
    a.items = c->items;
    for (int i = 0; i < 2; i++) {
        a.wgmma = i == 1;
        a.out = results + i * num_q;
        if (qr_mma_attention_run(&a, &plan, stream) != 0) return false;
    }
    return cudaMemcpyAsync(out, results, (size_t)num_q * 8, cudaMemcpyDeviceToHost, stream) == cudaSuccess &&
           cudaStreamSynchronize(stream) == cudaSuccess;
}

static bool check_head_size(int head_size, cudaStream_t stream)
{
    const int num_q = TOKENS * GROUP * head_size, num_kv = NUM_BLOCKS * BLOCK_SIZE * head_size * 2;
    const size_t bytes = sizeof(check_case) + (size_t)num_q * 12 + (size_t)num_kv * 2;
    void *device = NULL;
    unsigned char *host = static_cast<unsigned char *>(calloc(1, bytes));
    bool same = host && cudaMalloc(&device, bytes) == cudaSuccess;
    if (same) {
        float *q = reinterpret_cast<float *>(host + sizeof(check_case)), *results = q + num_q;
        fill_case(reinterpret_cast<check_case *>(host), q, num_q, reinterpret_cast<uint16_t *>(results + 2 * num_q),
                  num_kv);
        same = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream) == cudaSuccess &&
               run_both(head_size, device, num_q, (size_t)head_size * BLOCK_SIZE * 2, results, stream);
        same = same && memcmp(results, results + num_q, (size_t)num_q * sizeof *results) == 0;
        for (int i = 0; same && i < num_q; i++) same = results[i] != 0 && isfinite(results[i]);
    }
    if (device) cudaFree(device);
    free(host);
    cudaGetLastError(); /* "it cannot run" is an answer */
    return same;
}

bool qr_wgmma_attention_check(void *stream)
{
    cudaStream_t s = static_cast<cudaStream_t>(stream);
    return check_head_size(64, s) && check_head_size(128, s);
}
