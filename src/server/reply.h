/* reply: the JSON answer of one generation call, streamed or whole, from the engine's outputs.
 *
 *   quire_output ─► qr_reply_add ─► choice[prompt_idx * n + index]: JSON fragments (text, ids, logprobs)
 *                                     │ streamed: one SSE event per output, fragments cleared
 *                                     ▼ whole: fragments grow until qr_reply_finish writes the body
 *
 * Knows no HTTP and no engine: it reads the request and the outputs it is given.
 * Threads: one at a time.  Source: vLLM's serving_completion.py and serving_chat.py (field names and order). */
#ifndef QR_SERVER_REPLY_H
#define QR_SERVER_REPLY_H

#include "server/emit.h"
#include "server/protocol.h"
#include "server/token_text.h"

typedef struct qr_choice {
    qr_emit text;                                      /* escaped, no quotes */
    qr_emit token_ids;                                 /* "1,2,3" */
    qr_emit tokens;                                    /* completions: strings; chat: whole logprob objects */
    qr_emit token_logprobs, top_logprobs, text_offset; /* completions only */
    int64_t num_chars;                                 /* of all tokens so far: the next text_offset */
    int num_output_tokens;
    bool started;
    bool role_sent; /* chat streams begin with the role */
    quire_finish_reason finish_reason;
    char *stop_string;
    int32_t stop_token_id;
    double cumulative_logprob, beam_score; /* of finished choices of best_of and beam search */
} qr_choice;

typedef struct qr_reply {
    const qr_api_request *request; /* prompts tokenized */
    qr_token_text *token_text;
    qr_emit head;       /* {"id":...,"object":...,"created":...,"model":...,"system_fingerprint":..., */
    qr_choice *choices; /* [num_choices] */
    int num_choices;
    qr_emit *prompt_logprobs; /* [num_prompts] JSON arrays; empty until known */
    int *num_cached_tokens;   /* [num_prompts] */
} qr_reply;

/* `request` and `token_text` must outlive the reply. `id` is the part after "cmpl-" or "chatcmpl-". */
QUIRE_MUST_USE quire_status qr_reply_init(qr_reply *reply, const qr_api_request *request, qr_token_text *token_text,
                                          const char *model_name, const char *id, int64_t created, quire_error *error);
void qr_reply_deinit(qr_reply *reply);
/* Take one output of prompt prompt_idx. With request->stream, append its SSE events to `out`; else `out` is unused. */
void qr_reply_add(qr_reply *reply, int prompt_idx, const quire_output *output, qr_emit *out);
/* Append what ends the answer: streamed, the usage event if asked and [DONE]; else the whole body. */
void qr_reply_finish(qr_reply *reply, qr_emit *out);
/* An OpenAI error object as vLLM writes it: {"error":{"message","type","param","code"}}. param NULL or "": null. */
void qr_reply_error(qr_emit *out, int http_status, const char *message, const char *param);

#endif
