/* prefix_store: what goes in comes out again, also in the next process; whatever is done to the file, what comes out is
 * what went in, or nothing: cut short, bits flipped, pages of different times mixed, killed in the middle of a write.
 *
 * A block's content and bytes are functions of a number, so every block that is found can be verified. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/prefix_store.h"

enum { BLOCK_SIZE = 16, BLOCK_BYTES = 5000, PAGE = 4096, STRIDE = 2 * PAGE, RING = 64 * BLOCK_BYTES };

static char folder[] = "/tmp/quire-prefix-XXXXXX";
static uint64_t random_state = 1;

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint32_t choose(uint32_t n) { return (uint32_t)(mix(random_state++) % n); }

/* ---- blocks by number --------------------------------------------------------------------------- */

/* Low bits of the keys collide. */
static qr_block_content content_of(uint64_t i, int32_t *tokens)
{
    for (int k = 0; k < BLOCK_SIZE; k++) tokens[k] = (int32_t)(mix(i * BLOCK_SIZE + (uint64_t)k) % 50000);
    return (qr_block_content){.key = {mix(i) & ~(uint64_t)0xff, mix(i + 1)},
                              .parent_key = {mix(i / 2), mix(i / 2 + 1)},
                              .extra_key = i % 3,
                              .tokens = tokens};
}

static void fill(uint64_t i, uint8_t *bytes)
{
    for (size_t k = 0; k < BLOCK_BYTES; k += 8) {
        const uint64_t value = mix(i * BLOCK_BYTES + k);
        memcpy(bytes + k, &value, sizeof value);
    }
}

static bool put(qr_prefix_store *s, uint64_t i)
{
    int32_t tokens[BLOCK_SIZE];
    const qr_block_content content = content_of(i, tokens);
    uint8_t *bytes = qr_prefix_store_put(s, &content);
    if (!bytes) return false;
    fill(i, bytes);
    qr_prefix_store_put_done(s);
    return true;
}

/* Whether block i is found; what is found must be right. */
static bool get(qr_prefix_store *s, uint64_t i)
{
    int32_t tokens[BLOCK_SIZE];
    uint8_t expected[BLOCK_BYTES];
    const qr_block_content content = content_of(i, tokens);
    const void *bytes = qr_prefix_store_get(s, &content);
    if (!bytes) return false;
    fill(i, expected);
    if (memcmp(bytes, expected, BLOCK_BYTES) != 0) fail_msg("block %llu: wrong bytes", (unsigned long long)i);
    return true;
}

static int count_found(qr_prefix_store *s, uint64_t num)
{
    int found = 0;
    for (uint64_t i = 0; i < num; i++) found += get(s, i);
    return found;
}

/* ---- the file ----------------------------------------------------------------------------------- */

/* Room for num_slots blocks, up to a group. */
static qr_prefix_file_options options_for(int num_slots)
{
    const uint64_t chunk =
        (QR_PREFIX_GROUP_SLOTS * (sizeof(qr_prefix_entry) + BLOCK_SIZE * 4) + PAGE - 1) / PAGE * PAGE;
    const uint64_t groups = (uint64_t)(num_slots + QR_PREFIX_GROUP_SLOTS - 1) / QR_PREFIX_GROUP_SLOTS;
    return (qr_prefix_file_options){.path = folder,
                                    .max_bytes = PAGE + groups * chunk + (uint64_t)num_slots * STRIDE,
                                    .fingerprint = {0x1234, 0x5678},
                                    .block_size = BLOCK_SIZE,
                                    .block_bytes = BLOCK_BYTES};
}

static const char *file_path(void)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/quire-%016llx.kv", folder, 0x1234ull ^ 0x5678ull);
    return path;
}

static void check(const qr_prefix_store *s)
{
    quire_error error;
    if (qr_prefix_store_check(s, &error) != QUIRE_OK) fail_msg("%s", error.message);
}

static qr_prefix_store *open_store(int num_slots)
{
    const qr_prefix_file_options o = options_for(num_slots);
    qr_prefix_store *s;
    quire_error error;
    if (qr_prefix_store_open(&o, RING, &s, &error) != QUIRE_OK) fail_msg("%s", error.message);
    qr_prefix_store_stats stats;
    qr_prefix_store_get_stats(s, &stats);
    assert_int_equal(stats.num_slots, num_slots);
    check(s);
    return s;
}

static int num_blocks(const qr_prefix_store *s)
{
    qr_prefix_store_stats stats;
    qr_prefix_store_get_stats(s, &stats);
    return stats.num_blocks;
}

/* A file that holds blocks 0 .. num-1. */
static void make_file(int num_slots, uint64_t num)
{
    unlink(file_path());
    qr_prefix_store *s = open_store(num_slots);
    qr_prefix_store_save(s, INT64_MAX / 2); /* waits for room in the ring */
    for (uint64_t i = 0; i < num; i++) assert_true(put(s, i));
    qr_prefix_store_close(s);
}

typedef struct bytes {
    uint8_t *data;
    size_t size;
} bytes;

static bytes read_file(void)
{
    struct stat st;
    const int fd = open(file_path(), O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    bytes b = {malloc((size_t)st.st_size), (size_t)st.st_size};
    assert_int_equal(read(fd, b.data, b.size), (ssize_t)b.size);
    close(fd);
    return b;
}

static void write_file(const uint8_t *data, size_t size)
{
    const int fd = open(file_path(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);
}

/* ---- tests -------------------------------------------------------------------------------------- */

static void found_at_once_and_after_a_restart(void **state)
{
    (void)state;
    unlink(file_path());
    qr_prefix_store *s = open_store(300);
    int kept = 0;
    for (uint64_t i = 0; i < 300; i++) {
        if (i % 50 == 49) nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        const bool here = put(s, i);
        kept += here;
        assert_int_equal(get(s, i), here); /* mostly on its way still */
        assert_false(get(s, i + 1000));
        check(s);
    }
    assert_true(kept >= 64);
    assert_int_equal(num_blocks(s), kept);
    qr_prefix_store_close(s);
    struct stat st;
    assert_int_equal(stat(file_path(), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    s = open_store(300);
    assert_int_equal(num_blocks(s), kept);
    assert_int_equal(count_found(s, 300), kept);
    qr_prefix_store_forget(s);
    assert_int_equal(num_blocks(s), 0);
    assert_int_equal(count_found(s, 300), 0);
    assert_true(put(s, 7));
    check(s);
    qr_prefix_store_close(s);
    s = open_store(300);
    assert_int_equal(count_found(s, 300), 1);
    qr_prefix_store_close(s);
}

/* The same key does not make the same content. */
static void a_hit_is_verified(void **state)
{
    (void)state;
    int32_t tokens[BLOCK_SIZE];
    make_file(20, 10);
    qr_prefix_store *s = open_store(20);
    qr_block_content c = content_of(3, tokens);
    assert_non_null(qr_prefix_store_get(s, &c));
    c.extra_key ^= 1;
    assert_null(qr_prefix_store_get(s, &c));
    c.extra_key ^= 1;
    c.parent_key.high ^= 1;
    assert_null(qr_prefix_store_get(s, &c));
    c.parent_key.high ^= 1;
    tokens[BLOCK_SIZE - 1]++;
    assert_null(qr_prefix_store_get(s, &c));
    qr_prefix_store_close(s);
}

static void the_oldest_are_given_up(void **state)
{
    (void)state;
    unlink(file_path());
    qr_prefix_store *s = open_store(20);
    qr_prefix_store_save(s, INT64_MAX / 2);
    for (uint64_t i = 0; i < 20; i++) assert_true(put(s, i)); /* while saving, the first is the newest */
    assert_false(put(s, 20));                                 /* what was saved is not given up for more */
    qr_prefix_store_close(s);
    for (int round = 0; round < 2; round++) { /* the order outlives the process */
        s = open_store(20);
        assert_int_equal(num_blocks(s), 20);
        assert_false(put(s, 19)); /* here already: now the newest */
        for (uint64_t i = 0; i < 5; i++) assert_true(put(s, 100 + 5 * (uint64_t)round + i));
        check(s);
        assert_int_equal(num_blocks(s), 20);
        for (uint64_t i = 0; i < 20; i++) assert_int_equal(get(s, i), i == 19 || i < (round == 0 ? 14u : 9u));
        for (uint64_t i = 0; i < 5; i++) assert_true(get(s, 100 + i));
        qr_prefix_store_close(s);
    }
}

/* A larger limit keeps what is there, a smaller one cuts the end off. */
static void the_limit_may_change(void **state)
{
    (void)state;
    make_file(600, 600);
    qr_prefix_store *s = open_store(900);
    assert_int_equal(count_found(s, 600), 600);
    qr_prefix_store_close(s);
    s = open_store(300);
    assert_int_equal(count_found(s, 600), 300);
    qr_prefix_store_close(s);
    struct stat st;
    assert_int_equal(stat(file_path(), &st), 0);
    assert_true((uint64_t)st.st_size <= options_for(300).max_bytes);
}

static void a_file_cut_short(void **state)
{
    (void)state;
    enum { NUM = 300 };
    make_file(NUM, NUM);
    const bytes whole = read_file();
    const size_t entry = sizeof(qr_prefix_entry) + BLOCK_SIZE * 4;
    for (int round = 0; round < 150; round++) {
        /* around the header's end, entries, pages, payloads, or anywhere */
        static const size_t units[] = {1, 8, PAGE, STRIDE};
        size_t size = round < 16 ? (size_t)round * 32 : choose((uint32_t)whole.size + 1);
        size = size / units[round % 4] * units[round % 4] + choose(3);
        if (round % 5 == 0) size = PAGE + choose(NUM) * entry + choose((uint32_t)entry);
        if (size > whole.size) size = whole.size;
        write_file(whole.data, size);
        qr_prefix_store *s = open_store(NUM);
        const int found = count_found(s, NUM), should = size <= PAGE ? 0 : num_blocks(s);
        assert_int_equal(found, should); /* what is broken has been given up */
        if (size == whole.size) assert_int_equal(found, NUM);
        check(s);
        qr_prefix_store_close(s);
    }
    free(whole.data);
}

static void flipped_bits(void **state)
{
    (void)state;
    enum { NUM = 12 };
    make_file(NUM, NUM);
    const bytes whole = read_file();
    const size_t chunk = PAGE, entry = sizeof(qr_prefix_entry) + BLOCK_SIZE * 4;
    const size_t payloads = chunk + (QR_PREFIX_GROUP_SLOTS * entry + PAGE - 1) / PAGE * PAGE;
    for (int round = 0; round < 600; round++) {
        const int where = round % 3; /* header, entries, payloads */
        const size_t i = choose(NUM);
        const size_t at = where == 0   ? choose(240)
                          : where == 1 ? chunk + i * entry + choose((uint32_t)entry)
                                       : payloads + i * STRIDE + choose(BLOCK_BYTES);
        whole.data[at] ^= (uint8_t)(1u << round % 8);
        write_file(whole.data, whole.size);
        whole.data[at] ^= (uint8_t)(1u << round % 8);
        qr_prefix_store *s = open_store(NUM);
        const int found = count_found(s, NUM);
        assert_int_equal(found, where == 0 ? 0 : NUM - 1); /* the others are still there */
        check(s);
        qr_prefix_store_close(s);
    }
    free(whole.data);
}

/* After a power failure some pages of the file are of the one time and some of the other. */
static void pages_of_different_times(void **state)
{
    (void)state;
    enum { NUM = 40 };
    make_file(NUM, NUM);
    const bytes before = read_file();
    qr_prefix_store *s = open_store(NUM);
    qr_prefix_store_save(s, INT64_MAX / 2);
    for (uint64_t i = 0; i < NUM / 2; i++) put(s, 1000 + i);
    qr_prefix_store_close(s);
    const bytes after = read_file();
    assert_int_equal(before.size, after.size);
    uint8_t *mixed = malloc(before.size);
    int most = 0, least = INT32_MAX;
    for (int round = 0; round < 150; round++) {
        const uint32_t share = choose(100);
        for (size_t at = 0; at < before.size; at += 512) {
            const size_t rest = before.size - at;
            memcpy(mixed + at, (choose(100) < share ? before : after).data + at, rest < 512 ? rest : 512);
        }
        write_file(mixed, before.size);
        s = open_store(NUM);
        int found = 0;
        for (uint64_t i = 0; i < NUM; i++) found += get(s, i) + get(s, 1000 + i);
        most = found > most ? found : most;
        least = found < least ? found : least;
        check(s);
        qr_prefix_store_close(s);
    }
    print_message("%d to %d of %d blocks found\n", least, most, NUM);
    assert_true(least < NUM && most > 0);
    free(mixed);
    free(before.data);
    free(after.data);
}

static void killed_while_writing(void **state)
{
    (void)state;
    enum { NUM = 60, FAMILY = 200, ROUNDS = 25 };
    unlink(file_path());
    int found = 0;
    for (int round = 0; round < ROUNDS; round++) {
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            random_state = (uint64_t)round << 32;
            qr_prefix_store *s = open_store(NUM);
            for (;;) {
                put(s, choose(FAMILY));
                if (choose(64) == 0) { /* also while the order is written and the file cleared */
                    if (choose(4) == 0) qr_prefix_store_forget(s);
                    qr_prefix_store_close(s);
                    s = open_store(NUM);
                }
            }
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000 + (long)choose(20000000)}, NULL);
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        qr_prefix_store *s = open_store(NUM);
        found += count_found(s, FAMILY);
        check(s);
        qr_prefix_store_close(s);
    }
    print_message("%d kills, %d blocks found afterwards, all of them right\n", ROUNDS, found);
    assert_true(found > 0);
}

static void another_model_or_layout(void **state)
{
    (void)state;
    make_file(20, 20);
    qr_prefix_file_options o = options_for(20);
    qr_prefix_store *s;
    o.fingerprint[0] ^= 1; /* a file of its own */
    assert_int_equal(qr_prefix_store_open(&o, RING, &s, NULL), QUIRE_OK);
    assert_int_equal(num_blocks(s), 0);
    qr_prefix_store_close(s);
    o.fingerprint[1] ^= 1; /* the same name by accident */
    assert_int_equal(qr_prefix_store_open(&o, RING, &s, NULL), QUIRE_OK);
    assert_int_equal(num_blocks(s), 0);
    qr_prefix_store_close(s);
    make_file(20, 20);
    o = options_for(20);
    o.block_size = 8;
    assert_int_equal(qr_prefix_store_open(&o, RING, &s, NULL), QUIRE_OK);
    assert_int_equal(num_blocks(s), 0);
    qr_prefix_store_close(s);

    make_file(20, 20);
    const bytes whole = read_file();
    uint32_t *version = (uint32_t *)(void *)(whole.data + 8);
    assert_int_equal(*version, QR_PREFIX_FILE_VERSION);
    *version += 1; /* with a checksum that fits, as a later version would have */
    const uint64_t checksum = XXH3_64bits(whole.data, 232);
    memcpy(whole.data + 232, &checksum, sizeof checksum);
    write_file(whole.data, whole.size);
    s = open_store(20);
    assert_int_equal(num_blocks(s), 0);
    qr_prefix_store_close(s);
    free(whole.data);
}

static void expect_failure(const qr_prefix_file_options *o, quire_status status, const char *word)
{
    qr_prefix_store *s;
    quire_error error;
    assert_int_equal(qr_prefix_store_open(o, RING, &s, &error), status);
    if (!strstr(error.message, word)) fail_msg("no '%s' in: %s", word, error.message);
    assert_non_null(strstr(error.param, "prefix_cache_"));
}

static void what_cannot_be_opened_says_why(void **state)
{
    (void)state;
    unlink(file_path());
    qr_prefix_file_options o = options_for(20);
    o.path = "tests/no-such-folder";
    expect_failure(&o, QUIRE_IO, "no-such-folder");
    o.path = "/proc"; /* nobody may write here, root included */
    expect_failure(&o, QUIRE_IO, "/proc/quire-");
    o = options_for(20);
    o.max_bytes = 10000;
    expect_failure(&o, QUIRE_INVALID, "one KV block needs");
    o.max_bytes = (uint64_t)1 << 45; /* 32 TiB */
    expect_failure(&o, QUIRE_IO, "lower prefix_cache_space");
    o = options_for(20);
    qr_prefix_store *s = open_store(20);
    expect_failure(&o, QUIRE_IO, "another engine");
    qr_prefix_store_close(s);
    unlink(file_path());
    assert_int_equal(mkdir(file_path(), 0700), 0);
    expect_failure(&o, QUIRE_IO, file_path());
    rmdir(file_path());
    assert_int_equal(symlink("/dev/null", file_path()), 0);
    expect_failure(&o, QUIRE_IO, file_path());
    unlink(file_path());
}

/* A disk that is full when it runs: nothing is kept, nothing is wrong; once there is room, blocks are kept again. */
static void writes_that_fail(void **state)
{
    (void)state;
    make_file(40, 10);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, none;
    getrlimit(RLIMIT_FSIZE, &old);
    none = old;
    none.rlim_cur = 0;
    qr_prefix_store *s = open_store(40);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    qr_prefix_store_stats stats;
    int num_put = 0;
    for (uint64_t i = 10; i < 40; i++) num_put += put(s, i);
    do { /* until the writer has tried them all */
        assert_false(get(s, 1000));
        qr_prefix_store_get_stats(s, &stats);
    } while (stats.num_dropped < 30);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    check(s);
    assert_int_equal(num_put, 30);
    assert_int_equal(stats.num_written, 0);
    assert_int_equal(count_found(s, 40), 10);
    assert_true(put(s, 20));
    qr_prefix_store_close(s);
    s = open_store(40);
    assert_int_equal(count_found(s, 40), 11);
    qr_prefix_store_close(s);
}

static void failed_allocations(void **state)
{
    (void)state;
    make_file(20, 10);
    const qr_prefix_file_options o = options_for(20);
    uint64_t n = 0;
    for (;; n++) {
        qr_prefix_store *s = NULL;
        quire_error error = {0};
        qr_mem_fail_after(n);
        const quire_status status = qr_prefix_store_open(&o, RING, &s, &error);
        const bool failed = qr_mem_num_allocations() > n;
        if (!failed) {
            assert_int_equal(status, QUIRE_OK);
            qr_mem_fail_after(0); /* nothing is allocated from here on, or close goes on without */
            assert_true(put(s, 15) && get(s, 3));
            qr_prefix_store_close(s);
            qr_mem_fail_off();
            break;
        }
        qr_mem_fail_off();
        assert_int_equal(status, QUIRE_NOMEM);
        assert_true(error.message[0] != 0);
    }
    assert_true(n >= 9);
    qr_prefix_store *s = open_store(20);
    assert_int_equal(count_found(s, 20), 11);
    qr_prefix_store_close(s);
}

/* Random operations; the reference is the family of blocks itself, and what was put last is there. */
static void random_operations(void **state)
{
    (void)state;
    enum { NUM = 30, FAMILY = 90 };
    unlink(file_path());
    random_state = 99;
    qr_prefix_store *s = open_store(NUM);
    int hits = 0, gets = 0;
    for (int i = 0; i < 6000; i++) {
        const uint32_t op = choose(200);
        if (op < 100) {
            const uint64_t which = choose(FAMILY);
            if (put(s, which)) assert_true(get(s, which));
        } else if (op < 196) {
            gets++;
            hits += get(s, choose(FAMILY));
        } else if (op == 196 && choose(4) == 0) {
            qr_prefix_store_forget(s);
            assert_int_equal(count_found(s, FAMILY), 0);
        } else {
            if (choose(2)) qr_prefix_store_save(s, 1000000000);
            const int before = num_blocks(s);
            qr_prefix_store_close(s);
            s = open_store(NUM);
            assert_true(num_blocks(s) <= before);
        }
        if (i % 8 == 0) check(s);
    }
    print_message("%d of %d found\n", hits, gets);
    assert_true(hits > 100);
    qr_prefix_store_close(s);
}

static int set_up(void **state)
{
    (void)state;
    qr_log_set_level(QR_LOG_OFF);
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_at_once_and_after_a_restart),
        cmocka_unit_test(a_hit_is_verified),
        cmocka_unit_test(the_oldest_are_given_up),
        cmocka_unit_test(the_limit_may_change),
        cmocka_unit_test(a_file_cut_short),
        cmocka_unit_test(flipped_bits),
        cmocka_unit_test(pages_of_different_times),
        cmocka_unit_test(killed_while_writing),
        cmocka_unit_test(another_model_or_layout),
        cmocka_unit_test(what_cannot_be_opened_says_why),
        cmocka_unit_test(writes_that_fail),
        cmocka_unit_test(failed_allocations),
        cmocka_unit_test(random_operations),
    };
    return cmocka_run_group_tests_name("prefix_store", tests, set_up, tear_down);
}
