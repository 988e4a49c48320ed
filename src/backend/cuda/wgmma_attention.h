/* wgmma_attention: mma_attention.h's prefill on Hopper (sm_90a): the same pieces of work, the same order, so that where
 * wgmma rounds as mma.sync does the bits are the same.
 *
 *   producer (1 warp)           TMA: pages ──► ring of 4 tiles of K and of V in shared memory, 64 keys each
 *   consumers (2 warp groups)   64 rows each, q in registers:
 *
 *     K t+1   scores t+1 ─┐            ┌─ scores t+2
 *     V t                 └─ P V t ────┘
 *                            softmax t+1 meanwhile       while the other group multiplies, too
 *
 * A tile's full barrier says that TMA has brought it, its empty barrier that the eight warps have read it. Whole pages
 * come, so V of keys out of the block's range is overwritten with zeros in the first and last tile, before the
 * consumers see them; pages without a key in the range are not read.
 *
 * The segments' pipelines are drained between them. Source: Shah et al., FlashAttention-3 (2024). */
#ifndef QR_BACKEND_CUDA_WGMMA_ATTENTION_H
#define QR_BACKEND_CUDA_WGMMA_ATTENTION_H

#include "backend/cuda/mma_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Head sizes 64 and 128, float16. */
static inline bool qr_wgmma_attention_supported(int head_size, qr_kv_dtype dtype)
{
    return (head_size == 64 || head_size == 128) && dtype == QR_KV_F16;
}

/* Items [first_item, first_item + num_items) of a plan's prefill; the device is of capability 9.0. stream is a
 * cudaStream_t. Returns 0 or a cudaError_t. */
int qr_wgmma_attention_run(const qr_mma_attention *args, int first_item, int num_items, void *stream);

/* Whether it gives mma_attention.h's bits on the current device, by one small random case of each head size. False also
 * when it cannot run or there is no memory. Waits for the device; leaves nothing there. */
bool qr_wgmma_attention_check(void *stream);

#ifdef __cplusplus
}
#endif

#endif
