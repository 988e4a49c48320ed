#include "base/utf8.h"

size_t qr_utf8_char_bytes(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || n > bytes) return 0;
    /* the second byte rules out overlong forms, surrogates and code points above U+10FFFF */
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return n;
}

int64_t qr_utf8_num_chars(const char *text, size_t bytes)
{
    int64_t num_chars = 0;
    for (size_t i = 0; i < bytes; num_chars++) {
        size_t n = qr_utf8_char_bytes(text + i, bytes - i);
        i += n ? n : 1;
    }
    return num_chars;
}
