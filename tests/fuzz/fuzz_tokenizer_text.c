/* Any bytes as text: every tokenizer encodes them, and what a byte-level one encodes it decodes to the same text (with
 * U+FFFD for invalid parts). The first byte chooses the tokenizer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}"
#define ADDED                                                                                                         \
    "\"added_tokens\":[{\"id\":300,\"content\":\"<s>\",\"special\":true,\"lstrip\":true},{\"id\":301,\"content\":\"<" \
    "\",\"rstrip\":true,\"single_word\":true}]"

static const struct {
    const char *pipeline;
    bool lossless;
} kinds[] = {
    {"\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", true},
    {"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
     "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
     "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\"},"
     "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}",
     true},
    {"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"["
     "\\\\r\\\\n]\"},"
     "\"behavior\":\"Isolated\"},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+$\"},\"behavior\":\"Isolated\"},"
     "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"},{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
     "{\"type\":\"Digits\",\"individual_digits\":false},{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[0-9]{3}\"},"
     "\"behavior\":\"MergedWithNext\"}]}",
     true},
    {"\"normalizer\":{\"type\":\"NFC\"}," ADDED ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}",
     false},
    {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKD\"},{\"type\":\"Lowercase\"},"
     "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"}"
     "," REPLACE "]}," ADDED,
     false},
    {ADDED ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"first\"}",
     false},
};
enum { NUM_KINDS = sizeof kinds / sizeof *kinds };

/* All bytes (spelled in GPT-2's alphabet and as <0xNN>), and merges that make some runs of them. */
static json_t *make_json(const char *pipeline)
{
    qr_buf text = {0};
    json_t *vocab = json_object(), *merges = json_array(), *json;
    char name[16];
    for (int b = 0; b < 256; b++) {
        int n = qr_unicode_encode(qr_bpe_byte_char((unsigned char)b), name);
        name[n] = '\0';
        json_object_set_new(vocab, name, json_integer(b));
        qr_buf_printf(&text, "<0x%02X>", b);
        json_object_set_new(vocab, text.data, json_integer(400 + b));
        text.len = 0;
    }
    static const char *const rules[] = {
        "a a", "aa a", "aa aa", "a b", "b a", "\xC4\xA0 a", "\xC4\xA0 \xC4\xA0", "\xC3\xA2 \xC4\xB8", "a aa"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const char *space = strchr(rules[i], ' ');
        qr_buf_printf(&text, "%.*s%s", (int)(space - rules[i]), rules[i], space + 1);
        if (!json_object_get(vocab, text.data)) json_object_set_new(vocab, text.data, json_integer(310 + (int)i));
        json_array_append_new(merges, json_string(rules[i]));
        text.len = 0;
    }
    qr_buf_printf(&text, "{%s,\"decoder\":{\"type\":\"ByteLevel\"}}", pipeline);
    json = json_loads(text.data, 0, NULL);
    json_object_set_new(
        json, "model",
        json_pack("{s:s,s:o,s:o,s:b}", "type", "BPE", "vocab", vocab, "merges", merges, "byte_fallback", 1));
    qr_free(text.data);
    return json;
}

static qr_tokenizer *tokenizer(int kind)
{
    static qr_tokenizer *made[NUM_KINDS];
    quire_error error;
    if (made[kind]) return made[kind];
    json_t *json = make_json(kinds[kind].pipeline);
    if (qr_tokenizer_create_json(json, NULL, NULL, NULL, NULL, &made[kind], &error) != QUIRE_OK) abort();
    json_decref(json);
    return made[kind];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    int kind = data[0] % NUM_KINDS;
    const qr_tokenizer *tok = tokenizer(kind);
    const char *text = (const char *)data + 1;
    quire_error error;
    int32_t *ids;
    size_t num;
    qr_buf expected = {0}, out = {0};
    if (qr_tokenizer_encode(tok, text, size - 1, true, data[0] & 0x80, &ids, &num, &error) != QUIRE_OK)
        __builtin_trap();
    if (qr_unicode_replace_invalid(text, size - 1, &expected, &error) != QUIRE_OK) __builtin_trap();
    qr_detok detok;
    qr_detok_init(&detok, tok, false);
    for (size_t i = 0; i < num; i++) {
        size_t before = out.len;
        if (qr_detok_push(&detok, ids[i], &out) != QUIRE_OK) __builtin_trap();
        if (out.len > before && !qr_unicode_is_valid(out.data + before, out.len - before)) __builtin_trap();
    }
    if (qr_detok_flush(&detok, &out) != QUIRE_OK) __builtin_trap();
    if (kinds[kind].lossless &&
        (out.len != expected.len || (out.len > 0 && memcmp(out.data, expected.data, out.len) != 0)))
        __builtin_trap();
    qr_free(expected.data);
    qr_free(out.data);
    qr_free(ids);
    return 0;
}
