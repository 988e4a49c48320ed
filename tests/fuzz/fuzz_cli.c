/* fuzz cli: what the program reads from strangers without the library's help: HTTP answers, events, lists of ids,
 * sizes. The first byte chooses; HTTP must not depend on how the bytes are cut. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/http.h"

static uint64_t digest;

static void on_data(void *user, const char *data, size_t bytes)
{
    (void)user;
    for (size_t i = 0; i < bytes; i++) digest = digest * 31 + (unsigned char)data[i];
    if (data[bytes] != '\0') abort();
}

static void on_body(void *user, const char *data, size_t bytes) { qr_sse_feed(user, data, bytes); }

static uint64_t read_answer(const char *data, size_t bytes, size_t step)
{
    static qr_http_parser parser;
    qr_sse_parser events = {.on_data = on_data};
    quire_status status = QUIRE_OK;
    digest = 0;
    qr_http_parser_init(&parser, on_body, &events);
    for (size_t at = 0; status == QUIRE_OK && at < bytes; at += step)
        status = qr_http_feed(&parser, data + at, bytes - at < step ? bytes - at : step);
    if (status == QUIRE_OK) status = qr_http_end(&parser);
    qr_sse_deinit(&events);
    return digest + (uint64_t)parser.status + (status == QUIRE_OK ? 1u << 30 : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) return 0;
    char *text = malloc(bytes); /* exactly as long, so that the sanitizer sees a read past the end */
    if (!text) return 0;
    memcpy(text, data + 1, bytes - 1);
    text[bytes - 1] = '\0';
    if (data[0] % 2 == 0) {
        if (read_answer(text, bytes - 1, 1 + data[0] / 2) != read_answer(text, bytes - 1, bytes)) abort();
    } else {
        int32_t *ids = NULL;
        size_t count, size;
        if (qr_cli_parse_ids(text, &ids, &count, NULL) == QUIRE_OK) qr_free(ids);
        (void)!qr_options_parse_bytes(text, &size);
    }
    free(text);
    return 0;
}
