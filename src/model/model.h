/* model: the weights of a decoder and its forward pass over backend.h.
 *
 *   input_ids ─► embed ─► [ norm ─► Q,K,V ─► RoPE, K and V to the cache ─► paged attention ─► + ─►
 *                           norm ─► MLP ─► + ] x layers ─► final norm ─► logits of the rows that sample
 *
 * One forward pass for every architecture: the differences are data (model/config.h).
 * With a comm each rank holds a part of the heads, the MLP and the vocabulary (model/shard.h), calls forward and logits
 * with the same arguments as the others, and the two sums of a layer are made over all of them.
 * A workspace holds the activations of one step; forward and logits allocate nothing.
 * Threads: one caller at a time per model (the backend's rule).  Source: Hugging Face transformers, modeling_*.py. */
#ifndef QR_MODEL_MODEL_H
#define QR_MODEL_MODEL_H

#include "backend/backend.h"
#include "base/comm.h"
#include "model/config.h"
#include "model/shard.h"

typedef struct qr_model qr_model;
typedef struct qr_model_workspace qr_model_workspace;

typedef void (*qr_model_progress)(void *user, double fraction);

/* Pack the checkpoint's weights for `be`, or this rank's part of them (comm NULL: one rank). All three must outlive the
 * model. FORMAT names a tensor that is missing or of the wrong shape, UNSUPPORTED one that cannot be cut; on failure
 * nothing stays allocated. */
QUIRE_MUST_USE quire_status qr_model_load(const qr_checkpoint *ckpt, qr_backend *be, qr_compute compute, qr_comm *comm,
                                          qr_model_progress on_progress, void *user, qr_model **out,
                                          quire_error *error);
void qr_model_destroy(qr_model *model); /* NULL is fine */

const qr_model_config *qr_model_get_config(const qr_model *model);
size_t qr_model_weights_bytes(const qr_model *model); /* on this rank */
int64_t qr_model_num_parameters(const qr_model *model);
/* KV layout of this rank; dtype, block_size and num_blocks are left for the caller. */
qr_kv_config qr_model_kv_config(const qr_model *model);

/* Activations for steps of up to max_tokens rows of max_reqs requests and RoPE tables for positions below
 * max_positions. */
QUIRE_MUST_USE quire_status qr_model_workspace_create(const qr_model *model, int max_tokens, int max_reqs,
                                                      int max_logits_rows, int max_positions, qr_model_workspace **out,
                                                      quire_error *error);
void qr_model_workspace_destroy(qr_model_workspace *ws);

/* Run the batch: K and V of all its tokens are in `cache` and the final hidden states in ws afterwards.
 * batch->num_tokens <= max_tokens, positions < max_positions. */
void qr_model_forward(const qr_model *model, qr_model_workspace *ws, const qr_batch *batch, qr_kv_cache *cache);
/* Logits of rows logits_indices[first ..] of the last forward's batch, which is still there: float32 [num_rows,
 * vocab_size] on rank 0, in ws until the next call. num_rows <= max_logits_rows. */
const float *qr_model_logits(const qr_model *model, qr_model_workspace *ws, int first, int num_rows);
/* Has the backend an op `sample`? */
bool qr_model_samples_on_device(const qr_model *model);
/* Then: the same as qr_model_logits() for that op, asked for and not waited for. */
const float *qr_model_device_logits(const qr_model *model, qr_model_workspace *ws, int first, int num_rows);

#endif
