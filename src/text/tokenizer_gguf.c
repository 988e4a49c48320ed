#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_impl.h"

/* ---- the pre-tokenizers that tokenizer.ggml.pre names, as the models' own tokenizer.json files spell them ---- */

#define SPLIT_BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SPLIT_GPT2 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define SPLIT_EACH_DIGIT "{\"type\":\"Digits\",\"individual_digits\":true}"
#define SPLIT_NUMBERS "{\"type\":\"Digits\",\"individual_digits\":false}"
#define SPLIT_PUNCTUATION "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}"
#define NFC "{\"type\":\"NFC\"}"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" REST
#define QWEN2 CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|" REST
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define REST_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT4O                                                                                            \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
    "*" CONTRACTIONS "?|\\p{N}{1,3}|" REST_SLASH
#define TEKKEN \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*|\\p{N}|" REST_SLASH
/* Letters with case, of the Unicode version that DeepSeek's tokenizer was made with. */
#define DEEPSEEK_LETTERS                                                                                      \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"           \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}"    \
    "\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"           \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"         \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"         \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"                    \
    "\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"                   \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}"         \
    "\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}"           \
    "\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}" \
    "\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}"           \
    "\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"                   \
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"         \
    "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}"                      \
    "\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DEEPSEEK_V3                                                                                       \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| " \
    "?[\\p{P}\\p{S}]"                                                                                     \
    "+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Steps are JSON of a pre-tokenizer, or the regex of a Split that isolates its matches. */
typedef struct pre_tokenizer {
    const char *name; /* in tokenizer.ggml.pre */
    const char *steps[8];
    const char *normalizer;      /* JSON; NULL: none */
    bool ignore_merges, add_bos; /* where the file does not say */
} pre_tokenizer;

static const pre_tokenizer pre_tokenizers[] = {
    {.name = "default", {SPLIT_GPT2}},
    {.name = "gpt-2", {SPLIT_GPT2}},
    {.name = "phi-2", {SPLIT_GPT2}},
    {.name = "mpt", {SPLIT_GPT2}, .normalizer = NFC},
    {.name = "olmo", {SPLIT_GPT2}, .normalizer = NFC},
    {.name = "llama-bpe", {LLAMA3, SPLIT_BYTES}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", {LLAMA3, SPLIT_BYTES}, .ignore_merges = true, .add_bos = true},
    {.name = "llama-v3", {LLAMA3, SPLIT_BYTES}, .ignore_merges = true, .add_bos = true},
    {.name = "dbrx", {LLAMA3, SPLIT_BYTES}},
    {.name = "smaug-bpe", {LLAMA3, SPLIT_BYTES}},
    {.name = "qwen2", {QWEN2, SPLIT_BYTES}, .normalizer = NFC},
    {.name = "deepseek-r1-qwen", {QWEN2, SPLIT_BYTES}, .normalizer = NFC},
    {.name = "smollm", {SPLIT_EACH_DIGIT, SPLIT_GPT2}},
    {.name = "starcoder", {SPLIT_EACH_DIGIT, SPLIT_GPT2}},
    {.name = "refact", {SPLIT_EACH_DIGIT, SPLIT_GPT2}},
    {.name = "command-r", {SPLIT_EACH_DIGIT, SPLIT_GPT2}, .normalizer = NFC},
    {.name = "falcon", {SPLIT_PUNCTUATION, SPLIT_GPT2, SPLIT_NUMBERS, "[0-9][0-9][0-9]"}},
    {.name = "deepseek-llm",
     {"[\\r\\n]", "\\s?[" DEEPSEEK_LETTERS "]+",
      "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+", "\\s+$",
      DEEPSEEK_CJK, SPLIT_EACH_DIGIT, SPLIT_BYTES}},
    {.name = "deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, SPLIT_EACH_DIGIT, SPLIT_BYTES}},
    {.name = "deepseek-v3",
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", DEEPSEEK_V3, SPLIT_BYTES}},
    {.name = "gpt-4o", {GPT4O, SPLIT_BYTES}},
    {.name = "tekken", {TEKKEN, SPLIT_BYTES}, .ignore_merges = true, .add_bos = true},
};

static json_t *parse(const char *text) { return text ? json_loads(text, 0, NULL) : NULL; }

static json_t *steps_json(const char *const steps[8])
{
    json_t *list = json_array();
    for (int i = 0; i < 8 && steps[i]; i++) {
        json_t *step = steps[i][0] == '{' ? parse(steps[i])
                                          : json_pack("{s:s, s:{s:s}, s:s}", "type", "Split", "pattern", "Regex",
                                                      steps[i], "behavior", "Isolated");
        if (json_array_append_new(list, step) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

static quire_status set_byte_level(qr_tokenizer *tok, const pre_tokenizer *pre, quire_error *error)
{
    json_t *normalizer = parse(pre->normalizer), *stages = steps_json(pre->steps), *decoder = parse(SPLIT_GPT2);
    quire_status status = QUIRE_OK;
    if (!stages || !decoder || (pre->normalizer && !normalizer))
        status = qr_fail_nomem(error, "the tokenizer", 1 << 10);
    if (status == QUIRE_OK) status = qr_normalizer_init(&tok->normalizer, normalizer, error);
    if (status == QUIRE_OK) status = qr_pretokenizer_init(&tok->pre, stages, error);
    if (status == QUIRE_OK) status = qr_tokenizer_set_decoder(tok, decoder, error);
    json_decref(normalizer);
    json_decref(stages);
    json_decref(decoder);
    return status;
}

/* SentencePiece as transformers converts it: no pre-tokenizer, spaces become ▁, one more in front. */
static quire_status set_sentencepiece(qr_tokenizer *tok, bool add_space_prefix, quire_error *error)
{
    static const char meta[] = "\xE2\x96\x81";
    json_t *replace = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ", "content", meta);
    json_t *normalizer = json_pack("{s:s, s:[{s:s, s:s}, O]}", "type", "Sequence", "normalizers", "type", "Prepend",
                                   "prepend", meta, replace);
    json_t *decoder =
        json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type", "Sequence", "decoders",
                  "type", "Replace", "pattern", "String", meta, "content", " ", "type", "ByteFallback", "type", "Fuse",
                  "type", "Strip", "content", " ", "start", add_space_prefix ? 1 : 0, "stop", 0);
    quire_status status = QUIRE_OK;
    if (!replace || !normalizer || !decoder) status = qr_fail_nomem(error, "the tokenizer", 1 << 10);
    if (status == QUIRE_OK)
        status = qr_normalizer_init(&tok->normalizer, add_space_prefix ? normalizer : replace, error);
    if (status == QUIRE_OK) status = qr_tokenizer_set_decoder(tok, decoder, error);
    json_decref(replace);
    json_decref(normalizer);
    json_decref(decoder);
    return status;
}

/* ---- metadata ---- */

#define KEY "tokenizer.ggml."

static int64_t meta_id(const qr_checkpoint *ckpt, const char *key)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, key);
    int64_t id;
    return meta && qr_meta_i64(meta, &id) && id >= 0 && id <= INT32_MAX ? id : -1;
}

static bool meta_flag(const qr_checkpoint *ckpt, const char *key, bool fallback)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, key);
    bool value;
    return meta && qr_meta_bool(meta, &value) ? value : fallback;
}

static qr_string_view meta_text(const qr_checkpoint *ckpt, const char *key)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, key);
    qr_string_view text = {NULL, 0};
    if (meta && !qr_meta_str(meta, &text)) text = (qr_string_view){NULL, 0};
    return text;
}

static bool is(qr_string_view text, const char *name)
{
    return text.len == strlen(name) && memcmp(text.data, name, text.len) == 0;
}

/* An array of the file; *count 0 when there is none or its elements are of another kind. */
static const qr_meta *meta_list(const qr_checkpoint *ckpt, const char *key, bool strings, uint64_t *count)
{
    const qr_meta *meta = qr_checkpoint_meta(ckpt, key);
    qr_meta_type type;
    *count = 0;
    if (!meta || !qr_meta_array(meta, &type, count) || (type == QR_META_STRING) != strings) *count = 0;
    return meta;
}

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

/* Control and unknown tokens are special; they and the user's are cut out of the text. */
static quire_status load_tokens(qr_tokenizer *tok, const qr_checkpoint *ckpt, uint64_t num_merges, quire_error *error)
{
    uint64_t num_tokens, num_types;
    const qr_meta *tokens = meta_list(ckpt, KEY "tokens", true, &num_tokens);
    const qr_meta *types = meta_list(ckpt, KEY "token_type", false, &num_types);
    if (num_tokens == 0)
        return qr_fail(error, QUIRE_FORMAT, "%s: " KEY "tokens is no list of strings", qr_checkpoint_path(ckpt));
    if (num_types > 0 && num_types != num_tokens)
        return qr_fail(error, QUIRE_FORMAT, "%s: " KEY "token_type has %llu elements, " KEY "tokens %llu",
                       qr_checkpoint_path(ckpt), (unsigned long long)num_types, (unsigned long long)num_tokens);
    QR_TRY(qr_vocab_init(&tok->vocab, num_tokens, num_merges, error));
    for (uint64_t i = 0; i < num_tokens; i++) {
        qr_string_view text;
        int64_t type = TYPE_NORMAL;
        if (!qr_meta_array_str(tokens, i, &text) || (num_types > 0 && !qr_meta_array_i64(types, i, &type)))
            return qr_fail(error, QUIRE_FORMAT, "%s: token %llu cannot be read", qr_checkpoint_path(ckpt),
                           (unsigned long long)i);
        bool special = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
        if (!special) QR_TRY(qr_vocab_set(&tok->vocab, i, text.data, text.len, QR_TOKEN_MODEL, error));
        if (!special && type != TYPE_USER_DEFINED) continue;
        qr_added_spec spec = {.id = (int64_t)i, .text = text.data, .text_bytes = text.len, .special = special};
        QR_TRY(qr_tokenizer_add_token(tok, &spec, error));
    }
    return QUIRE_OK;
}

static quire_status load_merges(qr_tokenizer *tok, const qr_checkpoint *ckpt, const qr_meta *merges,
                                uint64_t num_merges, quire_error *error)
{
    for (uint64_t i = 0; i < num_merges; i++) {
        qr_string_view text;
        bool known;
        const char *space = NULL;
        if (qr_meta_array_str(merges, i, &text) && text.len > 2) space = memchr(text.data + 1, ' ', text.len - 1);
        if (!space)
            return qr_fail(error, QUIRE_FORMAT, "%s: merge %llu is not two tokens with a space between",
                           qr_checkpoint_path(ckpt), (unsigned long long)i);
        size_t left = (size_t)(space - text.data);
        /* a rule about tokens that a trimmed vocabulary lacks can never apply */
        QR_TRY(qr_vocab_add_merge(&tok->vocab, text.data, left, space + 1, text.len - left - 1, (uint32_t)i, &known,
                                  error));
    }
    return QUIRE_OK;
}

/* ---- merges of a SentencePiece model: every way to cut a token into two tokens, best score first ---- */

typedef struct scored_merge {
    float score;
    uint32_t left_chars, right_chars; /* longer parts first among equals */
    uint32_t left, right, merged;
} scored_merge;

static int compare_merges(const void *a, const void *b)
{
    const scored_merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    if (x->merged != y->merged) return x->merged < y->merged ? -1 : 1;
    return x->left < y->left ? -1 : x->left > y->left;
}

typedef struct merge_list {
    scored_merge *data;
    size_t len, cap;
} merge_list;

static quire_status add_cuts(const qr_vocab *vocab, uint32_t id, float score, merge_list *list, quire_error *error)
{
    size_t bytes, num_chars = 0, chars = 0;
    const char *text = qr_vocab_text(vocab, (int32_t)id, &bytes);
    for (size_t i = 0; i < bytes; i++) num_chars += ((unsigned char)text[i] & 0xC0) != 0x80;
    for (size_t i = 1; i < bytes; i++) {
        if (((unsigned char)text[i] & 0xC0) == 0x80) continue;
        chars++;
        int32_t left = qr_vocab_find(vocab, text, i);
        int32_t right = left < 0 ? -1 : qr_vocab_find(vocab, text + i, bytes - i);
        if (right < 0) continue;
        if (list->len == list->cap) {
            size_t cap = list->cap ? list->cap * 2 : 1 << 15;
            scored_merge *data = qr_realloc(list->data, cap * sizeof *data);
            if (!data) return qr_fail_nomem(error, "merge rules", cap * sizeof *data);
            list->data = data;
            list->cap = cap;
        }
        list->data[list->len++] =
            (scored_merge){score, (uint32_t)chars, (uint32_t)(num_chars - chars), (uint32_t)left, (uint32_t)right, id};
    }
    return QUIRE_OK;
}

static quire_status collect_merges(const qr_tokenizer *tok, const qr_checkpoint *ckpt, merge_list *list,
                                   quire_error *error)
{
    enum { MAX_TOKEN_BYTES = 1 << 12 }; /* each cut costs a look at both parts */
    uint64_t num_scores;
    const qr_meta *scores = meta_list(ckpt, KEY "scores", false, &num_scores);
    if (num_scores != (uint64_t)tok->vocab.num_tokens)
        return qr_fail(error, QUIRE_FORMAT, "%s: " KEY "scores has %llu elements, " KEY "tokens %d",
                       qr_checkpoint_path(ckpt), (unsigned long long)num_scores, tok->vocab.num_tokens);
    for (uint64_t i = 0; i < num_scores; i++) {
        double score = 0;
        if (!qr_meta_array_f64(scores, i, &score) || score != score)
            return qr_fail(error, QUIRE_FORMAT, "%s: the score of token %llu is no number", qr_checkpoint_path(ckpt),
                           (unsigned long long)i);
        if (!(tok->vocab.tokens[i].flags & QR_TOKEN_MODEL) || tok->vocab.tokens[i].length > MAX_TOKEN_BYTES) continue;
        QR_TRY(add_cuts(&tok->vocab, (uint32_t)i, (float)score, list, error));
    }
    return QUIRE_OK;
}

static quire_status load_scored_merges(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error)
{
    merge_list list = {0};
    quire_status status = collect_merges(tok, ckpt, &list, error);
    if (status == QUIRE_OK && list.len > 1) qsort(list.data, list.len, sizeof *list.data, compare_merges);
    if (status == QUIRE_OK) status = qr_vocab_reserve_merges(&tok->vocab, list.len, error);
    for (size_t i = 0; i < list.len && status == QUIRE_OK; i++)
        qr_vocab_put_merge(&tok->vocab, list.data[i].left, list.data[i].right, (uint32_t)i, list.data[i].merged);
    qr_free(list.data);
    return status;
}

/* ---- putting it together ---- */

/* Ids that end a turn: those that the file names, and control tokens known by their names, because many files say
 * nothing but eos. */
static void load_stop_ids(qr_tokenizer *tok, const qr_checkpoint *ckpt)
{
    static const char *const names[] = {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"};
    qr_tokenizer_add_stop_id(tok, tok->eos_id);
    qr_tokenizer_add_stop_id(tok, meta_id(ckpt, KEY "eot_token_id"));
    qr_tokenizer_add_stop_id(tok, meta_id(ckpt, KEY "eom_token_id"));
    for (size_t i = 0; i < tok->raw.len; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            if (tok->raw.tokens[i].pattern_bytes == strlen(names[k]) &&
                memcmp(tok->raw.tokens[i].pattern, names[k], strlen(names[k])) == 0)
                qr_tokenizer_add_stop_id(tok, tok->raw.tokens[i].id);
}

static quire_status load_ends(qr_tokenizer *tok, const qr_checkpoint *ckpt, bool add_bos, quire_error *error)
{
    qr_string_view chat_template = meta_text(ckpt, "tokenizer.chat_template");
    tok->bos_id = (int32_t)meta_id(ckpt, KEY "bos_token_id");
    tok->eos_id = (int32_t)meta_id(ckpt, KEY "eos_token_id");
    if (tok->bos_id >= tok->vocab.num_tokens || tok->eos_id >= tok->vocab.num_tokens)
        return qr_fail(error, QUIRE_FORMAT, "%s: bos or eos token id is outside the vocabulary of %d tokens",
                       qr_checkpoint_path(ckpt), tok->vocab.num_tokens);
    if (meta_flag(ckpt, KEY "add_bos_token", add_bos) && tok->bos_id >= 0) tok->before[tok->num_before++] = tok->bos_id;
    if (meta_flag(ckpt, KEY "add_eos_token", false) && tok->eos_id >= 0) tok->after[tok->num_after++] = tok->eos_id;
    load_stop_ids(tok, ckpt);
    if (!chat_template.data) return QUIRE_OK;
    tok->chat_template = qr_strndup(chat_template.data, chat_template.len);
    return tok->chat_template ? QUIRE_OK : qr_fail_nomem(error, "the chat template", chat_template.len);
}

static quire_status load_byte_level(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error)
{
    qr_string_view name = meta_text(ckpt, KEY "pre");
    const pre_tokenizer *pre = NULL;
    uint64_t num_merges;
    const qr_meta *merges = meta_list(ckpt, KEY "merges", true, &num_merges);
    if (!name.data) name = (qr_string_view){"default", 7};
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++)
        if (is(name, pre_tokenizers[i].name)) pre = &pre_tokenizers[i];
    if (!pre)
        return qr_fail(error, QUIRE_UNSUPPORTED, "%s: pre-tokenizer '%.*s' (" KEY "pre) is not supported",
                       qr_checkpoint_path(ckpt), (int)(name.len < 60 ? name.len : 60), name.data);
    strncpy(tok->name, pre->name, sizeof tok->name - 1);
    QR_TRY(set_byte_level(tok, pre, error));
    QR_TRY(load_tokens(tok, ckpt, num_merges, error));
    QR_TRY(load_merges(tok, ckpt, merges, num_merges, error));
    tok->bpe.ignore_merges = pre->ignore_merges;
    tok->bpe.unk_id = -1;
    return load_ends(tok, ckpt, pre->add_bos, error);
}

static quire_status load_sentencepiece(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error)
{
    uint64_t num_merges;
    const qr_meta *merges = meta_list(ckpt, KEY "merges", true, &num_merges);
    strncpy(tok->name, "sentencepiece", sizeof tok->name - 1);
    QR_TRY(set_sentencepiece(tok, meta_flag(ckpt, KEY "add_space_prefix", true), error));
    QR_TRY(load_tokens(tok, ckpt, num_merges, error));
    if (num_merges > 0)
        QR_TRY(load_merges(tok, ckpt, merges, num_merges, error));
    else
        QR_TRY(load_scored_merges(tok, ckpt, error));
    tok->bpe.byte_fallback = tok->bpe.fuse_unk = true;
    tok->bpe.unk_id = (int32_t)meta_id(ckpt, KEY "unknown_token_id");
    if (tok->bpe.unk_id >= tok->vocab.num_tokens) tok->bpe.unk_id = -1;
    return load_ends(tok, ckpt, true, error);
}

quire_status qr_tokenizer_load_gguf(qr_tokenizer *tok, const qr_checkpoint *ckpt, quire_error *error)
{
    qr_string_view model = meta_text(ckpt, KEY "model");
    if (!model.data)
        return qr_fail(error, QUIRE_FORMAT, "%s: no tokenizer (" KEY "model is missing)", qr_checkpoint_path(ckpt));
    if (is(model, "gpt2")) return load_byte_level(tok, ckpt, error);
    if (is(model, "llama")) return load_sentencepiece(tok, ckpt, error);
    return qr_fail(error, QUIRE_UNSUPPORTED,
                   "%s: tokenizer '%.*s' (" KEY "model) is not supported (gpt2 and llama are)",
                   qr_checkpoint_path(ckpt), (int)(model.len < 60 ? model.len : 60), model.data);
}
