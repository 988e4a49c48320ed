/* utf8: where characters begin and end in bytes that may be anything. Threads: any. */
#ifndef QR_BASE_UTF8_H
#define QR_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 character at text[0], or 0 when it is not valid UTF-8; bytes >= 1. */
size_t qr_utf8_char_bytes(const char *text, size_t bytes);
/* Characters in valid or invalid UTF-8 (each invalid byte counts as one). */
int64_t qr_utf8_num_chars(const char *text, size_t bytes);

#endif
