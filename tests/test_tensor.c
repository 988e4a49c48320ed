/* tensor: float conversions over every half, dequantization against tests/golden/quants/ bit for bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/tensor.h"

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The definition of a half, spelled out. */
static float slow_half(uint16_t h)
{
    int sign = h >> 15, exponent = h >> 10 & 31, mantissa = h & 1023;
    float value = exponent == 31  ? (mantissa ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)mantissa, -24)
                                  : ldexpf((float)(1024 + mantissa), exponent - 25);
    return sign ? -value : value;
}

static void every_half_converts_both_ways(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = qr_f16_to_f32((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(f));
            assert_true((qr_f32_to_f16(f) & 0x7fff) > 0x7c00);
            assert_true(isnan(qr_bf16_to_f32(qr_f32_to_bf16(f))));
            continue;
        }
        assert_int_equal(bits_of(f), bits_of(slow_half((uint16_t)h)));
        assert_int_equal(qr_f32_to_f16(f), h);
    }
}

/* Halfway between two neighbours goes to the even one, a hair beside it to the nearer one. */
static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float low = slow_half((uint16_t)h);
        float high = h == 0x7bff ? 65536.0f : slow_half((uint16_t)(h + 1));
        float mid = (low + high) / 2;
        assert_int_equal(qr_f32_to_f16(mid), h & 1 ? h + 1 : h);
        assert_int_equal(qr_f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(qr_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(qr_f32_to_f16(-mid), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(qr_f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(qr_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(qr_f32_to_f16(1e-30f), 0);
}

static void bfloat16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t low = h << 16, mid = low | 0x8000;
        float f;
        memcpy(&f, &low, sizeof f);
        assert_int_equal(bits_of(qr_bf16_to_f32((uint16_t)h)), low);
        assert_int_equal(qr_f32_to_bf16(f), h);
        memcpy(&f, &mid, sizeof f);
        assert_int_equal(qr_f32_to_bf16(f), h & 1 ? h + 1 : h);
        assert_int_equal(qr_f32_to_bf16(nextafterf(f, 0)), h);
        assert_int_equal(qr_f32_to_bf16(nextafterf(f, INFINITY)), h + 1);
    }
    assert_int_equal(qr_f32_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(qr_f32_to_bf16(-INFINITY), 0xff80);
}

static void *read_golden(const char *name, const char *suffix, size_t *bytes)
{
    char path[256];
    snprintf(path, sizeof path, "tests/golden/quants/%s.%s", name, suffix);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s (run the tests in the root of the clone)", path);
    char *data = malloc(1 << 20);
    *bytes = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

static void dequantized_values_equal_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < QR_NUM_DTYPES; i++) {
        qr_dtype dtype = (qr_dtype)i;
        size_t src_bytes, want_bytes;
        char *src = read_golden(qr_dtype_name(dtype), "bin", &src_bytes);
        float *want = read_golden(qr_dtype_name(dtype), "f32", &want_bytes);
        int64_t num_values = (int64_t)(want_bytes / sizeof *want);
        assert_int_equal(num_values % qr_dtype_block_len(dtype), 0);
        assert_int_equal(num_values / qr_dtype_block_len(dtype) * qr_dtype_block_bytes(dtype), src_bytes);

        float *got = malloc(want_bytes);
        char *shifted = malloc(src_bytes + 1); /* blocks lie unaligned in files */
        memcpy(shifted + 1, src, src_bytes);
        qr_dequantize(dtype, shifted + 1, got, num_values);
        for (int64_t k = 0; k < num_values; k++)
            if (bits_of(got[k]) != bits_of(want[k]))
                fail_msg("%s: value %lld is %a, not %a", qr_dtype_name(dtype), (long long)k, got[k], want[k]);
        free(src);
        free(want);
        free(got);
        free(shifted);
    }
}

static void dtypes_are_looked_up(void **state)
{
    (void)state;
    qr_dtype dtype;
    assert_true(qr_dtype_from_ggml(30, &dtype));
    assert_int_equal(dtype, QR_BF16);
    assert_true(qr_dtype_from_ggml(14, &dtype));
    assert_string_equal(qr_dtype_name(dtype), "Q6_K");
    assert_false(qr_dtype_from_ggml(4, &dtype));
    assert_false(qr_dtype_from_ggml(UINT32_MAX, &dtype));
    qr_tensor_view t = {.dtype = QR_Q4_K, .num_dims = 2, .dims = {512, 3, 1, 1}};
    assert_int_equal(qr_tensor_row_bytes(&t), 288);
    assert_int_equal(qr_tensor_rows(&t), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_converts_both_ways),          cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(bfloat16_rounds_to_nearest_even),        cmocka_unit_test(dtypes_are_looked_up),
        cmocka_unit_test(dequantized_values_equal_the_reference),
    };
    return cmocka_run_group_tests_name("tensor", tests, NULL, NULL);
}
