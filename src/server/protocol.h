/* protocol: the JSON body of an API call, checked field by field.
 *
 *   body bytes ─► limits on depth and size ─► jansson ─► table of known fields ─► qr_api_request
 *                                                        (src/server/protocol.c: one row a field)
 *
 * An unknown field is accepted and ignored. A known field of a wrong type or value is INVALID (or UNSUPPORTED, where
 * the value is legal but quire cannot do it), with error->param naming it. null means "not given" everywhere.
 * Threads: any; no shared state.  Source: vLLM's entrypoints/openai (field names, defaults), OpenAI's API reference. */
#ifndef QR_SERVER_PROTOCOL_H
#define QR_SERVER_PROTOCOL_H

#include "base/status.h"

typedef enum qr_api_kind {
    QR_API_COMPLETION = 1, /* powers of two: the field table says in which calls a field is known */
    QR_API_CHAT = 2,
    QR_API_TOKENIZE = 4,
    QR_API_DETOKENIZE = 8,
} qr_api_kind;

/* What a body may ask for at most. */
typedef struct qr_api_limits {
    int vocab_size;
    int max_n;        /* sequences per prompt */
    int max_prompts;  /* prompts per call */
    int max_logprobs; /* candidates per token */
} qr_api_limits;

/* One prompt: text as given, or token ids. The caller adds the other after parsing: ids by tokenizing, a chat's text by
 * rendering, the text of ids when echo needs it. */
typedef struct qr_api_prompt {
    const char *text; /* NULL: none yet */
    size_t text_bytes;
    char *owned_text; /* what `text` points into when the request's JSON does not hold it; freed with quire_free */
    int32_t *ids;     /* owned; freed with qr_free */
    size_t num_ids;
} qr_api_prompt;

typedef struct qr_api_request {
    qr_api_kind kind;
    struct json_t *root;    /* owns every `const char *` here */
    const char *model;      /* NULL: not given */
    const char *request_id; /* NULL: not given */
    bool stream, include_usage, continuous_usage_stats;
    bool echo, return_token_ids, return_tokens_as_token_ids, return_token_strs;
    bool add_special_tokens; /* BOS in front of the prompt, as the model's file says */
    int priority;
    const char *cache_salt;
    quire_sampling_params sampling; /* max_tokens -1: not given; its arrays belong to this request */
    bool echo_only;                 /* echo with max_tokens 0: one token is generated and not shown */

    qr_api_prompt *prompts; /* [num_prompts]; a chat has one, filled in after rendering */
    int num_prompts;

    char *messages_json; /* chat and tokenize-a-chat: normalised for templates, else NULL */
    char *tools_json;    /* NULL: none */
    char *chat_template_kwargs_json;
    const char *chat_template;
    bool add_generation_prompt, continue_final_message;
    const char *final_message; /* text of the last message, NULL if it has none */
    bool final_is_assistant;

    bool logprobs_flag; /* chat's `logprobs` and `top_logprobs`, before they become sampling.logprobs */
    int top_logprobs, max_completion_tokens;
    int64_t seed;
} qr_api_request;

/* Read `body` into *out. Returns OK | INVALID | UNSUPPORTED | NOMEM; on failure *out owns nothing. */
QUIRE_MUST_USE quire_status qr_api_parse(qr_api_kind kind, const char *body, size_t body_bytes,
                                         const qr_api_limits *limits, qr_api_request *out, quire_error *error);
void qr_api_request_deinit(qr_api_request *request);

/* The chat part of qr_api_parse (src/server/protocol_chat.c): messages, tools, tool_choice, template arguments. */
QUIRE_MUST_USE quire_status qr_api_parse_chat(qr_api_request *request, quire_error *error);
/* strdup of json_dumps(value): compact JSON, freed with qr_free; NULL on no memory. */
char *qr_api_dump(const struct json_t *value);

#endif
