/* KV cache types: what is stored and how it is read back, for every instruction set, beside definitions of another kind
 * than the kernels': tables of all values instead of bits. Attention over them: test_backend_attention.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/kernels.h"

static const char *const set_names[] = {"ref", "avx2", "avx512bw", "avx512", "neon"};
enum { NUM_SETS = 5 };

static const qr_cpu_kernels *kernels_of(int set)
{
    const qr_cpu_kernels *kernels = NULL;
    return qr_cpu_kernels_select(set_names[set], &kernels, NULL) == QUIRE_OK ? kernels : NULL;
}

/* The number that a code stands for, from the format's description; int8 in units of its scale. */
static double value_of(qr_kv_dtype dtype, int code)
{
    if (dtype == QR_KV_INT8) return code < 128 ? code : code - 256;
    bool e4m3 = dtype == QR_KV_FP8_E4M3;
    int mantissa_bits = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15, magnitude = code & 127;
    int exponent = magnitude >> mantissa_bits, mantissa = magnitude & ((1 << mantissa_bits) - 1);
    double sign = code < 128 ? 1 : -1, fraction = ldexp(mantissa, -mantissa_bits);
    if (e4m3 && magnitude == 127) return NAN;
    if (!e4m3 && exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

static bool same(double a, float b) { return a == (double)b || (isnan(a) && isnan(b)); }

/* One key and value among garbage: the largest score is the key's number, the output the values'. */
static void codes_are_read(void **state)
{
    (void)state;
    enum { BS = 16, SIZE = 256 };
    static const qr_kv_dtype dtypes[] = {QR_KV_INT8, QR_KV_FP8_E4M3, QR_KV_FP8_E5M2};
    static uint8_t k[QR_ATTEND_TILE + 2 * BS], v[SIZE * BS + 2 * BS];
    static float scores[QR_ATTEND_TILE], out[SIZE];
    const float one = 1, *const q = &one;
    float max, sum;
    for (int set = 0; set < NUM_SETS; set++)
        for (int type = 0; type < 3; type++)
            for (int code = 0; code < 256; code++) {
                const qr_cpu_kernels *kernels = kernels_of(set);
                if (!kernels) continue;
                int at = code % BS;
                uint16_t d = dtypes[type] == QR_KV_INT8 ? 0x4200 : 0; /* 3 */
                memset(k, 0xFF, sizeof k);
                memset(v, 0xFF, sizeof v);
                for (int i = 0; i < SIZE; i++) v[at * SIZE + i] = (uint8_t)i;
                k[at] = (uint8_t)code;
                ((uint16_t *)(k + BS))[at] = ((uint16_t *)(v + SIZE * BS))[at] = d;
                qr_attend_tile tile = {.dtype = dtypes[type],
                                       .block_size = BS,
                                       .head_size = 1,
                                       .padded = SIZE,
                                       .scale = 1,
                                       .num_rows = 1,
                                       .q = &q,
                                       .first = {at},
                                       .end = {at + 1},
                                       .scores = scores,
                                       .max = &max,
                                       .sum = &sum,
                                       .out = out};
                for (int b = 0; b < QR_ATTEND_TILE / BS; b++)
                    tile.k[b] = tile.next_k[b] = k, tile.v[b] = tile.next_v[b] = v;
                kernels->attend(&tile);
                double key = value_of(dtypes[type], code), factor = d ? 3 : 1;
                if (isinf(key)) continue; /* never stored */
                if (isnan(key)) {         /* has no largest score, but does not get lost */
                    assert_true(isnan(sum) && isnan(out[0]));
                    continue;
                }
                assert_true(same(factor * key, max));
                for (int i = 0; i < SIZE; i++) assert_true(same(factor * value_of(dtypes[type], i), out[i]));
            }
}

/* To the nearest value by search; what is halfway to the even code; beyond the largest to the largest. */
static uint8_t nearest_code(qr_kv_dtype dtype, float x)
{
    if (isnan(x)) return 0x7F;
    int best = 0, last = dtype == QR_KV_FP8_E4M3 ? 0x7E : 0x7B;
    double size = fabs((double)x);
    if (size > value_of(dtype, last)) best = last;
    for (int code = 0; code <= last && best != last; code++) {
        double error = fabs(value_of(dtype, code) - size), least = fabs(value_of(dtype, best) - size);
        if (error < least || (error == least && code % 2 == 0)) best = code;
    }
    return (uint8_t)(signbit(x) ? best | 0x80 : best);
}

static void fp8_is_rounded(void **state)
{
    (void)state;
    static const float special[] = {0,        1e-30f,  447.9f,   448,      463.99f,         464,      465, 480,
                                    57344,    61439,   61440,    65504,    1e30f,           INFINITY, NAN, 0x1p-9f,
                                    0x1p-10f, 0x1p-7f, 0x1p-16f, 0x1p-17f, 0x1.000002p-17f, 0x1p-149f};
    enum { NUM_SPECIAL = sizeof special / sizeof *special, NUM = 2 * NUM_SPECIAL + 127 * 2 * 3 };
    for (qr_kv_dtype dtype = QR_KV_FP8_E4M3; dtype <= QR_KV_FP8_E5M2; dtype++) {
        float x[NUM];
        int n = 0;
        for (int i = 0; i < NUM_SPECIAL; i++) x[n++] = special[i], x[n++] = -special[i];
        for (int code = 0; code < 127; code++) { /* halfway between neighbours and beside it */
            double middle = (value_of(dtype, code) + value_of(dtype, code + 1)) / 2;
            if (!isfinite(middle)) middle = 1;
            for (int sign = -1; sign <= 1; sign += 2) {
                x[n++] = (float)sign * (float)middle;
                x[n++] = (float)sign * nextafterf((float)middle, 0);
                x[n++] = (float)sign * nextafterf((float)middle, INFINITY);
            }
        }
        assert_int_equal(n, NUM);
        for (int set = 0; set < NUM_SETS; set++) {
            const qr_cpu_kernels *kernels = kernels_of(set);
            if (!kernels) continue;
            for (int at = 0; at < NUM; at += 23) { /* rows with and without whole vectors */
                uint8_t codes[64];
                int size = NUM - at < 61 ? NUM - at : 61;
                assert_int_equal(kernels->kv_row(dtype, x + at, size, codes), 0);
                for (int i = 0; i < size; i++) {
                    uint8_t expected = nearest_code(dtype, x[at + i]);
                    if (codes[i] != expected)
                        fail_msg("%s, type %d: %a is stored as %02x, not %02x", set_names[set], (int)dtype,
                                 (double)x[at + i], codes[i], expected);
                }
            }
        }
    }
}

static void int8_has_a_scale_per_row(void **state)
{
    (void)state;
    static const float largest[] = {1, 0.3f, 127, 1e-3f, 1e-5f, 1e-12f, 65504, 8e6f, 3.3f};
    for (int set = 0; set < NUM_SETS; set++) {
        const qr_cpu_kernels *kernels = kernels_of(set);
        if (!kernels) continue;
        for (int trial = 0; trial < 9 * 40; trial++) {
            float x[80], max = largest[trial % 9];
            int8_t codes[80], again[80];
            int size = trial < 9 ? 64 : 1 + trial * 7 % 80;
            for (int i = 0; i < size; i++) x[i] = max * (float)((trial * 131 + i * i * 37 + i) % 2001 - 1000) / 1000;
            x[trial % size] = trial % 2 ? max : -max;
            uint16_t scale = kernels->kv_row(QR_KV_INT8, x, size, codes);
            double d = (double)qr_f16_to_f32(scale), below = (double)qr_f16_to_f32((uint16_t)(scale - 1));
            assert_true(d >= (double)(max / 127.0f) && below < (double)(max / 127.0f)); /* the least float16 */
            for (int i = 0; i < size; i++) {
                assert_in_range(codes[i] + 127, 0, 254);
                assert_true(fabs((double)codes[i] * d - (double)x[i]) <= d * 0.500001);
            }
            assert_int_equal(kernels_of(0)->kv_row(QR_KV_INT8, x, size, again), scale);
            assert_memory_equal(codes, again, (size_t)size);
        }
        int8_t codes[20];
        float x[20] = {0};
        assert_int_equal(kernels->kv_row(QR_KV_INT8, x, 20, codes), 0); /* zeros: scale 0 */
        for (int i = 0; i < 20; i++) assert_int_equal(codes[i], 0);
        static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 9e6f, 3e38f};
        for (int i = 0; i < 6 * 20; i++) {
            float y[20] = {1, -2, 3};
            y[i % 20] = bad[i / 20];
            uint16_t scale = kernels->kv_row(QR_KV_INT8, y, 20, codes);
            assert_int_equal(scale, 0x7E00);
        }
    }
}

/* docs/numerics.md: head_size 64, two heads, 30 layers */
static void blocks_have_the_size_that_is_documented(void **state)
{
    (void)state;
    static const size_t per_head[] = {
        [QR_KV_F32] = 256, [QR_KV_F16] = 128, [QR_KV_INT8] = 66, [QR_KV_FP8_E4M3] = 64, [QR_KV_FP8_E5M2] = 64};
    qr_backend *be;
    assert_int_equal(qr_cpu_backend_create(NULL, 1, &be, NULL), QUIRE_OK);
    for (int dtype = 0; dtype < QR_NUM_KV_DTYPES; dtype++)
        for (int block_size = 8; block_size <= 128; block_size *= 2) {
            qr_kv_config config = {30, 2, 64, block_size, 1, (qr_kv_dtype)dtype};
            assert_int_equal(be->ops->kv_block_bytes(be, &config), per_head[dtype] * 2 * 2 * 30 * (size_t)block_size);
        }
    be->ops->destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_read),
        cmocka_unit_test(fp8_is_rounded),
        cmocka_unit_test(int8_has_a_scale_per_row),
        cmocka_unit_test(blocks_have_the_size_that_is_documented),
    };
    return cmocka_run_group_tests_name("backend kv", tests, NULL, NULL);
}
