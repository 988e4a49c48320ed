/* weights, hub: SHA-256, and quire_pull() with every allocation failing in turn, against a hub of one file on the
 * loopback. What a hub can do wrong is tested in tests/e2e/test_pull.py. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "weights/sha256.h"
#include "weights_files.h"

static void sha256_equals_the_standard(void **state)
{
    (void)state;
    static const struct {
        const char *text, *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqr"
         "stu",
         "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
    };
    char hex[QR_SHA256_HEX_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qr_sha256_hex(cases[i].text, strlen(cases[i].text), hex);
        assert_string_equal(hex, cases[i].hex);
    }
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    qr_sha256_hex(million, 1000000, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* ---- a hub that knows one file, "abc" */

typedef struct hub {
    int listener;
    pthread_t thread;
    char url[64];
} hub;

static void answer(int fd, const char *request)
{
    static const char listing[] = "{\"sha\": \"0123\", \"siblings\": [{\"rfilename\": \"m.gguf\"}]}";
    bool is_listing = strstr(request, "/api/models/o/n/revision/main") != NULL;
    const char *body = is_listing ? listing : "abc";
    dprintf(fd,
            "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n"
            "ETag: \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\r\n\r\n%s",
            strlen(body), strncmp(request, "HEAD", 4) == 0 ? "" : body);
}

static void *serve(void *raw)
{
    const hub *h = raw;
    for (int fd; (fd = accept(h->listener, NULL, NULL)) >= 0;) {
        char request[4096];
        size_t len = 0;
        ssize_t n;
        request[0] = '\0';
        while (!strstr(request, "\r\n\r\n") && (n = read(fd, request + len, sizeof request - 1 - len)) > 0)
            request[len += (size_t)n] = '\0';
        if (len > 0) answer(fd, request);
        close(fd);
    }
    return NULL;
}

static void hub_start(hub *h)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    h->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(h->listener, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(listen(h->listener, 8), 0);
    assert_int_equal(getsockname(h->listener, (struct sockaddr *)&address, &bytes), 0);
    snprintf(h->url, sizeof h->url, "http://127.0.0.1:%d", ntohs(address.sin_port));
    assert_int_equal(pthread_create(&h->thread, NULL, serve, h), 0);
}

static void hub_stop(hub *h)
{
    shutdown(h->listener, SHUT_RDWR);
    pthread_join(h->thread, NULL);
    close(h->listener);
}

static void pulling_survives_failed_allocations(void **state)
{
    (void)state;
    temp_dir dir = temp_dir_create();
    hub h;
    hub_start(&h);
    setenv("no_proxy", "127.0.0.1", 1);
    quire_pull_options options;
    quire_pull_options_init(&options);
    options.repo = "o/n";
    options.endpoint = h.url;
    options.dest_dir = dir.path;
    quire_status status = QUIRE_NOMEM;
    char *path = NULL;
    for (uint64_t n = 0; status == QUIRE_NOMEM; n++) {
        quire_error error = {0};
        qr_mem_fail_after(n);
        status = quire_pull(&options, &path, &error);
        qr_mem_fail_off();
        if (status != QUIRE_OK && status != QUIRE_NOMEM) fail_msg("allocation %d: %s", (int)n, error.message);
        assert_true(status == QUIRE_NOMEM || n > 10);
    }
    assert_string_equal(path, temp_path(&dir, "m.gguf"));
    qr_map map;
    assert_int_equal(qr_map_open(path, &map, NULL), QUIRE_OK);
    assert_int_equal(map.bytes, 3);
    assert_memory_equal(map.data, "abc", 3);
    qr_map_close(&map);
    quire_free(path);
    hub_stop(&h);
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_equals_the_standard),
        cmocka_unit_test(pulling_survives_failed_allocations),
    };
    return cmocka_run_group_tests_name("weights_hub", tests, NULL, NULL);
}
