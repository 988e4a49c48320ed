/* Hand-made checkpoints for the tests of weights: a byte buffer to build files in, a folder to put them in. */
#ifndef QR_TESTS_WEIGHTS_FILES_H
#define QR_TESTS_WEIGHTS_FILES_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/checkpoint_impl.h"

/* A fresh folder below /tmp. */
typedef struct temp_dir {
    char path[64];
} temp_dir;

__attribute__((unused)) static temp_dir temp_dir_create(void)
{
    temp_dir dir = {"/tmp/quire-test-XXXXXX"};
    if (!mkdtemp(dir.path)) fail_msg("cannot create %s", dir.path);
    return dir;
}

__attribute__((unused)) static char *temp_path(const temp_dir *dir, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir->path, name);
    return path;
}

__attribute__((unused)) static void temp_write(const temp_dir *dir, const char *name, const void *data, size_t bytes)
{
    FILE *f = fopen(temp_path(dir, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
}

/* Remove the folder with its files; folders in it must be empty. */
__attribute__((unused)) static void temp_dir_remove(const temp_dir *dir)
{
    DIR *d = opendir(dir->path);
    for (const struct dirent *entry; (entry = readdir(d));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) remove(temp_path(dir, entry->d_name));
    closedir(d);
    rmdir(dir->path);
}

/* ---- bytes */

__attribute__((unused)) static void put(qr_buf *b, const void *data, size_t bytes)
{
    assert_int_equal(qr_buf_append(b, data, bytes), 0);
}

__attribute__((unused)) static void put_u32(qr_buf *b, uint32_t v) { put(b, &v, sizeof v); }
__attribute__((unused)) static void put_u64(qr_buf *b, uint64_t v) { put(b, &v, sizeof v); }
__attribute__((unused)) static void put_str(qr_buf *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

/* ---- GGUF */

__attribute__((unused)) static void put_header(qr_buf *b, uint32_t version, uint64_t num_tensors, uint64_t num_meta)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, num_tensors);
    put_u64(b, num_meta);
}

/* Key, type, and a scalar value of `bytes` bytes. */
__attribute__((unused)) static void put_meta(qr_buf *b, const char *key, qr_meta_type type, const void *value,
                                             size_t bytes)
{
    put_str(b, key);
    put_u32(b, type);
    put(b, value, bytes);
}

__attribute__((unused)) static void put_meta_u32(qr_buf *b, const char *key, uint32_t value)
{
    put_meta(b, key, QR_META_U32, &value, sizeof value);
}

__attribute__((unused)) static void put_info(qr_buf *b, const char *name, uint32_t num_dims, const uint64_t *dims,
                                             uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put_u32(b, num_dims);
    for (uint32_t i = 0; i < num_dims; i++) put_u64(b, dims[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

/* Zeros up to a multiple of alignment, then `bytes` bytes that count up. */
__attribute__((unused)) static void put_data(qr_buf *b, size_t alignment, size_t bytes)
{
    while (b->len % alignment != 0) put(b, "", 1);
    for (size_t i = 0; i < bytes; i++) put(b, &(uint8_t){(uint8_t)i}, 1);
}

/* ---- opening from memory */

typedef quire_status (*memory_reader)(qr_checkpoint *ckpt, const uint8_t *data, size_t bytes, quire_error *error);

/* The bytes are copied to a block of exactly their size, so that a sanitizer sees any access past their end.
 * The copy lives in *copy and is freed after qr_checkpoint_close(). */
__attribute__((unused)) static quire_status open_memory(memory_reader read, const char *data, size_t bytes, char **copy,
                                                        qr_checkpoint **out, quire_error *error)
{
    qr_checkpoint *ckpt;
    *copy = malloc(bytes ? bytes : 1);
    if (bytes) memcpy(*copy, data, bytes);
    quire_status status = qr_checkpoint_create("test", &ckpt, error);
    if (status == QUIRE_OK) {
        status = read(ckpt, (const uint8_t *)*copy, bytes, error);
        if (status == QUIRE_OK)
            *out = ckpt;
        else
            qr_checkpoint_close(ckpt);
    }
    if (status != QUIRE_OK) free(*copy);
    return status;
}

__attribute__((unused)) static quire_status try_memory(memory_reader read, const char *data, size_t bytes,
                                                       quire_error *error)
{
    qr_checkpoint *ckpt;
    char *copy;
    quire_status status = open_memory(read, data, bytes, &copy, &ckpt, error);
    if (status == QUIRE_OK) {
        qr_checkpoint_close(ckpt);
        free(copy);
    }
    return status;
}

/* Opening must fail with this status and a message that holds `text`. */
__attribute__((unused)) static void expect_failure(memory_reader read, const qr_buf *b, quire_status want,
                                                   const char *text)
{
    quire_error error = {0};
    quire_status status = try_memory(read, b->data, b->len, &error);
    if (status != want || !strstr(error.message, text))
        fail_msg("status %d, message \"%s\"; expected %d, \"%s\"", status, error.message, want, text);
}

#endif
