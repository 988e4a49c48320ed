/* weights, GGUF: metadata and tensors of hand-made files, and what is said about damaged ones. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "weights_files.h"

static const memory_reader gguf = qr_gguf_read_memory;

/* Every type of value, then three tensors. */
static void build_sample(qr_buf *b, uint32_t version)
{
    put_header(b, version, 3, 19);
    put_meta(b, "u8", QR_META_U8, &(uint8_t){200}, 1);
    put_meta(b, "i8", QR_META_I8, &(int8_t){-5}, 1);
    put_meta(b, "u16", QR_META_U16, &(uint16_t){60000}, 2);
    put_meta(b, "i16", QR_META_I16, &(int16_t){-30000}, 2);
    put_meta(b, "u32", QR_META_U32, &(uint32_t){4000000000u}, 4);
    put_meta(b, "i32", QR_META_I32, &(int32_t){-7}, 4);
    put_meta(b, "f32", QR_META_F32, &(float){1.5f}, 4);
    put_meta(b, "yes", QR_META_BOOL, &(uint8_t){1}, 1);
    put_meta(b, "no", QR_META_BOOL, &(uint8_t){0}, 1);
    put_meta(b, "u64", QR_META_U64, &(uint64_t){1ull << 40}, 8);
    put_meta(b, "huge", QR_META_U64, &(uint64_t){UINT64_MAX}, 8);
    put_meta(b, "i64", QR_META_I64, &(int64_t){-(1ll << 40)}, 8);
    put_meta(b, "f64", QR_META_F64, &(double){-0.25}, 8);
    put_str(b, "str");
    put_u32(b, QR_META_STRING);
    put_str(b, "hello");
    put_str(b, "words");
    put_u32(b, QR_META_ARRAY);
    put_u32(b, QR_META_STRING);
    put_u64(b, 3);
    put_str(b, "one");
    put_str(b, "");
    put_str(b, "three");
    put_str(b, "ints");
    put_u32(b, QR_META_ARRAY);
    put_u32(b, QR_META_I16);
    put_u64(b, 2);
    put(b, (int16_t[]){-1, 300}, 4);
    put_str(b, "floats");
    put_u32(b, QR_META_ARRAY);
    put_u32(b, QR_META_F32);
    put_u64(b, 2);
    put(b, (float[]){0.5f, -2.0f}, 8);
    put_str(b, "empty");
    put_u32(b, QR_META_ARRAY);
    put_u32(b, QR_META_STRING);
    put_u64(b, 0);
    put_meta_u32(b, "general.alignment", 64);
    put_info(b, "a", 2, (uint64_t[]){4, 3}, 0, 0);      /* F32, 48 bytes */
    put_info(b, "b", 1, (uint64_t[]){64}, 3, 64);       /* Q4_1, 40 bytes */
    put_info(b, "c", 3, (uint64_t[]){2, 2, 2}, 1, 128); /* F16, 16 bytes */
    put_data(b, 64, 144);
}

static void check_scalars(const qr_checkpoint *ckpt)
{
    static const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"u8", 200},          {"i8", -5},  {"u16", 60000},     {"i16", -30000},
                    {"u32", 4000000000u}, {"i32", -7}, {"u64", 1ll << 40}, {"i64", -(1ll << 40)}};
    int64_t i;
    double d;
    bool flag;
    for (size_t k = 0; k < sizeof integers / sizeof *integers; k++) {
        const qr_meta *meta = qr_checkpoint_meta(ckpt, integers[k].key);
        assert_true(qr_meta_i64(meta, &i) && i == integers[k].value);
        assert_true(qr_meta_f64(meta, &d) && d == (double)i);
        assert_false(qr_meta_bool(meta, &flag));
    }
    assert_false(qr_meta_i64(qr_checkpoint_meta(ckpt, "huge"), &i));
    assert_false(qr_meta_i64(qr_checkpoint_meta(ckpt, "f32"), &i));
    assert_false(qr_meta_i64(qr_checkpoint_meta(ckpt, "yes"), &i));
    assert_true(qr_meta_f64(qr_checkpoint_meta(ckpt, "f32"), &d) && d == 1.5);
    assert_true(qr_meta_f64(qr_checkpoint_meta(ckpt, "f64"), &d) && d == -0.25);
    assert_true(qr_meta_bool(qr_checkpoint_meta(ckpt, "yes"), &flag) && flag);
    assert_true(qr_meta_bool(qr_checkpoint_meta(ckpt, "no"), &flag) && !flag);
    assert_null(qr_checkpoint_meta(ckpt, "absent"));
    assert_null(qr_checkpoint_meta_at(ckpt, 19));
    assert_string_equal(qr_meta_key(qr_checkpoint_meta_at(ckpt, 18)), "general.alignment");
}

static void check_arrays(const qr_checkpoint *ckpt)
{
    qr_string_view s;
    qr_meta_type type;
    uint64_t count;
    int64_t i;
    double d;
    assert_true(qr_meta_str(qr_checkpoint_meta(ckpt, "str"), &s));
    assert_true(s.len == 5 && memcmp(s.data, "hello", 5) == 0);

    const qr_meta *words = qr_checkpoint_meta(ckpt, "words");
    assert_true(qr_meta_array(words, &type, &count));
    assert_int_equal(type, QR_META_STRING);
    assert_int_equal(count, 3);
    assert_true(qr_meta_array_str(words, 2, &s) && s.len == 5 && memcmp(s.data, "three", 5) == 0);
    assert_true(qr_meta_array_str(words, 1, &s) && s.len == 0);
    assert_false(qr_meta_array_str(words, 3, &s));
    assert_false(qr_meta_array_i64(words, 0, &i));
    assert_false(qr_meta_str(words, &s));

    const qr_meta *ints = qr_checkpoint_meta(ckpt, "ints"), *floats = qr_checkpoint_meta(ckpt, "floats");
    assert_true(qr_meta_array_i64(ints, 0, &i) && i == -1);
    assert_true(qr_meta_array_i64(ints, 1, &i) && i == 300);
    assert_true(qr_meta_array_f64(ints, 1, &d) && d == 300);
    assert_true(qr_meta_array_f64(floats, 1, &d) && d == -2);
    assert_false(qr_meta_array_i64(floats, 1, &i));
    assert_false(qr_meta_array_f64(floats, 2, &d));
    assert_true(qr_meta_array(qr_checkpoint_meta(ckpt, "empty"), &type, &count) && count == 0);
}

static void metadata_and_tensors_are_read(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        qr_buf b = {0};
        quire_error error = {0};
        qr_checkpoint *ckpt;
        char *copy;
        build_sample(&b, version);
        if (open_memory(gguf, b.data, b.len, &copy, &ckpt, &error) != QUIRE_OK) fail_msg("%s", error.message);
        assert_true(qr_checkpoint_is_gguf(ckpt));
        check_scalars(ckpt);
        check_arrays(ckpt);

        assert_int_equal(qr_checkpoint_num_tensors(ckpt), 3);
        const qr_tensor_view *t = qr_checkpoint_find(ckpt, "b");
        assert_ptr_equal(t, qr_checkpoint_tensor(ckpt, 1));
        assert_int_equal(t->dtype, QR_Q4_1);
        assert_int_equal(t->bytes, 40);
        assert_int_equal(*(const uint8_t *)t->data, 64);
        t = qr_checkpoint_find(ckpt, "c");
        assert_int_equal(t->num_dims, 3);
        assert_int_equal(qr_tensor_cols(t), 2);
        assert_int_equal(qr_tensor_rows(t), 4);
        assert_null(qr_checkpoint_find(ckpt, "d"));
        assert_null(qr_checkpoint_tensor(ckpt, 3));

        const json_t *json;
        assert_int_equal(qr_checkpoint_json(ckpt, "config.json", &json, &error), QUIRE_OK);
        assert_null(json);
        qr_checkpoint_close(ckpt);
        free(copy);
        qr_free(b.data);
    }
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    qr_buf b = {0};
    quire_error error;
    build_sample(&b, 3);
    for (size_t bytes = 0; bytes < b.len; bytes++) {
        error.message[0] = '\0';
        if (try_memory(gguf, b.data, bytes, &error) != QUIRE_FORMAT)
            fail_msg("opened with %zu of %zu bytes", bytes, b.len);
        assert_non_null(strstr(error.message, "test: "));
    }
    qr_free(b.data);
}

/* Whatever a byte becomes: an error or a file that can be read to the end, never a crash. */
static void every_changed_byte_is_survived(void **state)
{
    (void)state;
    static const uint8_t values[] = {0, 1, 8, 9, 0x7f, 0x80, 0xff};
    qr_buf b = {0};
    build_sample(&b, 3);
    for (size_t i = 0; i < b.len; i++) {
        char old = b.data[i];
        for (size_t k = 0; k < sizeof values; k++) {
            b.data[i] = (char)values[k];
            quire_status status = try_memory(gguf, b.data, b.len, NULL);
            assert_true(status == QUIRE_OK || status == QUIRE_FORMAT || status == QUIRE_UNSUPPORTED);
        }
        b.data[i] = old;
    }
    qr_free(b.data);
}

/* One tensor in an otherwise good file. */
static void expect_bad_tensor(uint32_t num_dims, const uint64_t *dims, uint32_t type, uint64_t offset,
                              quire_status status, const char *text)
{
    qr_buf b = {0};
    put_header(&b, 3, 1, 0);
    put_info(&b, "blk.0.attn_q.weight", num_dims, dims, type, offset);
    put_data(&b, 32, 4096);
    expect_failure(gguf, &b, status, text);
    expect_failure(gguf, &b, status, "blk.0.attn_q.weight");
    qr_free(b.data);
}

static void bad_tensors_are_named(void **state)
{
    (void)state;
    const uint64_t big = 1ull << 62;
    expect_bad_tensor(1, (uint64_t[]){64}, 23, 0, QUIRE_UNSUPPORTED, "IQ4_XS (23)");
    expect_bad_tensor(1, (uint64_t[]){64}, 4, 0, QUIRE_UNSUPPORTED, "unknown (4)");
    expect_bad_tensor(1, (uint64_t[]){64}, UINT32_MAX, 0, QUIRE_UNSUPPORTED, "unknown");
    expect_bad_tensor(5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, QUIRE_FORMAT, "5 dimensions");
    expect_bad_tensor(2, (uint64_t[]){64, 0}, 0, 0, QUIRE_FORMAT, "64 x 0 x 1");
    expect_bad_tensor(2, (uint64_t[]){1ull << 63, 1}, 0, 0, QUIRE_FORMAT, "-1 x 1");
    expect_bad_tensor(3, (uint64_t[]){big, big, big}, 0, 0, QUIRE_FORMAT, "dimensions");
    expect_bad_tensor(2, (uint64_t[]){big, 2}, 0, 0, QUIRE_FORMAT, "dimensions");
    expect_bad_tensor(1, (uint64_t[]){big}, 0, 0, QUIRE_FORMAT, "dimensions");
    expect_bad_tensor(1, (uint64_t[]){48}, 3, 0, QUIRE_FORMAT, "blocks of 32");
    expect_bad_tensor(1, (uint64_t[]){2048}, 0, 0, QUIRE_FORMAT, "8192 bytes at offset 0");
    expect_bad_tensor(1, (uint64_t[]){64}, 0, 4096, QUIRE_FORMAT, "256 bytes at offset 4096");
    expect_bad_tensor(1, (uint64_t[]){64}, 0, UINT64_MAX - 31, QUIRE_FORMAT, "offset 18446744073709551584");
    expect_bad_tensor(1, (uint64_t[]){64}, 0, 16, QUIRE_FORMAT, "not a multiple of 32");
}

static void bad_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *magic;
        uint32_t version;
        uint64_t num_tensors, num_meta;
        quire_status status;
        const char *text;
    } cases[] = {
        {"GGML", 3, 0, 0, QUIRE_FORMAT, "not a GGUF file"},
        {"GGUF", 1, 0, 0, QUIRE_UNSUPPORTED, "version 1"},
        {"GGUF", 4, 0, 0, QUIRE_UNSUPPORTED, "version 4"},
        {"GGUF", 3u << 24, 0, 0, QUIRE_UNSUPPORTED, "big-endian"},
        {"GGUF", 3, UINT64_MAX, 0, QUIRE_FORMAT, "18446744073709551615 tensors"},
        {"GGUF", 3, 1, 0, QUIRE_FORMAT, "1 tensors"},
        {"GGUF", 3, 0, UINT64_MAX, QUIRE_FORMAT, "18446744073709551615 metadata"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_buf b = {0};
        put(&b, cases[i].magic, 4);
        put_u32(&b, cases[i].version);
        put_u64(&b, cases[i].num_tensors);
        put_u64(&b, cases[i].num_meta);
        expect_failure(gguf, &b, cases[i].status, cases[i].text);
        qr_free(b.data);
    }
}

static void expect_bad_meta(const qr_buf *value, uint32_t type, const char *text)
{
    qr_buf b = {0};
    put_header(&b, 3, 0, 1);
    put_str(&b, "some.key");
    put_u32(&b, type);
    put(&b, value->data, value->len);
    expect_failure(gguf, &b, strstr(text, "arrays of") ? QUIRE_UNSUPPORTED : QUIRE_FORMAT, text);
    expect_failure(gguf, &b, strstr(text, "arrays of") ? QUIRE_UNSUPPORTED : QUIRE_FORMAT, "some.key");
    qr_free(b.data);
}

static void bad_metadata_is_named(void **state)
{
    (void)state;
    qr_buf v = {0};
    put_u64(&v, UINT64_MAX); /* a string that would wrap around */
    expect_bad_meta(&v, QR_META_STRING, "18446744073709551615 bytes");
    expect_bad_meta(&v, 13, "value type 13");
    static const struct {
        uint32_t elem_type;
        uint64_t count;
        const char *text;
    } arrays[] = {{QR_META_F32, 1ull << 62, "cannot fit"},    {QR_META_F64, 3, "cannot fit"},
                  {QR_META_STRING, 1ull << 61, "cannot fit"}, {QR_META_STRING, 2, "is truncated or damaged"},
                  {QR_META_ARRAY, 1, "arrays of arrays"},     {77, 1, "element type 77"}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        v.len = 0;
        put_u32(&v, arrays[i].elem_type);
        put_u64(&v, arrays[i].count);
        put_u64(&v, 1ull << 63);
        put_u64(&v, 0);
        expect_bad_meta(&v, QR_META_ARRAY, arrays[i].text);
    }
    qr_free(v.data);
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *text;
        size_t bytes;
    } keys[] = {{"", "empty", 0}, {"a\0b", "NUL", 3}};
    for (size_t i = 0; i < 2; i++) {
        qr_buf b = {0};
        put_header(&b, 3, 0, 1);
        put_u64(&b, keys[i].bytes);
        put(&b, keys[i].key, keys[i].bytes);
        put_u32(&b, QR_META_U32);
        put_u64(&b, 7);
        expect_failure(gguf, &b, QUIRE_FORMAT, keys[i].text);
        qr_free(b.data);
    }

    qr_buf b = {0};
    put_header(&b, 3, 0, 2);
    put_meta_u32(&b, "twice\033[31m", 1);
    put_meta_u32(&b, "twice\033[31m", 2);
    expect_failure(gguf, &b, QUIRE_FORMAT, "'twice?[31m' occurs twice"); /* no control characters in messages */

    b.len = 0;
    put_header(&b, 3, 2, 0);
    put_info(&b, "same", 1, (uint64_t[]){4}, 0, 0);
    put_info(&b, "same", 1, (uint64_t[]){4}, 0, 32);
    put_data(&b, 32, 64);
    expect_failure(gguf, &b, QUIRE_FORMAT, "tensor 'same' occurs twice");

    b.len = 0;
    put_header(&b, 3, 1, 0);
    put_info(&b, "", 1, (uint64_t[]){4}, 0, 0);
    put_data(&b, 32, 64);
    expect_failure(gguf, &b, QUIRE_FORMAT, "empty");

    static const uint32_t alignments[] = {0, 3, 48, 1u << 31};
    for (size_t i = 0; i < 4; i++) {
        b.len = 0;
        put_header(&b, 3, 0, 1);
        put_meta_u32(&b, "general.alignment", alignments[i]);
        expect_failure(gguf, &b, QUIRE_FORMAT, "general.alignment");
    }
    qr_free(b.data);
}

static void a_vocabulary_alone_is_fine(void **state)
{
    (void)state;
    qr_buf b = {0};
    put_header(&b, 3, 0, 1);
    put_meta_u32(&b, "k", 1);
    assert_int_equal(try_memory(gguf, b.data, b.len, NULL), QUIRE_OK);
    qr_free(b.data);
}

/* Every allocation of an opening fails in turn; then it succeeds. */
static void failed_allocations_are_reported(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    qr_buf b = {0};
    build_sample(&b, 3);
    temp_write(&dir, "m.gguf", b.data, b.len);
    quire_status status = QUIRE_NOMEM;
    for (uint64_t n = 0; status == QUIRE_NOMEM; n++) {
        qr_checkpoint *ckpt = NULL;
        quire_error error = {0};
        qr_mem_fail_after(n);
        status = qr_checkpoint_open(temp_path(&dir, "m.gguf"), &ckpt, &error);
        qr_mem_fail_off();
        if (status == QUIRE_NOMEM)
            assert_non_null(strstr(error.message, "out of memory"));
        else
            assert_true(n > 20);
        qr_checkpoint_close(ckpt);
    }
    assert_int_equal(status, QUIRE_OK);
    temp_dir_remove(&dir);
    qr_free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata_and_tensors_are_read),   cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_changed_byte_is_survived),  cmocka_unit_test(bad_tensors_are_named),
        cmocka_unit_test(bad_headers_are_refused),         cmocka_unit_test(bad_metadata_is_named),
        cmocka_unit_test(bad_names_are_refused),           cmocka_unit_test(a_vocabulary_alone_is_fine),
        cmocka_unit_test(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests_name("weights_gguf", tests, NULL, NULL);
}
