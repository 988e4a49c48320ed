/* A matrix of codes to rows of a type that the kernels have (quantized.h). */
#include "model/quantized.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/shard.h"

enum { BLOCK = 32, TILE_ROWS = 16 /* that share a cache line of codes packed along the outputs */ };

static const uint8_t in_order[] = {0, 1, 2, 3, 4, 5, 6, 7};
/* AWQ puts outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight into a word, the first lowest: output i lies at awq_order[i]. */
static const uint8_t awq_order[] = {0, 4, 1, 5, 2, 6, 3, 7};

/* Codes in bytes, or several to an int32 along one of the two dimensions. */
typedef struct codes {
    const uint8_t *data;
    int64_t stride;       /* words, or bytes, of a stored row */
    const uint8_t *order; /* where in a word; NULL: bytes */
    int bits, log_lanes;
    bool pack_rows;
    uint8_t flip; /* of bytes: 0x80 for signed ones */
} codes;

/* The matrix, checked. Codes and zero points are indexed [input, output] where by_input says so, else [output, input
 * (or its group)]; so are scales. */
typedef struct matrix {
    const qr_checkpoint *ckpt;
    const qr_quantization *quant;
    const qr_tensor_view *view;
    size_t base_len; /* of view's name, up to where the others' names differ */
    int64_t rows, cols;
    bool by_input, fp8;
    codes code, zero; /* zero.data NULL: all are the middle */
    int bits, zero_offset;
    const qr_tensor_view *scales;
    int64_t scale_rows, block_rows; /* rows that share a scale */
    int64_t num_groups, group;      /* columns that share a scale */
    const uint8_t *g_idx;           /* int32 [cols] the group of each column, or NULL: k / group */
    bool one_scale;                 /* each block of 32 columns is within a group */
} matrix;

/* ---- values -------------------------------------------------------------------------------------- */

static inline uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t code_at(const codes *c, int64_t row, int64_t col)
{
    if (!c->order) return c->data[row * c->stride + col] ^ c->flip;
    const int lane = (int)(c->pack_rows ? row : col) & ((1 << c->log_lanes) - 1);
    const int64_t at = c->pack_rows ? (row >> c->log_lanes) * c->stride + col : row * c->stride + (col >> c->log_lanes);
    return load_u32(c->data + 4 * at) >> (c->bits * c->order[lane]) & ((1u << c->bits) - 1);
}

static inline uint32_t weight_code(const matrix *m, int64_t n, int64_t k)
{
    return m->by_input ? code_at(&m->code, k, n) : code_at(&m->code, n, k);
}

static float scale_at(const matrix *m, int64_t n, int64_t g)
{
    const int64_t at = m->by_input ? g * m->rows + n : n / m->block_rows * m->num_groups + g;
    float scale;
    qr_dequantize(m->scales->dtype,
                  (const uint8_t *)m->scales->data + (size_t)at * (size_t)qr_dtype_block_bytes(m->scales->dtype),
                  &scale, 1);
    return scale;
}

static int zero_at(const matrix *m, int64_t n, int64_t g)
{
    if (!m->zero.data) return 1 << (m->bits - 1);
    return (int)(m->by_input ? code_at(&m->zero, g, n) : code_at(&m->zero, n / m->block_rows, g)) + m->zero_offset;
}

static int64_t group_of(const matrix *m, int64_t k)
{
    return m->g_idx ? (int64_t)load_u32(m->g_idx + 4 * k) : k / m->group;
}

/* sign, 4 bits of exponent, 3 of mantissa: magnitude in units of 2^-10 without the shift by the exponent */
static inline int e4m3_digits(uint32_t code) { return (code & 0x78) ? 8 + (int)(code & 7) : (int)(code & 7); }
static inline int e4m3_exponent(uint32_t code) { return (code & 0x78) ? (int)(code >> 3 & 15) : 1; }

static float e4m3_value(uint32_t code)
{
    if ((code & 0x7F) == 0x7F) return NAN;
    const float mag = ldexpf((float)e4m3_digits(code), e4m3_exponent(code) - 10);
    return code & 0x80 ? -mag : mag;
}

/* ---- rows ---------------------------------------------------------------------------------------- */

/* Values of columns [k, end) of row n, one after the other. */
static void put_values(const matrix *m, int64_t n, int64_t k, int64_t end, bool half, uint8_t *out)
{
    int64_t group = -1;
    float scale = 0;
    int zero = 0;
    for (; k < end; k++) {
        const int64_t g = group_of(m, k);
        if (g != group) {
            group = g;
            scale = scale_at(m, n, g);
            zero = m->fp8 ? 0 : zero_at(m, n, g);
        }
        const uint32_t code = weight_code(m, n, k);
        const float value = scale * (m->fp8 ? e4m3_value(code) : (float)((int)code - zero));
        const uint16_t rounded = qr_f32_to_f16(value);
        memcpy(out, half ? (const void *)&rounded : &value, half ? sizeof rounded : sizeof value);
        out += half ? sizeof rounded : sizeof value;
    }
}

static void put_u16(uint8_t *out, uint16_t v) { memcpy(out, &v, sizeof v); }

/* Q4_0 {d, 16 bytes} or Q4_1 {d, m, 16 bytes} */
static void put_4bit(float scale, int zero, const uint32_t *code, bool has_min, uint8_t *out)
{
    const uint16_t d = qr_f32_to_f16(scale);
    put_u16(out, d);
    if (has_min) put_u16(out + 2, qr_f32_to_f16(-(qr_f16_to_f32(d) * (float)zero)));
    out += has_min ? 4 : 2;
    for (int i = 0; i < BLOCK / 2; i++) out[i] = (uint8_t)(code[i] | code[i + BLOCK / 2] << 4);
}

/* Q8_0 {d, 32 int8} */
static void put_int8(float scale, const uint32_t *code, uint8_t *out)
{
    put_u16(out, qr_f32_to_f16(scale));
    for (int i = 0; i < BLOCK; i++) out[2 + i] = (uint8_t)(code[i] ^ 0x80);
}

/* fp8 as Q8_0: the block's highest binade becomes 64 to 120, those below 32 to 60, 16 to 30, 8 to 15, all exactly;
 * what is smaller is rounded. */
static void put_fp8(float scale, const uint32_t *code, uint8_t *out)
{
    int top = 1;
    bool nan = false;
    for (int i = 0; i < BLOCK; i++) {
        if (e4m3_exponent(code[i]) > top) top = e4m3_exponent(code[i]);
        nan |= (code[i] & 0x7F) == 0x7F;
    }
    put_u16(out, nan ? 0x7E00 : qr_f32_to_f16(ldexpf(scale, top - 13)));
    for (int i = 0; i < BLOCK; i++) {
        const int mag = ((e4m3_digits(code[i]) << (e4m3_exponent(code[i]) + 3)) + (1 << (top - 1))) >> top;
        out[2 + i] = (uint8_t)(int8_t)(code[i] & 0x80 ? -mag : mag);
    }
}

/* A block with several scales as Q8_0. */
static void put_rounded(const float *value, uint8_t *out)
{
    float max = 0;
    for (int i = 0; i < BLOCK; i++) max = fmaxf(max, fabsf(value[i]));
    const uint16_t d = qr_f32_to_f16(max / 127);
    const float step = qr_f16_to_f32(d), inverse = step > 0 ? 1 / step : 0;
    put_u16(out, d);
    for (int i = 0; i < BLOCK; i++) out[2 + i] = (uint8_t)(int8_t)lrintf(fmaxf(-127, fminf(127, value[i] * inverse)));
}

static void put_blocks(const matrix *m, qr_dtype dtype, int64_t n, int64_t k, int64_t end, uint8_t *out)
{
    for (; k < end; k += BLOCK, out += qr_dtype_block_bytes(dtype)) {
        if (!m->one_scale) {
            float values[BLOCK];
            put_values(m, n, k, k + BLOCK, false, (uint8_t *)values);
            put_rounded(values, out);
            continue;
        }
        const int64_t g = k / m->group;
        const float scale = scale_at(m, n, g);
        uint32_t code[BLOCK];
        for (int i = 0; i < BLOCK; i++) code[i] = weight_code(m, n, k + i);
        if (m->fp8)
            put_fp8(scale, code, out);
        else if (dtype == QR_Q8_0)
            put_int8(scale, code, out);
        else
            put_4bit(scale, zero_at(m, n, g), code, dtype == QR_Q4_1, out);
    }
}

typedef struct job {
    const matrix *m;
    const qr_cut *cut;
    qr_dtype dtype;
    uint8_t *out;
    size_t row_bytes;
    int64_t num_rows;
} job;

static void put_tile(void *ctx, int tile, int thread_idx)
{
    (void)thread_idx;
    const job *j = ctx;
    const qr_range cols = j->cut->cols;
    for (int64_t i = (int64_t)tile * TILE_ROWS; i < j->num_rows && i < ((int64_t)tile + 1) * TILE_ROWS; i++) {
        int piece = 0;
        int64_t n = i;
        while (n >= j->cut->rows[piece].count) n -= j->cut->rows[piece++].count;
        n += j->cut->rows[piece].first;
        uint8_t *out = j->out + (size_t)i * j->row_bytes;
        if (qr_dtype_block_len(j->dtype) == 1)
            put_values(j->m, n, cols.first, cols.first + cols.count, j->dtype == QR_F16, out);
        else
            put_blocks(j->m, j->dtype, n, cols.first, cols.first + cols.count, out);
    }
}

static bool zeros_are_middle(const matrix *m)
{
    for (int64_t n = 0; m->zero.data && n < m->rows; n += m->block_rows)
        for (int64_t g = 0; g < m->num_groups; g++)
            if (zero_at(m, n, g) != 1 << (m->bits - 1)) return false;
    return true;
}

static qr_dtype choose_dtype(const matrix *m, const qr_cut *cut)
{
    if (cut->cols.first % BLOCK != 0 || cut->cols.count % BLOCK != 0) return QR_F16;
    if (!m->one_scale) return m->bits == 4 ? QR_Q8_0 : QR_F16;
    if (m->fp8) return QR_Q8_0;
    const bool middle = zeros_are_middle(m);
    if (m->bits == 4) return middle ? QR_Q4_0 : QR_Q4_1;
    return middle ? QR_Q8_0 : QR_F16;
}

/* ---- finding and checking the tensors ------------------------------------------------------------ */

static const qr_tensor_view *find(const matrix *m, const char *suffix)
{
    char name[1024];
    snprintf(name, sizeof name, "%.*s%s", (int)m->base_len, m->view->name, suffix);
    return qr_checkpoint_find(m->ckpt, name);
}

static quire_status need(const matrix *m, const char *suffix, const qr_tensor_view **out, quire_error *error)
{
    *out = find(m, suffix);
    if (*out) return QUIRE_OK;
    return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%.*s%s' is missing: without it '%s' cannot be dequantized",
                   qr_checkpoint_path(m->ckpt), (int)m->base_len, m->view->name, suffix, m->view->name);
}

static quire_status check(const matrix *m, const qr_tensor_view *t, qr_dtype dtype, int64_t rows, int64_t cols,
                          quire_error *error)
{
    if (t->dtype == dtype && qr_tensor_rows(t) == rows && qr_tensor_cols(t) == cols) return QUIRE_OK;
    return qr_fail(error, QUIRE_FORMAT,
                   "%s: tensor '%s' is %s %lld x %lld, expected %s %lld x %lld for a matrix of %lld x %lld; the file "
                   "and config.json's quantization_config do not fit together",
                   qr_checkpoint_path(m->ckpt), t->name, qr_dtype_name(t->dtype), (long long)qr_tensor_rows(t),
                   (long long)qr_tensor_cols(t), qr_dtype_name(dtype), (long long)rows, (long long)cols,
                   (long long)m->rows, (long long)m->cols);
}

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Codes of `bits` as a tensor [rows, cols], packed along the rows or the columns. */
static quire_status packed(const matrix *m, const qr_tensor_view *t, int64_t rows, int64_t cols, bool pack_rows,
                           codes *out, quire_error *error)
{
    const int lanes = 32 / m->bits;
    QR_TRY(check(m, t, QR_I32, pack_rows ? div_up(rows, lanes) : rows, pack_rows ? cols : div_up(cols, lanes), error));
    *out = (codes){.data = t->data,
                   .stride = qr_tensor_cols(t),
                   .order = m->quant->method == QR_QUANT_AWQ ? awq_order : in_order,
                   .bits = m->bits,
                   .log_lanes = m->bits == 4 ? 3 : 2,
                   .pack_rows = pack_rows};
    return QUIRE_OK;
}

/* 4 or 8 bits, as the length that they are packed to says, which must be the config's. */
static quire_status find_bits(matrix *m, int64_t packed_len, int64_t len, quire_error *error)
{
    m->bits = packed_len == div_up(len, 8) ? 4 : packed_len == div_up(len, 4) ? 8 : 0;
    if (m->bits && (m->quant->bits == 0 || m->quant->bits == m->bits)) return QUIRE_OK;
    return qr_fail(error, QUIRE_FORMAT,
                   "%s: tensor '%s' is %lld x %lld: not a matrix of %lld x %lld in codes of %s bits; the file and "
                   "config.json's quantization_config do not fit together",
                   qr_checkpoint_path(m->ckpt), m->view->name, (long long)qr_tensor_rows(m->view),
                   (long long)qr_tensor_cols(m->view), (long long)m->rows, (long long)m->cols,
                   m->quant->bits == 4   ? "4"
                   : m->quant->bits == 8 ? "8"
                                         : "4 or 8");
}

/* Columns of a group, from how many there are. */
static quire_status find_group(matrix *m, int64_t num_groups, quire_error *error)
{
    const int64_t size = m->quant->group_size > 0 ? m->quant->group_size : m->quant->group_size < 0 ? m->cols : 0;
    m->num_groups = num_groups;
    if (num_groups == 1 && size == 0)
        m->group = m->cols;
    else if (size > 0 && div_up(m->cols, size) == num_groups)
        m->group = size < m->cols ? size : m->cols;
    else if (m->quant->group_size == 0 && m->cols % num_groups == 0)
        m->group = m->cols / num_groups;
    else
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s' has scales for %lld groups of %lld columns, which does not fit group_size %d",
                       qr_checkpoint_path(m->ckpt), m->scales->name, (long long)num_groups, (long long)m->cols,
                       m->quant->group_size);
    return QUIRE_OK;
}

/* The group of each column, when they do not simply follow one another. */
static quire_status find_g_idx(matrix *m, const char *suffix, quire_error *error)
{
    const qr_tensor_view *t = find(m, suffix);
    if (!t) return QUIRE_OK;
    QR_TRY(check(m, t, QR_I32, 1, m->cols, error));
    if (m->quant->method == QR_QUANT_COMPRESSED && load_u32(t->data) == UINT32_MAX) return QUIRE_OK; /* unused */
    bool in_order = true;
    for (int64_t k = 0; k < m->cols; k++) {
        const uint32_t g = load_u32((const uint8_t *)t->data + 4 * k);
        if (g >= (uint64_t)m->num_groups)
            return qr_fail(error, QUIRE_FORMAT,
                           "%s: tensor '%s': column %lld is of group %d, but there are %lld groups",
                           qr_checkpoint_path(m->ckpt), t->name, (long long)k, (int)g, (long long)m->num_groups);
        in_order &= g == (uint64_t)(k / m->group);
    }
    if (!in_order) m->g_idx = t->data;
    return QUIRE_OK;
}

/* gptq: qweight [cols / 8, rows]; awq: qweight [cols, rows / 8]; both: qzeros [groups, rows / 8], scales [groups, rows]
 * (of 8 bits 4 to a word) */
static quire_status open_qweight(matrix *m, quire_error *error)
{
    const bool awq = m->quant->method == QR_QUANT_AWQ;
    if (awq)
        QR_TRY(find_bits(m, qr_tensor_cols(m->view), m->rows, error));
    else
        QR_TRY(find_bits(m, qr_tensor_rows(m->view), m->cols, error));
    m->by_input = true;
    m->block_rows = 1;
    m->zero_offset = m->quant->zero_offset;
    QR_TRY(packed(m, m->view, m->cols, m->rows, !awq, &m->code, error));
    QR_TRY(need(m, "scales", &m->scales, error));
    m->scale_rows = m->rows;
    QR_TRY(find_group(m, qr_tensor_rows(m->scales), error));
    QR_TRY(check(m, m->scales, m->scales->dtype, m->num_groups, m->rows, error));
    const qr_tensor_view *zeros;
    QR_TRY(need(m, "qzeros", &zeros, error));
    QR_TRY(packed(m, zeros, m->num_groups, m->rows, false, &m->zero, error));
    return awq ? QUIRE_OK : find_g_idx(m, "g_idx", error);
}

/* weight_scale [rows, groups], [rows], [rows, 1], [1], [] or [blocks of rows, blocks of columns] */
static quire_status find_scale(matrix *m, quire_error *error)
{
    m->scales = find(m, "weight_scale_inv");
    if (!m->scales) QR_TRY(need(m, "weight_scale", &m->scales, error));
    const qr_tensor_view *t = m->scales;
    const int block_rows = m->quant->block_rows ? m->quant->block_rows : 128,
              block_cols = m->quant->block_cols ? m->quant->block_cols : 128;
    m->scale_rows = t->num_dims < 2 ? qr_tensor_cols(t) : qr_tensor_rows(t);
    const int64_t num_groups = t->num_dims < 2 ? 1 : qr_tensor_cols(t);
    const bool blocks = m->fp8 && t->num_dims == 2 && m->scale_rows == div_up(m->rows, block_rows) &&
                        num_groups == div_up(m->cols, block_cols);
    if (blocks && (m->quant->block_rows || (m->scale_rows != m->rows && m->scale_rows * num_groups > 1))) {
        m->block_rows = block_rows;
        m->group = block_cols;
        m->num_groups = num_groups;
        return QUIRE_OK;
    }
    if (m->scale_rows != m->rows && (m->scale_rows != 1 || num_groups != 1))
        return check(m, t, t->dtype, m->rows, num_groups, error);
    m->block_rows = m->scale_rows == 1 ? m->rows : 1;
    if (num_groups > 1) return find_group(m, num_groups, error);
    m->num_groups = 1;
    m->group = m->cols;
    return QUIRE_OK;
}

/* weight [rows, cols] in bytes, weight_scale, weight_zero_point like it */
static quire_status open_bytes(matrix *m, quire_error *error)
{
    m->bits = 8;
    m->fp8 = m->view->dtype == QR_F8_E4M3;
    QR_TRY(check(m, m->view, m->view->dtype, m->rows, m->cols, error));
    QR_TRY(find_scale(m, error));
    m->code = (codes){.data = m->view->data, .stride = m->cols, .flip = m->fp8 ? 0 : 0x80};
    const qr_tensor_view *zeros = m->fp8 ? NULL : find(m, "weight_zero_point");
    if (!zeros) return QUIRE_OK;
    if (zeros->num_dims < 2)
        QR_TRY(check(m, zeros, QR_I8, 1, m->scale_rows, error));
    else
        QR_TRY(check(m, zeros, QR_I8, m->scale_rows, m->num_groups, error));
    m->zero = (codes){.data = zeros->data, .stride = m->num_groups, .flip = 0x80};
    return QUIRE_OK;
}

/* What weight_shape says must be so. */
static quire_status check_weight_shape(const matrix *m, quire_error *error)
{
    const qr_tensor_view *t = find(m, "weight_shape");
    if (!t) return QUIRE_OK;
    if (t->dtype != QR_I32) QR_TRY(check(m, t, QR_I64, 1, 2, error));
    QR_TRY(check(m, t, t->dtype, 1, 2, error));
    int64_t shape[2];
    int32_t narrow[2];
    if (t->dtype == QR_I64) {
        memcpy(shape, t->data, sizeof shape);
    } else {
        memcpy(narrow, t->data, sizeof narrow);
        shape[0] = narrow[0], shape[1] = narrow[1];
    }
    if (shape[0] == m->rows && shape[1] == m->cols) return QUIRE_OK;
    return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' says %lld x %lld, expected %lld x %lld (rows x columns)",
                   qr_checkpoint_path(m->ckpt), t->name, (long long)shape[0], (long long)shape[1], (long long)m->rows,
                   (long long)m->cols);
}

/* weight_packed [rows, cols / 8], weight_scale, weight_zero_point [rows / 8, groups] */
static quire_status open_packed(matrix *m, quire_error *error)
{
    QR_TRY(find_bits(m, qr_tensor_cols(m->view), m->cols, error));
    QR_TRY(packed(m, m->view, m->rows, m->cols, false, &m->code, error));
    QR_TRY(check_weight_shape(m, error));
    QR_TRY(find_scale(m, error));
    const qr_tensor_view *zeros = find(m, "weight_zero_point");
    if (zeros) QR_TRY(packed(m, zeros, m->scale_rows, m->num_groups, true, &m->zero, error));
    return find_g_idx(m, "weight_g_idx", error);
}

/* Products with codes must be float16s. */
static quire_status check_scales(const matrix *m, quire_error *error)
{
    const float most = 65504.0f / (m->fp8 ? 448 : m->bits == 4 ? 16 : 256);
    if (m->scales->dtype >= QR_NUM_DTYPES || qr_dtype_block_len(m->scales->dtype) != 1)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: tensor '%s' has type %s, scales must be F32, F16 or BF16",
                       qr_checkpoint_path(m->ckpt), m->scales->name, qr_dtype_name(m->scales->dtype));
    for (int64_t n = 0; n < m->rows; n += m->block_rows)
        for (int64_t g = 0; g < m->num_groups; g++) {
            const float scale = scale_at(m, n, g);
            if (!(fabsf(scale) <= most))
                return qr_fail(error, QUIRE_FORMAT,
                               "%s: tensor '%s': the scale %g of output %lld is not within +-%g: the file is damaged",
                               qr_checkpoint_path(m->ckpt), m->scales->name, (double)scale, (long long)n, (double)most);
        }
    return QUIRE_OK;
}

static quire_status open_matrix(matrix *m, quire_error *error)
{
    const char *suffix = strrchr(m->view->name, '.');
    suffix = suffix ? suffix + 1 : m->view->name;
    m->base_len = (size_t)(suffix - m->view->name);
    const qr_quant_method method = m->quant->method;
    if (method == QR_QUANT_NONE)
        return qr_fail(error, QUIRE_FORMAT,
                       "%s: tensor '%s' holds %s codes, but config.json has no quantization_config to say which",
                       qr_checkpoint_path(m->ckpt), m->view->name, qr_dtype_name(m->view->dtype));
    const bool q = strcmp(suffix, "qweight") == 0, packed_weight = strcmp(suffix, "weight_packed") == 0;
    const bool f8 = m->view->dtype == QR_F8_E4M3, i8 = m->view->dtype == QR_I8;
    if (q && m->view->dtype == QR_I32 && (method == QR_QUANT_GPTQ || method == QR_QUANT_AWQ))
        QR_TRY(open_qweight(m, error));
    else if (packed_weight && m->view->dtype == QR_I32 && method == QR_QUANT_COMPRESSED)
        QR_TRY(open_packed(m, error));
    else if (!q && !packed_weight && ((f8 && method >= QR_QUANT_FP8) || (i8 && method == QR_QUANT_COMPRESSED)))
        QR_TRY(open_bytes(m, error));
    else {
        char text[80];
        qr_quantization_describe(m->quant, text, sizeof text);
        return qr_fail(error, QUIRE_FORMAT, "%s: tensor '%s' holds %s codes, which is not how %s stores weights",
                       qr_checkpoint_path(m->ckpt), m->view->name, qr_dtype_name(m->view->dtype), text);
    }
    return check_scales(m, error);
}

quire_status qr_quantized_read(const qr_checkpoint *ckpt, const qr_quantization *q, const qr_tensor_view *view,
                               int64_t rows, int64_t cols, const qr_cut *cut, bool exact, qr_pool *pool,
                               qr_tensor_view *out, quire_error *error)
{
    matrix m = {.ckpt = ckpt, .quant = q, .view = view, .rows = rows, .cols = cols};
    QR_TRY(open_matrix(&m, error));
    m.one_scale = !m.g_idx && (m.num_groups == 1 || m.group % BLOCK == 0);
    *out = (qr_tensor_view){.name = view->name,
                            .dtype = exact ? QR_F32 : choose_dtype(&m, cut),
                            .num_dims = 2,
                            .dims = {cut->cols.count, qr_cut_rows(cut), 1, 1}};
    job j = {.m = &m, .cut = cut, .dtype = out->dtype, .row_bytes = qr_tensor_row_bytes(out)};
    j.num_rows = qr_tensor_rows(out);
    out->bytes = j.row_bytes * (size_t)j.num_rows;
    out->data = j.out = qr_malloc(out->bytes);
    if (!j.out) return qr_fail_nomem(error, view->name, out->bytes);
    qr_pool_run(pool, put_tile, &j, (int)div_up(j.num_rows, TILE_ROWS));
    return QUIRE_OK;
}
