/* weights, files and folders: safetensors whole, sharded and damaged, split GGUF files, JSON and text of a folder,
 * names of pulled models. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "weights_files.h"

static const memory_reader safetensors = qr_safetensors_read_memory;

static void put_safetensors(qr_buf *b, const char *header, size_t data_bytes)
{
    put_str(b, header); /* a length of 8 bytes and the text: just what the format asks for */
    put_data(b, 1, data_bytes);
}

#define GOOD                                                                            \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                            \
    "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"                \
    "\"h\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"                \
    "\"attn.bias\":{\"dtype\":\"BOOL\",\"shape\":[1,1,8,8],\"data_offsets\":[36,100]}," \
    "\"s\":{\"dtype\":\"F16\",\"shape\":[2,1,1],\"data_offsets\":[32,36]}}  "

static void tensors_are_read_with_reversed_dims(void **state)
{
    (void)state;
    qr_buf b = {0};
    quire_error error = {0};
    qr_checkpoint *ckpt;
    char *copy;
    put_safetensors(&b, GOOD, 100);
    if (open_memory(safetensors, b.data, b.len, &copy, &ckpt, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_int_equal(qr_checkpoint_num_tensors(ckpt), 3); /* the mask is no weight */
    const qr_tensor_view *t = qr_checkpoint_find(ckpt, "w");
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 2);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->num_dims, 2);
    assert_int_equal(*(const uint8_t *)t->data, 0);
    t = qr_checkpoint_find(ckpt, "h");
    assert_int_equal(t->dtype, QR_BF16);
    assert_int_equal(t->bytes, 8);
    assert_int_equal(*(const uint8_t *)t->data, 24);
    assert_int_equal(qr_checkpoint_num_meta(ckpt), 0);
    assert_null(qr_checkpoint_meta(ckpt, "general.architecture"));
    assert_false(qr_checkpoint_is_gguf(ckpt));
    qr_checkpoint_close(ckpt);
    free(copy);
    qr_free(b.data);
}

static void damaged_safetensors_are_refused(void **state)
{
    (void)state;
    qr_buf b = {0};
    put_safetensors(&b, GOOD, 100);
    for (size_t bytes = 0; bytes < b.len; bytes++)
        assert_int_equal(try_memory(safetensors, b.data, bytes, NULL), QUIRE_FORMAT);
    static const uint8_t values[] = {0, '"', '9', '[', '}', 0x7f, 0xff};
    for (size_t i = 0; i < b.len - 100; i++) {
        char old = b.data[i];
        for (size_t k = 0; k < sizeof values; k++) {
            b.data[i] = (char)values[k];
            quire_status status = try_memory(safetensors, b.data, b.len, NULL);
            assert_true(status == QUIRE_OK || status == QUIRE_FORMAT || status == QUIRE_UNSUPPORTED);
        }
        b.data[i] = old;
    }
    b.len += 1; /* the NUL behind the buffer's end counts as one byte too many */
    expect_failure(safetensors, &b, QUIRE_FORMAT, "end at byte 100");
    qr_free(b.data);
}

static void bad_safetensors_entries_are_named(void **state)
{
    (void)state;
#define ENTRY(dtype, shape, offsets) \
    "{\"x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header, *text;
        quire_status status;
    } cases[] = {
        {"[]", "not a JSON object", QUIRE_FORMAT},
        {"{\"x\":1,}", "line 1, column 8", QUIRE_FORMAT},
        {"{\"x\":1}", "'x': its header entry needs", QUIRE_FORMAT},
        {ENTRY("F8_E5M2", "[4]", "[0,16]"), "'x' has type F8_E5M2", QUIRE_UNSUPPORTED},
        {ENTRY("U8", "[16]", "[0,16]"), "'x' has type U8", QUIRE_UNSUPPORTED},
        {ENTRY("F8_E4M3", "[4]", "[0,16]"), "needs 4 bytes, but data_offsets span 16", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[0,17]"), "not inside the data section", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[16,0]"), "not inside the data section", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[-1,15]"), "needs dtype", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[0,9223372036854775807]"), "not inside the data section", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[0]"), "needs dtype", QUIRE_FORMAT},
        {ENTRY("F32", "[4]", "[0,8]"), "needs 16 bytes, but data_offsets span 8", QUIRE_FORMAT},
        {ENTRY("F32", "[2]", "[0,8]"), "end at byte 8", QUIRE_FORMAT},
        {ENTRY("F32", "[2]", "[8,16]"), "'x' begins at 8", QUIRE_FORMAT},
        {ENTRY("F32", "[0]", "[0,0]"), "dimensions 0 x 1", QUIRE_FORMAT},
        {ENTRY("F32", "[-4]", "[0,16]"), "shape", QUIRE_FORMAT},
        {ENTRY("F32", "[2.0]", "[0,16]"), "shape", QUIRE_FORMAT},
        {ENTRY("F32", "4", "[0,16]"), "shape", QUIRE_FORMAT},
        {ENTRY("F32", "[1,1,1,1,4]", "[0,16]"), "at most 4", QUIRE_FORMAT},
        {ENTRY("F32", "[4294967296,4294967296]", "[0,16]"), "4294967296 x 4294967296", QUIRE_FORMAT},
        {"{\"x\":{},\"x\":{}}", "duplicate", QUIRE_FORMAT},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "empty", QUIRE_FORMAT},
    };
#undef ENTRY
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_buf b = {0};
        put_safetensors(&b, cases[i].header, 16);
        expect_failure(safetensors, &b, cases[i].status, cases[i].text);
        qr_free(b.data);
    }
    qr_buf b = {0};
    put_u64(&b, UINT64_MAX);
    put_u64(&b, 0);
    expect_failure(safetensors, &b, QUIRE_FORMAT, "18446744073709551615 bytes");
    qr_free(b.data);
}

/* ---- folders */

static void write_text(const temp_dir *dir, const char *name, const char *text)
{
    temp_write(dir, name, text, strlen(text));
}

static void write_shard(const temp_dir *dir, const char *name, const char *tensor)
{
    char header[200];
    qr_buf b = {0};
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", tensor);
    put_safetensors(&b, header, 16);
    temp_write(dir, name, b.data, b.len);
    qr_free(b.data);
}

static void expect_open(const char *path, int num_tensors)
{
    quire_error error = {0};
    qr_checkpoint *ckpt;
    if (qr_checkpoint_open(path, &ckpt, &error) != QUIRE_OK) fail_msg("%s", error.message);
    assert_int_equal(qr_checkpoint_num_tensors(ckpt), num_tensors);
    qr_checkpoint_close(ckpt);
}

static void expect_open_fails(const char *path, quire_status want, const char *text)
{
    quire_error error = {0};
    qr_checkpoint *ckpt = NULL;
    quire_status status = qr_checkpoint_open(path, &ckpt, &error);
    if (status != want || !strstr(error.message, text))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\"", status, error.message, want, text);
    assert_null(ckpt);
}

static const char INDEX[] = "model.safetensors.index.json";

static void shards_are_one_checkpoint(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    write_text(&dir, "config.json", "{}");
    expect_open(dir.path, 0);
    write_shard(&dir, "model-00001-of-00002.safetensors", "a");
    expect_open(dir.path, 1); /* a single file may have any name */
    write_shard(&dir, "model-00002-of-00002.safetensors", "b");
    expect_open_fails(dir.path, QUIRE_FORMAT, "no model.safetensors.index.json");

    write_text(&dir, INDEX,
               "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\","
               "\"b\":\"model-00002-of-00002.safetensors\"}}");
    expect_open(dir.path, 2);
    write_text(
        &dir, INDEX,
        "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00002-of-00002.safetensors\"}}");
    expect_open_fails(dir.path, QUIRE_FORMAT, "tensor 'c' is not in any shard");
    write_text(&dir, INDEX, "{\"weight_map\":{\"a\":\"gone.safetensors\"}}");
    expect_open_fails(dir.path, QUIRE_NOT_FOUND, "gone.safetensors");
    write_text(&dir, INDEX, "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}");
    expect_open_fails(dir.path, QUIRE_FORMAT, "must be the name of a file in the folder");
    write_text(&dir, INDEX, "{\"weight_map\":[]}");
    expect_open_fails(dir.path, QUIRE_FORMAT, "weight_map");
    write_text(&dir, INDEX, "{\"weight_map\":");
    expect_open_fails(dir.path, QUIRE_FORMAT, "line 1, column 14");

    write_shard(&dir, "model-00002-of-00002.safetensors", "a");
    write_text(
        &dir, INDEX,
        "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00002-of-00002.safetensors\"}}");
    expect_open_fails(dir.path, QUIRE_FORMAT, "tensor 'a' occurs twice");
    temp_dir_remove(&dir);
}

static void json_and_text_are_cached(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    qr_checkpoint *ckpt;
    quire_error error = {0};
    const json_t *json, *again;
    const char *text;
    size_t bytes;
    write_text(&dir, "config.json", "{\"a\": \"x\\u0000y\"}");
    write_text(&dir, "chat_template.jinja", "{{ x }}");
    write_text(&dir, "empty.txt", "");
    write_text(&dir, "bad.json", "{\n  \"a\": tru\n}");
    assert_int_equal(qr_checkpoint_open(dir.path, &ckpt, NULL), QUIRE_OK);
    assert_string_equal(qr_checkpoint_path(ckpt), dir.path);

    assert_int_equal(qr_checkpoint_json(ckpt, "config.json", &json, NULL), QUIRE_OK);
    assert_int_equal(json_string_length(json_object_get(json, "a")), 3);
    assert_int_equal(qr_checkpoint_json(ckpt, "config.json", &again, NULL), QUIRE_OK);
    assert_ptr_equal(json, again);
    assert_int_equal(qr_checkpoint_json(ckpt, "absent.json", &json, NULL), QUIRE_OK);
    assert_null(json);
    assert_int_equal(qr_checkpoint_json(ckpt, "bad.json", &json, &error), QUIRE_FORMAT);
    assert_non_null(strstr(error.message, "bad.json: line 2, column"));

    assert_int_equal(qr_checkpoint_text(ckpt, "chat_template.jinja", &text, &bytes, NULL), QUIRE_OK);
    assert_string_equal(text, "{{ x }}");
    assert_int_equal(bytes, 7);
    assert_int_equal(qr_checkpoint_text(ckpt, "empty.txt", &text, &bytes, NULL), QUIRE_OK);
    assert_string_equal(text, "");
    assert_int_equal(qr_checkpoint_text(ckpt, "absent", &text, &bytes, NULL), QUIRE_OK);
    assert_null(text);
    qr_checkpoint_close(ckpt);
    temp_dir_remove(&dir);
}

/* jansson calls some of its own failures to get memory a syntax error. */
static void failed_allocations_are_reported(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    write_shard(&dir, "one.safetensors", "a");
    write_text(&dir, "config.json", "{\"hidden_size\": 64}");
    write_text(&dir, INDEX, "{\"weight_map\":{\"a\":\"one.safetensors\"}}");
    quire_status status = QUIRE_NOMEM;
    for (uint64_t n = 0; status != QUIRE_OK; n++) {
        qr_checkpoint *ckpt = NULL;
        const json_t *json;
        quire_error error = {0};
        qr_mem_fail_after(n);
        status = qr_checkpoint_open(dir.path, &ckpt, &error);
        if (status == QUIRE_OK) status = qr_checkpoint_json(ckpt, "config.json", &json, &error);
        qr_mem_fail_off();
        if (status != QUIRE_NOMEM && status != QUIRE_OK && !strstr(error.message, "line 1, column"))
            fail_msg("allocation %llu: %s", (unsigned long long)n, error.message);
        assert_true(status != QUIRE_OK || n > 40);
        assert_true(status == QUIRE_OK || error.message[0] != '\0');
        qr_checkpoint_close(ckpt);
    }
    temp_dir_remove(&dir);
}

/* ---- split GGUF files */

static void write_part(const temp_dir *dir, const char *name, uint32_t part_idx, uint32_t num_parts,
                       uint32_t num_tensors, const char *tensor)
{
    qr_buf b = {0};
    put_header(&b, 3, 1, part_idx == 0 ? 4 : 3);
    if (part_idx == 0) put_meta_u32(&b, "only.in.first", 7);
    put_meta(&b, "split.no", QR_META_U16, &(uint16_t){(uint16_t)part_idx}, 2);
    put_meta(&b, "split.count", QR_META_U16, &(uint16_t){(uint16_t)num_parts}, 2);
    put_meta(&b, "split.tensors.count", QR_META_I32, &num_tensors, 4);
    put_info(&b, tensor, 1, (uint64_t[]){4}, 0, 0);
    put_data(&b, 32, 16);
    temp_write(dir, name, b.data, b.len);
    qr_free(b.data);
}

static void split_files_are_one_checkpoint(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    static const char *const names[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};
    for (uint32_t i = 0; i < 3; i++) write_part(&dir, names[i], i, 3, 3, (const char *[]){"a", "b", "c"}[i]);
    expect_open(temp_path(&dir, names[0]), 3);
    expect_open(dir.path, 3);
    expect_open_fails(temp_path(&dir, names[1]), QUIRE_FORMAT, "-00001-of-00003.gguf");

    write_part(&dir, names[2], 1, 3, 3, "c");
    expect_open_fails(dir.path, QUIRE_FORMAT, "part 3 of 3");
    write_part(&dir, names[2], 2, 3, 3, "a");
    expect_open_fails(dir.path, QUIRE_FORMAT, "tensor 'a' occurs twice");
    remove(temp_path(&dir, names[2]));
    expect_open_fails(dir.path, QUIRE_NOT_FOUND, names[2]);
    write_part(&dir, names[2], 2, 3, 3, "c");
    write_part(&dir, names[0], 0, 3, 4, "a");
    expect_open_fails(dir.path, QUIRE_FORMAT, "hold 3 tensors instead of 4");
    write_part(&dir, "alone.gguf", 0, 3, 3, "a");
    expect_open_fails(temp_path(&dir, "alone.gguf"), QUIRE_FORMAT, "one of 3 parts");
    expect_open_fails(dir.path, QUIRE_INVALID, "2 GGUF models; name one");
    temp_dir_remove(&dir);
}

/* ---- names */

static void names_are_resolved(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    char sub[256];
    setenv("QUIRE_MODELS", dir.path, 1);
    char *models = quire_model_dir();
    assert_string_equal(models, dir.path);
    quire_free(models);
    expect_open_fails("owner/name", QUIRE_NOT_FOUND, "no pulled model of that name");

    snprintf(sub, sizeof sub, "%s/owner", dir.path);
    mkdir(sub, 0777);
    write_part(&dir, "owner/one.gguf", 0, 1, 1, "a");
    expect_open("owner", 1);
    expect_open("owner/one.gguf", 1);
    expect_open("owner:one.gguf", 1);
    write_part(&dir, "owner/two.gguf", 0, 1, 1, "a");
    expect_open_fails("owner", QUIRE_INVALID, "name one");
    expect_open_fails("owner:three.gguf", QUIRE_NOT_FOUND, "owner:three.gguf");
    remove(temp_path(&dir, "owner/one.gguf"));
    remove(temp_path(&dir, "owner/two.gguf"));
    expect_open_fails("owner", QUIRE_FORMAT, "no model");
    rmdir(sub);

    expect_open_fails("/nonexistent/file.gguf", QUIRE_NOT_FOUND, "No such file");
    expect_open_fails("", QUIRE_NOT_FOUND, "No such file");
    expect_open_fails("/dev/null", QUIRE_IO, "not a regular file");
    write_text(&dir, "model.safetensors", "x");
    expect_open_fails(temp_path(&dir, "model.safetensors"), QUIRE_INVALID, "give the folder");
    expect_open_fails(dir.path, QUIRE_FORMAT, "not a safetensors file");
    write_text(&dir, "empty.gguf", "");
    expect_open_fails(temp_path(&dir, "empty.gguf"), QUIRE_FORMAT, "not a GGUF file");
    unsetenv("QUIRE_MODELS");

    setenv("XDG_CACHE_HOME", "/xdg", 1);
    models = quire_model_dir();
    assert_string_equal(models, "/xdg/quire/models");
    quire_free(models);
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/home/me", 1);
    models = quire_model_dir();
    assert_string_equal(models, "/home/me/.cache/quire/models");
    quire_free(models);
    temp_dir_remove(&dir);
}

/* The tiny checkpoints exist in both formats: what is not permuted or transposed must be the same bytes. */
static void both_formats_hold_the_same_values(void **state)
{
    (void)state;
    qr_checkpoint *folder, *gguf;
    assert_int_equal(qr_checkpoint_open("tests/golden/tiny/qwen3", &folder, NULL), QUIRE_OK);
    assert_int_equal(qr_checkpoint_open("tests/golden/tiny_gguf/qwen3.gguf", &gguf, NULL), QUIRE_OK);
    static const char *const names[][2] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                           {"model.layers.2.self_attn.q_proj.weight", "blk.2.attn_q.weight"},
                                           {"model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"}};
    assert_int_equal(qr_checkpoint_num_tensors(folder), qr_checkpoint_num_tensors(gguf));
    for (size_t i = 0; i < 3; i++) {
        const qr_tensor_view *a = qr_checkpoint_find(folder, names[i][0]), *b = qr_checkpoint_find(gguf, names[i][1]);
        assert_memory_equal(a->dims, b->dims, sizeof a->dims);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    qr_checkpoint_close(folder);
    qr_checkpoint_close(gguf);
}

static void the_default_model_opens(void **state)
{
    (void)state;
    const char *path = getenv("QUIRE_TEST_MODEL");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) {
        print_message("no model at %s: make model\n", path);
        skip();
    }
    qr_checkpoint *ckpt;
    qr_string_view s;
    qr_meta_type type;
    uint64_t count;
    assert_int_equal(qr_checkpoint_open(path, &ckpt, NULL), QUIRE_OK);
    assert_int_equal(qr_checkpoint_num_tensors(ckpt), 272);
    assert_true(qr_meta_str(qr_checkpoint_meta(ckpt, "general.architecture"), &s) &&
                memcmp(s.data, "llama", s.len) == 0);
    const qr_meta *tokens = qr_checkpoint_meta(ckpt, "tokenizer.ggml.tokens");
    assert_true(qr_meta_array(tokens, &type, &count) && count == 49152);
    assert_true(qr_meta_array_str(tokens, 2, &s) && s.len == 10 && memcmp(s.data, "<|im_end|>", 10) == 0);
    assert_int_equal(qr_checkpoint_find(ckpt, "token_embd.weight")->dtype, QR_Q8_0);
    qr_checkpoint_close(ckpt);
}

int main(void)
{
    json_set_alloc_funcs(qr_malloc, qr_free); /* so that the parser's allocations fail too */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_read_with_reversed_dims),
        cmocka_unit_test(damaged_safetensors_are_refused),
        cmocka_unit_test(bad_safetensors_entries_are_named),
        cmocka_unit_test(shards_are_one_checkpoint),
        cmocka_unit_test(json_and_text_are_cached),
        cmocka_unit_test(failed_allocations_are_reported),
        cmocka_unit_test(split_files_are_one_checkpoint),
        cmocka_unit_test(names_are_resolved),
        cmocka_unit_test(both_formats_hold_the_same_values),
        cmocka_unit_test(the_default_model_opens),
    };
    return cmocka_run_group_tests_name("weights_folder", tests, NULL, NULL);
}
