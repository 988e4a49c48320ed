/* params: the defaults of a request; apart from the engine, for those that link without it. */
#include "quire.h"

void quire_sampling_params_init(quire_sampling_params *params)
{
    *params = (quire_sampling_params){.n = 1,
                                      .max_tokens = 16,
                                      .temperature = 1.0,
                                      .top_p = 1.0,
                                      .typical_p = 1.0,
                                      .length_penalty = 1.0,
                                      .repetition_penalty = 1.0,
                                      .logprobs = -1,
                                      .prompt_logprobs = -1,
                                      .skip_special_tokens = true,
                                      .detokenize = true};
}

void quire_request_options_init(quire_request_options *options)
{
    *options = (quire_request_options){.parse_special = true, .add_special = true};
    quire_sampling_params_init(&options->sampling);
}
