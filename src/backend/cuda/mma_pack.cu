/* Weights as in a checkpoint to the units of mma_linear.h, on the device. */
#include <assert.h>

#include "backend/cuda/dequant.cuh"
#include "backend/cuda/mma_unit.cuh"

/* A matrix as in a checkpoint. */
typedef struct source {
    const uint8_t *rows;
    size_t row_bytes;
    int64_t num_rows, num_cols;
} source;

static constexpr int dtype_bytes[] = {
#define XX(name, ggml_id, block_len, block_bytes) block_bytes,
    QR_DTYPE_MAP(XX)
#undef XX
};
template <int dtype> static constexpr int block_bytes = dtype_bytes[dtype];

/* Code of a low-bit value as packed, bits of a 16-bit one; what is past the matrix is 0, whatever its scale. */
template <int dtype, int FORMAT> static __device__ uint32_t code_at(const source &s, int64_t row, int64_t col)
{
    bool is_there = row < s.num_rows && col < s.num_cols;
    const uint8_t *p = s.rows + row * s.row_bytes;
    if (qr_unit<FORMAT>::bits == 16) return is_there ? p[2 * col] | (uint32_t)p[2 * col + 1] << 8 : 0;
    int64_t group = col / 32;
    p += (qr_format<dtype>::super ? group / 8 : group) * block_bytes<dtype>;
    int code = is_there ? qr_code<dtype>(p, (int)(group % 8), (int)(col % 32)) : 0;
    return (uint32_t)(code + qr_unit<FORMAT>::zero);
}

/* Step and lane of the thread: its part of the codes. */
template <int dtype, int FORMAT>
static __device__ void pack_codes(const source &s, int64_t first_row, int64_t first_col, uint8_t *unit)
{
    constexpr int bits = qr_unit<FORMAT>::bits;
    int step = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    uint32_t words[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++)
        for (int e = 0; e < 2; e++) {
            uint32_t code = code_at<dtype, FORMAT>(s, first_row + qr_mma_a_row(lane, i),
                                                   first_col + 16 * step + qr_mma_a_col(lane, i, e));
            if (bits == 16)
                words[i] |= code << (16 * e);
            else if (bits == 8)
                words[i / 2] |= code << (16 * (i % 2) + 8 * e);
            else
                words[0] |= code << (4 * i + 16 * e);
        }
    int offset = bits == 16  ? qr_unit_offset_16bit(step, lane)
                 : bits == 8 ? qr_unit_offset_8bit(step, lane)
                             : qr_unit_offset_4bit(step, lane);
    uint32_t *to = reinterpret_cast<uint32_t *>(unit + offset);
    for (int i = 0; i < bits / 4; i++) to[i] = words[i];
}

static __device__ uint16_t load_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

/* Scales of one row and group of 32 columns. */
template <int dtype, int FORMAT>
static __device__ void pack_scales(const source &s, int64_t first_row, int64_t first_col, int row, int group,
                                   uint8_t *unit)
{
    uint8_t *scales = unit + qr_unit<FORMAT>::code_bytes;
    uint16_t *d = reinterpret_cast<uint16_t *>(scales);
    bool is_there = first_row + row < s.num_rows && first_col + 32 * group < s.num_cols;
    int64_t at = first_col / 32 + group, block = qr_format<dtype>::super ? at / 8 : at;
    const uint8_t *p = s.rows + (is_there ? (first_row + row) * s.row_bytes + block * block_bytes<dtype> : 0);
    int j = (int)(at % 8), scale = 0, min = 0;
    if (FORMAT == QR_MMA_Q4_SUPER) {
        if (is_there) qr_scale_min_k4(p + 4, j, &scale, &min);
        if (group == 0) d[row] = is_there ? load_u16(p) : 0, d[16 + row] = is_there ? load_u16(p + 2) : 0;
        scales[64 + 16 * group + row] = (uint8_t)scale;
        scales[128 + 16 * group + row] = (uint8_t)min;
    } else if (FORMAT == QR_MMA_Q8_SUPER) {
        if (group == 0) d[row] = is_there ? load_u16(p + 208) : 0;
        for (int half = 0; half < 2; half++)
            scales[32 + 16 * (2 * group + half) + row] = is_there ? p[192 + 2 * j + half] : 0;
    } else {
        d[16 * group + row] = is_there ? load_u16(p) : 0;
        if (FORMAT == QR_MMA_Q4_MIN) d[64 + 16 * group + row] = is_there ? load_u16(p + 2) : 0;
    }
}

template <int dtype, int FORMAT>
static __global__ void __launch_bounds__(32 * QR_UNIT_STEPS) pack_kernel(source s, int num_units, uint8_t *data)
{
    int64_t first_row = (int64_t)blockIdx.y * QR_UNIT_ROWS, first_col = (int64_t)blockIdx.x * QR_UNIT_COLS;
    uint8_t *unit = data + ((int64_t)blockIdx.y * num_units + blockIdx.x) * qr_unit<FORMAT>::bytes;
    pack_codes<dtype, FORMAT>(s, first_row, first_col, unit);
    if (qr_unit<FORMAT>::bits < 16 && threadIdx.x < 64)
        pack_scales<dtype, FORMAT>(s, first_row, first_col, (int)threadIdx.x % 16, (int)threadIdx.x / 16, unit);
}

#define FORMATS(XX) \
    XX(BF16, BF16)  \
    XX(F16, F16) XX(Q4_0, Q4) XX(Q4_1, Q4_MIN) XX(Q4_K, Q4_SUPER) XX(Q5_0, Q8) XX(Q8_0, Q8) XX(Q6_K, Q8_SUPER)

int qr_mma_weight_pack(const qr_mma_weight *w, const void *rows, size_t row_bytes, void *stream)
{
    source s = {static_cast<const uint8_t *>(rows), row_bytes, w->num_rows, w->num_cols};
    cudaStream_t on = static_cast<cudaStream_t>(stream);
    const int64_t max_panels = 65528; /* a grid's y */
    for (int64_t first = 0; first < w->num_panels; first += max_panels) {
        int num_units = w->num_units;
        int64_t panels = min(w->num_panels - first, max_panels);
        uint8_t *data = w->data + (size_t)first * (size_t)num_units * w->unit_bytes;
        dim3 grid((unsigned)num_units, (unsigned)panels);
        s.rows = static_cast<const uint8_t *>(rows) + (size_t)first * QR_UNIT_ROWS * row_bytes;
        s.num_rows = w->num_rows - first * QR_UNIT_ROWS;
        switch (w->dtype) {
#define XX(type, packed)                                                                                          \
    case QR_##type:                                                                                               \
        QR_LAUNCH((pack_kernel<QR_##type, QR_MMA_##packed>), grid, dim3(32 * QR_UNIT_STEPS), 0, on, s, num_units, \
                  data);                                                                                          \
        break;
            FORMATS(XX)
#undef XX
        default: break;
        }
    }
    return (int)cudaGetLastError();
}
