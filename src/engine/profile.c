#include "engine/profile.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

/* The matrix products of a layer, in the order of model.c, and the one of the logits. */
typedef enum linear_kind { LINEAR_QKV, LINEAR_ATTN_OUTPUT, LINEAR_MLP_UP, LINEAR_MLP_DOWN, LINEAR_LOGITS } linear_kind;

struct qr_profile {
    qr_backend_ops ops; /* first, so that an op finds its profile by the table it was called from */
    const qr_backend_ops *inner;
    linear_kind next_linear;
    int64_t lap_ns, cpu_ns; /* when the last lap ended; the engine thread's processor time outside the model's part */
    quire_step_profile step;
    void (*on_step)(void *user, const quire_step_profile *step);
    void *user;
};

const char *quire_step_part_text(quire_step_part part)
{
    static const char *const texts[] = {
#define XX(name, text) [QUIRE_STEP_##name] = text,
        QUIRE_STEP_PART_MAP(XX)
#undef XX
    };
    return part >= 0 && part < QUIRE_NUM_STEP_PARTS ? texts[part] : "";
}

static qr_profile *profile_of(const qr_backend *be) { return (qr_profile *)(void *)(uintptr_t)be->ops; }

void qr_profile_lap(qr_profile *p, quire_step_part part)
{
    if (!p) return;
    int64_t now = qr_clock_ns();
    p->step.seconds[part] += (double)(now - p->lap_ns) * 1e-9;
    p->lap_ns = now;
}

/* ---- the backend's ops, timed ------------------------------------------------------------------------------ */

static void embed(qr_backend *be, const qr_tensor_view *view, const int32_t *ids, int num_tokens, float scale,
                  const qr_tensor_view *pos_view, const int32_t *positions, int pos_offset, float *out, int64_t cols)
{
    qr_profile *p = profile_of(be);
    p->inner->embed(be, view, ids, num_tokens, scale, pos_view, positions, pos_offset, out, cols);
    p->next_linear = LINEAR_QKV;
    qr_profile_lap(p, QUIRE_STEP_EMBEDDING);
}

static void rms_norm(qr_backend *be, const float *x, const float *w, float eps, int num_tokens, int64_t cols,
                     float *out)
{
    qr_profile *p = profile_of(be);
    p->inner->rms_norm(be, x, w, eps, num_tokens, cols, out);
    qr_profile_lap(p, QUIRE_STEP_NORMS);
}

static void layer_norm(qr_backend *be, const float *x, const float *w, const float *b, float eps, int num_tokens,
                       int64_t cols, float *out)
{
    qr_profile *p = profile_of(be);
    p->inner->layer_norm(be, x, w, b, eps, num_tokens, cols, out);
    qr_profile_lap(p, QUIRE_STEP_NORMS);
}

static void linear(qr_backend *be, const float *x, int64_t ld_x, int num_tokens, const qr_weight *const *weights,
                   const float *const *biases, int num_weights, float *y, int64_t ld_y, bool accumulate)
{
    static const struct {
        quire_step_part part;
        linear_kind next;
    } kinds[] = {[LINEAR_QKV] = {QUIRE_STEP_QKV, LINEAR_ATTN_OUTPUT},
                 [LINEAR_ATTN_OUTPUT] = {QUIRE_STEP_ATTN_OUTPUT, LINEAR_MLP_UP},
                 [LINEAR_MLP_UP] = {QUIRE_STEP_MLP, LINEAR_MLP_DOWN},
                 [LINEAR_MLP_DOWN] = {QUIRE_STEP_MLP, LINEAR_QKV},
                 [LINEAR_LOGITS] = {QUIRE_STEP_LOGITS, LINEAR_LOGITS}};
    qr_profile *p = profile_of(be);
    linear_kind kind = p->next_linear;
    p->inner->linear(be, x, ld_x, num_tokens, weights, biases, num_weights, y, ld_y, accumulate);
    p->next_linear = kinds[kind].next;
    qr_profile_lap(p, kinds[kind].part);
}

static void gated_act(qr_backend *be, const float *gate_up, qr_act act, int num_tokens, int64_t cols, float *out)
{
    qr_profile *p = profile_of(be);
    p->inner->gated_act(be, gate_up, act, num_tokens, cols, out);
    qr_profile_lap(p, QUIRE_STEP_ACTIVATION);
}

static void act(qr_backend *be, float *x, qr_act kind, int num_tokens, int64_t cols)
{
    qr_profile *p = profile_of(be);
    p->inner->act(be, x, kind, num_tokens, cols);
    qr_profile_lap(p, QUIRE_STEP_ACTIVATION);
}

static void rope_kv_write(qr_backend *be, const qr_batch *batch, const qr_rope_kv_args *args)
{
    qr_profile *p = profile_of(be);
    p->inner->rope_kv_write(be, batch, args);
    qr_profile_lap(p, QUIRE_STEP_ROPE);
}

static void attention(qr_backend *be, const qr_batch *batch, const qr_attention_args *args)
{
    qr_profile *p = profile_of(be);
    p->inner->attention(be, batch, args);
    qr_profile_lap(p, QUIRE_STEP_ATTENTION);
}

static void gather_rows(qr_backend *be, const float *x, const int32_t *rows, int num_rows, int64_t cols, float *out)
{
    qr_profile *p = profile_of(be);
    qr_profile_lap(p, QUIRE_STEP_SAMPLING); /* of the rows before these */
    p->inner->gather_rows(be, x, rows, num_rows, cols, out);
    p->next_linear = LINEAR_LOGITS;
    qr_profile_lap(p, QUIRE_STEP_LOGITS);
}

/* ---- a step -------------------------------------------------------------------------------------------------- */

quire_status qr_profile_create(const quire_engine_options *options, qr_profile **out, quire_error *error)
{
    if (!options->on_step) return QUIRE_OK;
    qr_profile *p = qr_calloc(1, sizeof *p);
    if (!p) return qr_fail_nomem(error, "the profile", sizeof *p);
    p->on_step = options->on_step;
    p->user = options->user;
    p->lap_ns = qr_clock_ns();
    *out = p;
    return QUIRE_OK;
}

void qr_profile_destroy(qr_profile *p) { qr_free(p); }

void qr_profile_enter(qr_profile *p, qr_backend *be)
{
    if (!p) return;
    p->inner = be->ops;
    p->ops = *be->ops;
    p->ops.embed = embed;
    p->ops.rms_norm = rms_norm;
    p->ops.layer_norm = layer_norm;
    p->ops.linear = linear;
    p->ops.gated_act = gated_act;
    p->ops.act = act;
    p->ops.rope_kv_write = rope_kv_write;
    p->ops.attention = attention;
    p->ops.gather_rows = gather_rows;
    be->ops = &p->ops;
    p->cpu_ns += qr_clock_thread_ns();
}

void qr_profile_leave(qr_profile *p, qr_backend *be)
{
    if (!p) return;
    be->ops = p->inner;
    p->cpu_ns -= qr_clock_thread_ns(); /* a call into the system, which is no bookkeeping */
    qr_profile_lap(p, QUIRE_STEP_SAMPLING);
}

void qr_profile_end_step(qr_profile *p, const qr_batch *batch)
{
    if (!p) return;
    qr_profile_lap(p, QUIRE_STEP_OUTPUT);
    p->step.bookkeeping_cpu_seconds = (double)(p->cpu_ns + qr_clock_thread_ns()) * 1e-9;
    p->step.num_seqs = batch->num_reqs;
    p->step.num_tokens = batch->num_tokens;
    for (int i = 0; i < batch->num_reqs; i++) p->step.num_context_tokens += batch->seq_lens[i];
    p->on_step(p->user, &p->step);
    memset(&p->step, 0, sizeof p->step);
    p->lap_ns = qr_clock_ns();
    p->cpu_ns = -qr_clock_thread_ns();
}
