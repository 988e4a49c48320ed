/* mma_index: where things lie for the tensor-core kernels, as functions of integers that a test checks by themselves.
 *
 *   shared tile   rows of `chunks` chunks of 16 bytes; a chunk's place within its row depends on the row (swizzle), so
 *                 that the 8 rows of one ldmatrix matrix lie in 8 different groups of banks
 *   rows          the new tokens of a request times the query heads of one KV head: row = token * group + head
 *   positions     keys of a row at position p: [p - window + 1, p], or [0, p] without a window
 *
 * Source: swizzles as CUTLASS's, mma's fragments as in the PTX ISA (device.cuh draws them). */
#ifndef QR_BACKEND_CUDA_MMA_INDEX_CUH
#define QR_BACKEND_CUDA_MMA_INDEX_CUH

#include <stdint.h>

#include "backend/cuda/device.cuh"

#define QR_INDEX static __host__ __device__ __forceinline__

/* Chunk (16 bytes) of a shared tile that holds `chunk` of `row`. chunks: per row, a multiple of 4. */
QR_INDEX int qr_swizzle(int row, int chunk, int chunks)
{
    return row * chunks + (chunks % 8 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3));
}

/* ldmatrix.x4 by lane: matrix lane / 8, its row lane % 8. The matrices in the order of A's registers (rows below each
 * other first), or of two columns of B's (the halves of k first). */
QR_INDEX int qr_ldmatrix_a_row(int lane) { return lane & 15; }
QR_INDEX int qr_ldmatrix_a_chunk(int lane) { return lane >> 4; }
QR_INDEX int qr_ldmatrix_b_row(int lane) { return (lane >> 4) * 8 + (lane & 7); }
QR_INDEX int qr_ldmatrix_b_chunk(int lane) { return lane >> 3 & 1; }

/* Element of the 16 x 8 result that d[i] of a lane is. */
QR_INDEX int qr_mma_d_row(int lane, int i) { return (lane >> 2) + (i >> 1) * 8; }
QR_INDEX int qr_mma_d_col(int lane, int i) { return (lane & 3) * 2 + (i & 1); }

/* First key position that a query at `position` sees. The last is its own. */
QR_INDEX int qr_first_key(int position, int window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

QR_INDEX bool qr_sees(int position, int key, int window)
{
    return key <= position && key >= qr_first_key(position, window);
}

/* Bytes from a cache's first block to a token's row of one head. */
QR_INDEX int64_t qr_paged_offset(const int32_t *block_table, int position, int block_size, int64_t block_bytes,
                                 int row_bytes)
{
    return block_table[position / block_size] * block_bytes + (int64_t)(position % block_size) * row_bytes;
}

#endif
