/* prefix_file: blocks of K and V in a file that nobody needs to trust.
 *
 *   | header | chunk 0 | 256 payloads | chunk 1 | 256 payloads | ...        slot i is in group i / 256
 *               │           └ payload: one block's bytes, all layers (backend.h, kv_read_block)
 *               └ 256 entries: whose payload it is (keys, tokens) and its checksum
 *
 * Any state of the file is safe to read. An entry counts only if its own checksum holds, a payload only if its bytes
 * have the checksum that its entry names. So a slot is written in any order and never flushed: a write that a kill or a
 * power failure cut short leaves an entry or a payload that does not fit, which is the same as none.
 *
 * The header holds what the blocks depend on (fingerprint, block size and bytes, layout version) and a secret drawn
 * when the file was made, which all keys and checksums depend on. A header that does not fit is replaced and everything
 * behind it is gone. Changing the limit on the size grows the file, or cuts groups off its end.
 * All numbers are little endian. The file is its owner's alone (mode 0600): it holds the tokens of prompts and answers.
 *
 * Threads: write_block on one thread while others read and write other slots; everything else one at a time. */
#ifndef QR_ENGINE_PREFIX_FILE_H
#define QR_ENGINE_PREFIX_FILE_H

#include "base/status.h"
#include "kv/block_store.h"

/* Raised whenever the file's layout, or the bytes of a block for the same tokens, change. */
enum { QR_PREFIX_FILE_VERSION = 1, QR_PREFIX_GROUP_SLOTS = 256 };

typedef struct qr_prefix_file_options {
    const char *path;        /* folder, which must exist */
    uint64_t max_bytes;      /* of the file; room for at least one block */
    uint64_t fingerprint[2]; /* of all that K and V depend on but the tokens; names the file */
    int block_size;          /* tokens */
    size_t block_bytes;
} qr_prefix_file_options;

/* One slot's place in a chunk, entry_bytes long. */
typedef struct qr_prefix_entry {
    uint64_t checksum; /* of all that follows */
    uint64_t tick;     /* order of use, higher is later; 0: the slot is empty */
    qr_content_key key, parent_key;
    uint64_t extra_key;
    uint64_t payload_checksum[2];
    int32_t tokens[]; /* [block_size] */
} qr_prefix_entry;

typedef struct qr_prefix_file {
    int fd;
    char *path; /* of the file */
    int block_size;
    size_t block_bytes, entry_bytes, chunk_bytes, group_bytes;
    size_t payload_stride; /* block_bytes in whole pages */
    int32_t num_slots;     /* that max_bytes allows */
    uint8_t secret[QR_STORE_SECRET_BYTES];
} qr_prefix_file;

/* Open or make the folder's file of this fingerprint and lock it.
 *   returns   OK | INVALID (no room for one block) | IO (no such folder, not writable, locked by another process, less
 *             free disk than max_bytes asks for) | NOMEM; the message says which, error->param names the option */
QUIRE_MUST_USE quire_status qr_prefix_file_open(const qr_prefix_file_options *options, qr_prefix_file *out,
                                                quire_error *error);
void qr_prefix_file_close(qr_prefix_file *file); /* unlocks; a zeroed one with fd -1 is fine */

/* Slots below this may hold something. */
int32_t qr_prefix_file_num_slots_written(const qr_prefix_file *file);
/* Entries of the group's slots, chunk_bytes; what the file does not have (any more) is zeros. */
void qr_prefix_file_read_chunk(const qr_prefix_file *file, int32_t group, void *out);
bool qr_prefix_file_write_chunk(const qr_prefix_file *file, int32_t group, const void *chunk); /* false: errno */
/* Whether an entry is one that was written whole: used, and with the right checksum. */
bool qr_prefix_file_entry_is_whole(const qr_prefix_file *file, const qr_prefix_entry *entry);
void qr_prefix_file_seal_entry(const qr_prefix_file *file, qr_prefix_entry *entry); /* sets the checksum */

/* Write payload and entry, whose checksums are set here. False: errno says why; the slot may be anything but whole. */
bool qr_prefix_file_write_block(const qr_prefix_file *file, int32_t slot, qr_prefix_entry *entry, const void *payload);
/* The slot's payload into out [block_bytes]. False: it is not what the entry says (out may be anything). */
bool qr_prefix_file_read_block(const qr_prefix_file *file, int32_t slot, const qr_prefix_entry *entry, void *out);
/* Cut off all slots. */
bool qr_prefix_file_clear(const qr_prefix_file *file);

#endif
