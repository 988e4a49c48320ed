#include <string.h>

#include "text/tokenizer_impl.h"
#include "text/unicode.h"

void qr_detok_init(qr_detok *d, const qr_tokenizer *tok, bool skip_special)
{
    *d = (qr_detok){.tok = tok, .skip_special = skip_special, .at_start = true};
    d->num_strip = (unsigned char)tok->decoder.num_strip;
}

/* Valid text to `out`, less the leading spaces that are still to be stripped. */
static int emit(qr_detok *d, const char *text, size_t text_bytes, qr_buf *out)
{
    const qr_decoder *decoder = &d->tok->decoder;
    size_t n = (size_t)decoder->strip_bytes;
    while (d->num_strip > 0 && text_bytes > 0) {
        if (text_bytes < n || memcmp(text, decoder->strip, n) != 0) {
            d->num_strip = 0;
            break;
        }
        text += n, text_bytes -= n;
        d->num_strip--;
    }
    return text_bytes > 0 ? qr_buf_append(out, text, text_bytes) : 0;
}

/* U+FFFD for an invalid part: one, or one for each byte. */
static int emit_invalid(qr_detok *d, int num_bytes, qr_buf *out)
{
    int failed = 0;
    for (int i = 0; i < (d->tok->decoder.byte_fallback ? num_bytes : 1) && !failed; i++)
        failed = emit(d, "\xEF\xBF\xBD", 3, out);
    return failed;
}

/* Bytes that need not be whole characters. */
static int feed(qr_detok *d, const char *bytes, size_t num, qr_buf *out)
{
    size_t i = 0, copied;
    int n;
    while (d->num_pending > 0) { /* first finish, or give up, the character begun before */
        qr_utf8_kind kind = qr_unicode_next(d->pending, d->num_pending, &n);
        if (kind == QR_UTF8_PARTIAL) {
            if (i == num) return 0;
            d->pending[d->num_pending++] = bytes[i++];
            continue;
        }
        if (kind == QR_UTF8_CHAR ? emit(d, d->pending, (size_t)n, out) : emit_invalid(d, n, out)) return -1;
        d->num_pending = (unsigned char)(d->num_pending - n);
        memmove(d->pending, d->pending + n, d->num_pending);
    }
    for (copied = i; i < num; i += (size_t)n) {
        n = 1;
        if ((unsigned char)bytes[i] < 0x80) continue;
        qr_utf8_kind kind = qr_unicode_next(bytes + i, num - i, &n);
        if (kind == QR_UTF8_CHAR) continue;
        if (emit(d, bytes + copied, i - copied, out)) return -1;
        if (kind == QR_UTF8_PARTIAL) {
            memcpy(d->pending, bytes + i, num - i);
            d->num_pending = (unsigned char)(num - i);
            return 0;
        }
        if (emit_invalid(d, n, out)) return -1;
        copied = i + (size_t)n;
    }
    return emit(d, bytes + copied, num - copied, out);
}

/* A token in GPT-2's alphabet as the bytes it stands for; as it is when a character is outside the alphabet. */
static int feed_byte_level(qr_detok *d, const char *text, size_t text_bytes, qr_buf *out)
{
    char bytes[256];
    size_t num = 0;
    int n;
    for (size_t i = 0; i < text_bytes; i += (size_t)n)
        if (qr_bpe_char_byte(qr_unicode_decode(text + i, &n)) < 0) return feed(d, text, text_bytes, out);
    for (size_t i = 0; i < text_bytes; i += (size_t)n) {
        bytes[num++] = (char)qr_bpe_char_byte(qr_unicode_decode(text + i, &n));
        if (num == sizeof bytes) {
            if (feed(d, bytes, num, out)) return -1;
            num = 0;
        }
    }
    return feed(d, bytes, num, out);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte of a <0xNN> token, -1: it is none. */
static int fallback_byte(const char *text, size_t text_bytes)
{
    if (text_bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A token of text, with the decoder's replacement. */
static int feed_text(qr_detok *d, const char *text, size_t text_bytes, bool first, qr_buf *out)
{
    const qr_decoder *decoder = &d->tok->decoder;
    size_t n = (size_t)decoder->from_bytes, done = 0;
    for (size_t i = 0; n > 0 && i + n <= text_bytes;) {
        if (memcmp(text + i, decoder->from, n) != 0) {
            i++;
            continue;
        }
        if (feed(d, text + done, i - done, out)) return -1;
        bool drop = first && decoder->metaspace;
        if (!drop && feed(d, decoder->to, (size_t)decoder->to_bytes, out)) return -1;
        done = i += n;
    }
    return feed(d, text + done, text_bytes - done, out);
}

static int flush(qr_detok *d, qr_buf *out)
{
    if (d->num_pending == 0) return 0;
    if (emit_invalid(d, d->num_pending, out)) return -1;
    d->num_pending = 0;
    return 0;
}

/* The text that an id stands for; NULL: no such token. */
static const char *token_text(const qr_tokenizer *tok, int32_t id, size_t *out_bytes)
{
    const char *text = qr_vocab_text(&tok->vocab, id, out_bytes);
    if (!text || !(tok->vocab.tokens[id].flags & QR_TOKEN_NORMALIZED)) return text;
    for (size_t i = 0; i < tok->normalized.len; i++) {
        if (tok->normalized.tokens[i].id != id) continue;
        *out_bytes = tok->normalized.tokens[i].pattern_bytes;
        return tok->normalized.tokens[i].pattern;
    }
    return text;
}

void qr_detok_prefetch(const qr_tokenizer *tok, int32_t id)
{
    const qr_vocab *vocab = &tok->vocab;
    if (id < 0 || id >= vocab->num_tokens) return;
    __builtin_prefetch(vocab->texts.data + vocab->tokens[id].offset);
}

quire_status qr_detok_push(qr_detok *d, int32_t id, qr_buf *out)
{
    const qr_decoder *decoder = &d->tok->decoder;
    size_t text_bytes;
    const char *text = token_text(d->tok, id, &text_bytes);
    if (!text || (d->skip_special && qr_tokenizer_is_special(d->tok, id))) return QUIRE_OK;
    bool first = d->at_start;
    int byte = decoder->byte_fallback ? fallback_byte(text, text_bytes) : -1, failed;
    d->at_start = false;
    if (decoder->byte_level)
        failed = feed_byte_level(d, text, text_bytes, out);
    else if (byte >= 0)
        failed = feed(d, &(char){(char)byte}, 1, out);
    else
        failed = flush(d, out) || (decoder->separate && !first && emit(d, " ", 1, out)) ||
                 feed_text(d, text, text_bytes, first, out) || flush(d, out);
    return failed ? qr_fail_nomem(NULL, "text", text_bytes) : QUIRE_OK;
}

quire_status qr_detok_flush(qr_detok *d, qr_buf *out)
{
    return flush(d, out) ? qr_fail_nomem(NULL, "text", 4) : QUIRE_OK;
}
