/* Any bytes as the body of an API call, the first one choosing which: an error, or a request whose every field can be
 * used. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "server/emit.h"
#include "server/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The engine's defaults, as quire.h states them. */
void quire_sampling_params_init(quire_sampling_params *params)
{
    *params = (quire_sampling_params){.n = 1,
                                      .temperature = 1,
                                      .top_p = 1,
                                      .typical_p = 1,
                                      .repetition_penalty = 1,
                                      .logprobs = -1,
                                      .prompt_logprobs = -1};
}

static void expect(bool truth)
{
    if (!truth) __builtin_trap();
}

static void use_request(const qr_api_request *r, const qr_api_limits *limits)
{
    const quire_sampling_params *s = &r->sampling;
    expect(s->n >= 1 && s->n <= limits->max_n && s->max_tokens >= -1 && s->max_tokens != 0 && s->min_tokens >= 0);
    expect(s->temperature >= 0 && s->top_p > 0 && s->top_p <= 1 && s->typical_p > 0 && s->typical_p <= 1);
    expect(s->min_p >= 0 && s->min_p <= 1 && s->repetition_penalty > 0 && isfinite(s->repetition_penalty));
    expect(fabs(s->presence_penalty) <= 2 && fabs(s->frequency_penalty) <= 2);
    expect(s->logprobs >= -1 && s->logprobs <= limits->max_logprobs && s->prompt_logprobs <= limits->max_logprobs);
    for (int i = 0; i < s->num_stop; i++) expect(strlen(s->stop[i]) > 0);
    for (int i = 0; i < s->num_stop_token_ids; i++)
        expect(s->stop_token_ids[i] >= 0 && s->stop_token_ids[i] < limits->vocab_size);
    for (int i = 0; i < s->num_logit_bias; i++)
        expect(s->logit_bias[i].token_id >= 0 && s->logit_bias[i].token_id < limits->vocab_size &&
               fabsf(s->logit_bias[i].bias) <= 100);
    expect(r->num_prompts >= 1 && r->num_prompts <= limits->max_prompts);
    for (int i = 0; i < r->num_prompts; i++) {
        const qr_api_prompt *prompt = &r->prompts[i];
        for (size_t j = 0; j < prompt->num_ids; j++) expect(prompt->ids[j] >= 0 && prompt->ids[j] < limits->vocab_size);
        qr_emit e = {0};
        qr_emit_string(&e, prompt->text, prompt->text_bytes);
        expect(!e.failed);
        qr_emit_deinit(&e);
    }
    expect(!r->messages_json || r->messages_json[0] == '[');
    expect(!r->tools_json || r->tools_json[0] == '[');
    expect(!r->continue_final_message || r->kind & QR_API_COMPLETION || !r->messages_json || r->final_message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const qr_api_limits limits = {.vocab_size = 1000, .max_n = 8, .max_prompts = 16, .max_logprobs = 20};
    if (size == 0) return 0;
    qr_api_request request;
    quire_error error = {0};
    qr_api_kind kind = (qr_api_kind)(1 << (data[0] & 3));
    if (qr_api_parse(kind, (const char *)data + 1, size - 1, &limits, &request, &error) == QUIRE_OK) {
        use_request(&request, &limits);
        qr_api_request_deinit(&request);
    } else {
        expect(error.message[0] != '\0');
    }
    return 0;
}
