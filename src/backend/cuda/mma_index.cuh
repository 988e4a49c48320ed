/* mma_index: where things lie for the tensor-core kernels, as functions of integers that a test checks by themselves.
 *
 *   shared tile   rows of `chunks` chunks of 16 bytes; a chunk's place within its row depends on the row (swizzle), so
 *                 that the 8 rows of one ldmatrix matrix lie in 8 different groups of banks
 *   rows          the new tokens of a request times the query heads of one KV head: row = token * group + head
 *   positions     keys of a row at position p: [p - window + 1, p], or [0, p] without a window
 *   wgmma's B     K [dims][keys] and V [keys][dims] as pages have them, the contiguous dimension being N: rows of one
 *                 piece of a page, up to 128 bytes, swizzled within themselves by TMA
 *
 * Source: swizzles as CUTLASS's, mma's fragments as in the PTX ISA (device.cuh draws them), wgmma's descriptors and the
 * canonical layouts of MN-major matrices likewise. */
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

/* ldmatrix.x4 by lane: matrix lane / 8, its row lane % 8. The matrices as A's registers, or, transposed, as those
 * of two columns of B: those below each other first. */
QR_INDEX int qr_ldmatrix_a_row(int lane) { return lane & 15; }
QR_INDEX int qr_ldmatrix_a_chunk(int lane) { return lane >> 4; }

/* Element of the 16 x 16 A that half e (0, 1) of a[i] of a lane is. */
QR_INDEX int qr_mma_a_row(int lane, int i) { return (lane >> 2) + (i & 1) * 8; }
QR_INDEX int qr_mma_a_col(int lane, int i, int e) { return (lane & 3) * 2 + e + (i >> 1) * 8; }

/* Element of the 16 x 8 result that d[i] of a lane is. */
QR_INDEX int qr_mma_d_row(int lane, int i) { return (lane >> 2) + (i >> 1) * 8; }
QR_INDEX int qr_mma_d_col(int lane, int i) { return (lane & 3) * 2 + (i & 1); }

/* Packed weights (mma_linear.h): where a lane's codes of a step of 16 columns begin in a unit of 8 steps, in bytes. */
QR_INDEX int qr_unit_offset_16bit(int step, int lane) { return step * 512 + lane * 16; }
QR_INDEX int qr_unit_offset_8bit(int step, int lane) { return step / 2 * 512 + lane * 16 + step % 2 * 8; }
QR_INDEX int qr_unit_offset_4bit(int step, int lane) { return step / 4 * 512 + lane * 16 + step % 4 * 4; }

/* First key position that a query at `position` sees. The last is its own. */
QR_INDEX int qr_first_key(int position, int window)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

QR_INDEX bool qr_sees(int position, int key, int window)
{
    return key <= position && key >= qr_first_key(position, window);
}

/* Bytes from a cache's first block to a position's. Blocks have 1 << block_shift slots. */
QR_INDEX int64_t qr_paged_offset(const int32_t *block_table, int position, int block_shift, int64_t block_bytes)
{
    return block_table[position >> block_shift] * block_bytes;
}

/* Bytes from K of a head in a block, [head_size][slots], to a dimension of a position's key. */
QR_INDEX int qr_key_offset(int dim, int position, int block_shift, int bytes)
{
    return ((dim << block_shift) + (position & ((1 << block_shift) - 1))) * bytes;
}

/* ---- wgmma_attention.h: tiles of 64 keys in shared memory, each in pieces of one page
 *
 *   K   [pieces][HD][piece]   rows of piece * 2 bytes, swizzled over as many
 *   V   [HD / 64][64][64]     rows of 128 bytes, swizzled over 128; a piece is some of the rows of each panel */

/* Keys of a piece: those of a page, 64 at most. */
QR_INDEX int qr_piece_keys(int block_size) { return block_size < 64 ? block_size : 64; }

/* wgmma's descriptor of a matrix at shared address 0 (PTX ISA, "Matrix descriptor"); row_bytes 16, 32, 64, 128:
 * swizzled over that, 16 not at all. */
QR_INDEX uint64_t qr_wgmma_shape(unsigned leading, unsigned stride, int row_bytes)
{
    unsigned mode = row_bytes == 16 ? 0 : row_bytes == 32 ? 3 : row_bytes == 64 ? 2 : 1;
    return (uint64_t)(leading >> 4 & 0x3FFF) << 16 | (uint64_t)(stride >> 4 & 0x3FFF) << 32 | (uint64_t)mode << 62;
}

/* The same at an address (below 256 KiB, as all are). */
QR_INDEX uint64_t qr_wgmma_at(uint64_t shape, unsigned address) { return shape + (address >> 4); }

/* 16 dimensions of K as B [16][64]: the next piece is the next row of keys, 8 rows further 8 dimensions. Without a
 * swizzle the ISA has the two the other way round. */
QR_INDEX uint64_t qr_wgmma_key_shape(int head_size, int piece)
{
    unsigned row = 2 * (unsigned)piece, next_piece = (unsigned)head_size * row;
    return row == 16 ? qr_wgmma_shape(8 * row, next_piece, 16) : qr_wgmma_shape(next_piece, 8 * row, (int)row);
}
/* Bytes from 16 dimensions to the next. */
QR_INDEX unsigned qr_wgmma_key_step(int piece) { return 16 * 2 * (unsigned)piece; }

/* 16 keys of V as B [16][HD]: panels of 64 dimensions, 8 rows further 8 keys. */
QR_INDEX uint64_t qr_wgmma_value_shape(void) { return qr_wgmma_shape(64 * 128, 8 * 128, 128); }
/* Bytes from 16 keys to the next. */
QR_INDEX unsigned qr_wgmma_value_step(void) { return 16 * 128; }

#endif
