/* The commands and all their options. */
#include <math.h>
#include <string.h>

#include "cli/cli.h"

#define AT(field) offsetof(qr_cli_args, field)
#define MODEL_HELP                                                                                                 \
    "MODEL is a GGUF file, a Hugging Face checkpoint folder, or a name that `quire pull` fetched (see quire pull " \
    "--help)."

/* ---- options shared by several commands ------------------------------------------------------- */

static const qr_option general_options[] = {
    {.name = "help", .kind = QR_OPTION_FLAG, .offset = AT(help), .short_name = 'h', .help = "show this help"},
    {0},
};
const qr_option_group qr_cli_general = {"General", general_options};

#define THREADS_OPTION                                                                                      \
    {                                                                                                       \
        .name = "threads", .kind = QR_OPTION_INT, .offset = AT(model.threads), .metavar = "N", .max = 1024, \
        .default_text = "the physical cores this process may use", .help = "threads that compute"           \
    }

static const qr_option model_options[] = {
    {.name = "compute-dtype",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(model.compute_dtype),
     .choices = "auto|float32|tensor",
     .help = "auto: packed low-bit weights times int8 activations where the file is quantized, its 16-bit weights as "
             "they are otherwise; float32: dequantized weights and float32 arithmetic, exact and slower; tensor: a "
             "CUDA device's tensor cores (docs/cuda.md), not yet run on a GPU"},
    {.name = "batch-invariant",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(model.batch_invariant),
     .help = "a request's results do not depend on how many others run; --no-batch-invariant, with --compute-dtype "
             "tensor: large matrix products may go through cuBLASLt, not yet run on a GPU"},
    THREADS_OPTION,
    {.name = "tensor-parallel-size",
     .kind = QR_OPTION_INT,
     .offset = AT(model.tensor_parallel_size),
     .metavar = "N",
     .min = 1,
     .max = QUIRE_MAX_TENSOR_PARALLEL_SIZE,
     .alias = "tp",
     .help = "processes that hold the model together, started by mpirun -n N or else by the program itself through "
             "mpirun; --threads, --swap-space and the memory options are of each"},
    {.name = "device",
     .kind = QR_OPTION_STRING,
     .offset = AT(model.device),
     .metavar = "DEVICE",
     .help = "what computes: cpu, cuda, cuda:N (the N-th CUDA device, from 0), or auto: the first CUDA device where "
             "libquire-cuda.so and a driver are there, else the CPU; with --tensor-parallel-size cuda is a device for "
             "each process, over NCCL"},
    {0},
};
static const qr_option_group model_group = {"Model", model_options};

static const qr_option memory_options[] = {
    {.name = "block-size",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.block_size),
     .metavar = "N",
     .help = "tokens in one KV block: 8, 16, 32, 64 or 128"},
    {.name = "num-kv-blocks",
     .kind = QR_OPTION_INT64,
     .offset = AT(engine.num_kv_blocks),
     .metavar = "N",
     .max = 1e15,
     .default_text = "from the two options below",
     .alias = "num-gpu-blocks-override",
     .help = "KV blocks in the pool, exactly"},
    {.name = "kv-cache-memory-bytes",
     .kind = QR_OPTION_BYTES,
     .offset = AT(engine.kv_cache_memory_bytes),
     .metavar = "SIZE",
     .default_text = "from --gpu-memory-utilization",
     .help = "memory of the KV block pool; 512MiB, 4G and GiB are powers of 1024, 4g and GB of 1000"},
    {.name = "gpu-memory-utilization",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(engine.gpu_memory_utilization),
     .metavar = "X",
     .min = 0.001,
     .max = 1,
     .default_text = "0.92; without a GPU 0.5",
     .help = "part of the GPU's memory that may be used, model included; without a GPU part of the memory free at "
             "start that the pool takes"},
    {.name = "kv-cache-dtype",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.kv_cache_dtype),
     .choices = "auto|float16|float32|int8|fp8|fp8_e4m3|fp8_e5m2",
     .help = "type of the stored keys and values; auto: float16, or float32 with --compute-dtype float32; int8 and fp8 "
             "(fp8_e4m3) take half the memory"},
    {.name = "prefix-cache-path",
     .kind = QR_OPTION_STRING,
     .offset = AT(engine.prefix_cache_path),
     .metavar = "DIR",
     .default_text = "none",
     .help = "keep KV blocks that memory has no more room for, and at the end all that are cached, in a file of this "
             "folder, and begin with them after a restart; one quire at a time"},
    {.name = "prefix-cache-space",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(prefix_cache_space_gib),
     .metavar = "GiB",
     .default_text = "4",
     .help = "size of that file, at most"},
    {0},
};
static const qr_option_group memory = {"KV cache", memory_options};

#define MAX_MODEL_LEN                                                                                       \
    {                                                                                                       \
        .name = "max-model-len", .kind = QR_OPTION_INT, .offset = AT(engine.max_model_len), .metavar = "N", \
        .max = 1e9, .default_text = "the model's",                                                          \
        .help = "tokens of prompt and answer together, at most; 4k is 4000, 4K is 4096"                     \
    }

static const qr_option scheduler_options[] = {
    MAX_MODEL_LEN,
    {.name = "max-num-batched-tokens",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_num_batched_tokens),
     .metavar = "N",
     .min = 1,
     .max = 1e6,
     .help = "tokens that one step computes, at most"},
    {.name = "max-num-seqs",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_num_seqs),
     .metavar = "N",
     .min = 1,
     .max = 65536,
     .help = "sequences that run at the same time, at most"},
    {.name = "max-num-queued-reqs",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_num_queued_reqs),
     .metavar = "N",
     .max = 1e9,
     .default_text = "no limit",
     .help = "requests that wait, at most; a server answers more of them with 503 and Retry-After"},
    {.name = "kv-allocator",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.kv_allocator),
     .choices = "vllm|vllm-v0|orca-max|orca-pow2|orca-oracle|faster-transformer",
     .help =
         "how KV memory is given out and steps are filled; all but the first are there to compare with (the paper's "
         "scheduler and its baselines)"},
    {.name = "enable-chunked-prefill",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(engine.enable_chunked_prefill),
     .given = AT(chunked_prefill_given),
     .default_text = "on with --kv-allocator vllm, else off",
     .help = "cut long prompts into steps that also serve the running requests"},
    {.name = "enable-prefix-caching",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(engine.enable_prefix_caching),
     .given = AT(prefix_caching_given),
     .default_text = "on with --kv-allocator vllm, else off",
     .help = "reuse the KV blocks of prompts that begin alike"},
    {.name = "scheduling-policy",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.scheduling_policy),
     .choices = "fair|fcfs|priority",
     .default_text = "fair with --kv-allocator vllm, else fcfs",
     .help = "fair: a short prompt may overtake longer ones, each for a bounded time; fcfs: first come first served; "
             "priority: by each request's priority (lower runs first)"},
    {.name = "preemption-mode",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.preemption_mode),
     .choices = "recompute|swap|auto",
     .help = "when KV blocks run out: compute the last request's again later, move them to swap space, or whichever "
             "is measured to be cheaper"},
    {.name = "swap-space",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(swap_space_gib),
     .metavar = "GiB",
     .default_text = "4 with --preemption-mode swap or auto",
     .help = "size of the swap space"},
    {.name = "swap-path",
     .kind = QR_OPTION_STRING,
     .offset = AT(engine.swap_path),
     .metavar = "DIR",
     .default_text = "in memory",
     .help = "keep the swap space in an unnamed file of this folder"},
    {.name = "speculative-config",
     .kind = QR_OPTION_STRING,
     .offset = AT(engine.speculative_config),
     .metavar = "JSON",
     .default_text = "off",
     .help = "guess tokens and check several in one step; the answers stay the same. {\"method\": \"ngram\", "
             "\"num_speculative_tokens\": 4, \"prompt_lookup_max\": 4, \"prompt_lookup_min\": 2} looks the last "
             "tokens up in the text so far; {\"model\": \"small.gguf\", \"num_speculative_tokens\": 4} asks a smaller "
             "model with the same tokenizer"},
    {.name = "schedule-log",
     .kind = QR_OPTION_STRING,
     .offset = AT(engine.schedule_log),
     .metavar = "FILE",
     .default_text = "none",
     .help = "write every request (tokens included) and every step's choice and time to a file, for `quire simulate "
             "--replay`"},
    {0},
};
static const qr_option_group scheduler = {"Scheduling", scheduler_options};

static const qr_option context_options[] = {MAX_MODEL_LEN, {0}};
static const qr_option_group context = {"Context", context_options};

static const qr_option log_options[] = {
    {.name = "log-level",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(log_level),
     .choices = "debug|info|warning|error|off",
     .help = "what is logged to standard error"},
    {0},
};
static const qr_option_group logging = {"Logging", log_options};

#define SAMPLING_NUMBER(option_name, field, option_kind, what)                                               \
    {                                                                                                        \
        .name = option_name, .kind = option_kind, .offset = AT(sampling.field), .metavar = "X", .help = what \
    }

#define SAMPLING_OPTIONS                                                                                            \
    SAMPLING_NUMBER("temperature", temperature, QR_OPTION_DOUBLE, "0 takes the likeliest token; higher is wilder"), \
        SAMPLING_NUMBER("top-p", top_p, QR_OPTION_DOUBLE,                                                           \
                        "keep the likeliest tokens that together have this probability; 1 is off"),                 \
        {.name = "top-k",                                                                                           \
         .kind = QR_OPTION_INT,                                                                                     \
         .offset = AT(sampling.top_k),                                                                              \
         .metavar = "N",                                                                                            \
         .help = "keep the N likeliest tokens; 0 or less is off"},                                                  \
        SAMPLING_NUMBER("min-p", min_p, QR_OPTION_DOUBLE,                                                           \
                        "drop tokens less likely than X times the likeliest; 0 is off"),                            \
        SAMPLING_NUMBER("typical-p", typical_p, QR_OPTION_DOUBLE,                                                   \
                        "keep the most typical tokens that together have this probability; 1 is off"),              \
        SAMPLING_NUMBER("repetition-penalty", repetition_penalty, QR_OPTION_DOUBLE,                                 \
                        "above 1 discourages tokens of the prompt and the answer; 1 is off"),                       \
        SAMPLING_NUMBER("presence-penalty", presence_penalty, QR_OPTION_DOUBLE,                                     \
                        "subtracted once from tokens that the answer has, -2 to 2"),                                \
        SAMPLING_NUMBER("frequency-penalty", frequency_penalty, QR_OPTION_DOUBLE,                                   \
                        "subtracted from tokens of the answer for each time, -2 to 2"),                             \
        {.name = "logit-bias",                                                                                      \
         .kind = QR_OPTION_STRING,                                                                                  \
         .offset = AT(logit_bias),                                                                                  \
         .metavar = "JSON",                                                                                         \
         .help = "{\"ID\": BIAS, ...}, added to the logits of tokens, -100 to 100"},                                \
        {.name = "seed",                                                                                            \
         .kind = QR_OPTION_UINT64,                                                                                  \
         .offset = AT(seed),                                                                                        \
         .metavar = "N",                                                                                            \
         .given = AT(seed_given),                                                                                   \
         .help = "of the random numbers of requests that name none; the same seed gives the same answer"},          \
        {.name = "stop",                                                                                            \
         .kind = QR_OPTION_LIST,                                                                                    \
         .offset = AT(stop),                                                                                        \
         .metavar = "TEXT",                                                                                         \
         .help = "end the answer before this text; may be given several times"},                                    \
        {.name = "stop-token-ids",                                                                                  \
         .kind = QR_OPTION_STRING,                                                                                  \
         .offset = AT(stop_token_ids),                                                                              \
         .metavar = "ID,...",                                                                                       \
         .help = "end the answer at one of these tokens"},                                                          \
        {.name = "min-tokens",                                                                                      \
         .kind = QR_OPTION_INT,                                                                                     \
         .offset = AT(sampling.min_tokens),                                                                         \
         .metavar = "N",                                                                                            \
         .help = "stop strings and tokens do not count before so many"},                                            \
    {                                                                                                               \
        .name = "ignore-eos", .kind = QR_OPTION_FLAG, .offset = AT(sampling.ignore_eos),                            \
        .help = "go on after the model's end-of-text token"                                                         \
    }

static const qr_option generate_sampling_options[] = {
    {.name = "max-tokens",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.max_tokens),
     .metavar = "N",
     .default_text = "256; 16 for the lines of --file",
     .given = AT(max_tokens_given),
     .help = "new tokens at most; -1: until --max-model-len"},
    SAMPLING_OPTIONS,
    {.name = "n",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.n),
     .metavar = "N",
     .short_name = 'n',
     .help = "answers to one prompt; they share the prompt's KV blocks"},
    {.name = "best-of",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.best_of),
     .metavar = "N",
     .default_text = "n",
     .help = "draw so many answers and give the best n of them, by mean log probability"},
    {.name = "beam-width",
     .kind = QR_OPTION_INT,
     .offset = AT(beam_width),
     .metavar = "N",
     .default_text = "no beam search",
     .help = "search with N beams and give the best n answers; the options that shape random draws do not count"},
    {.name = "length-penalty",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(sampling.length_penalty),
     .metavar = "X",
     .help = "a beam's score is its log probability divided by its length to the power of X"},
    {.name = "early-stopping",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(early_stopping),
     .choices = "false|true|never",
     .default_text = "false",
     .help =
         "when a beam search ends: when improvement is unlikely, with the first N answers, or when it is impossible"},
    {.name = "logprobs",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.logprobs),
     .metavar = "N",
     .default_text = "none",
     .help = "log probabilities of the chosen and the N likeliest tokens (with --json or --file)"},
    {.name = "prompt-logprobs",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.prompt_logprobs),
     .metavar = "N",
     .default_text = "none",
     .help = "the same for the tokens of the prompt"},
    {.name = "echo", .kind = QR_OPTION_FLAG, .offset = AT(sampling.echo), .help = "begin the answer with the prompt"},
    {.name = "include-stop-str-in-output",
     .kind = QR_OPTION_FLAG,
     .offset = AT(sampling.include_stop_str_in_output),
     .help = "keep the stop string in the answer"},
    {.name = "skip-special-tokens",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(sampling.skip_special_tokens),
     .help = "leave special tokens out of the text"},
    {0},
};
static const qr_option_group generate_sampling = {"Sampling", generate_sampling_options};

static const qr_option chat_sampling_options[] = {
    {.name = "max-tokens",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.max_tokens),
     .metavar = "N",
     .default_text = "until the context is full",
     .help = "new tokens of one answer, at most"},
    SAMPLING_OPTIONS,
    {0},
};
static const qr_option_group chat_sampling = {"Sampling", chat_sampling_options};

#define JSON_OPTION(what)                                                        \
    {                                                                            \
        .name = "json", .kind = QR_OPTION_FLAG, .offset = AT(json), .help = what \
    }

/* ---- options of one command ------------------------------------------------------------------- */

static const qr_option serve_options[] = {
    {.name = "host",
     .kind = QR_OPTION_STRING,
     .offset = AT(server.host),
     .metavar = "ADDRESS",
     .help = "address to listen on"},
    {.name = "port",
     .kind = QR_OPTION_INT,
     .offset = AT(server.port),
     .metavar = "N",
     .max = 65535,
     .help = "port to listen on; 0 takes a free one and says which"},
    {.name = "api-key",
     .kind = QR_OPTION_STRING,
     .offset = AT(server.api_key),
     .metavar = "KEY",
     .default_text = "none",
     .help = "clients must send `Authorization: Bearer KEY`"},
    {.name = "served-model-name",
     .kind = QR_OPTION_LIST,
     .offset = AT(served_model_names),
     .metavar = "NAME",
     .default_text = "MODEL's file name without .gguf",
     .help = "the model's name in requests and answers; may be given several times, the first one is shown"},
    {.name = "chat-template",
     .kind = QR_OPTION_STRING,
     .offset = AT(chat_template),
     .metavar = "FILE",
     .default_text = "the model's",
     .help = "file with the Jinja template of /v1/chat/completions"},
    {.name = "max-logprobs",
     .kind = QR_OPTION_INT,
     .offset = AT(server.max_logprobs),
     .metavar = "N",
     .max = 1000,
     .help = "log probabilities per token that a request may ask for"},
    {.name = "max-connections",
     .kind = QR_OPTION_INT,
     .offset = AT(server.max_connections),
     .metavar = "N",
     .min = 1,
     .max = 1e6,
     .help = "open connections, at most"},
    {.name = "max-request-bytes",
     .kind = QR_OPTION_BYTES,
     .offset = AT(server.max_request_bytes),
     .metavar = "SIZE",
     .help = "size of a request's body, at most"},
    {.name = "seed",
     .kind = QR_OPTION_UINT64,
     .offset = AT(seed),
     .metavar = "N",
     .help = "of the random numbers of requests that name none"},
    {0},
};
static const qr_option_group serve_group = {"Server", serve_options};
static const qr_option_group *const serve_groups[] = {&serve_group, &model_group,    &memory, &scheduler,
                                                      &logging,     &qr_cli_general, NULL};

static const qr_option chat_options[] = {
    {.name = "system", .kind = QR_OPTION_STRING, .offset = AT(system), .metavar = "TEXT", .help = "system message"},
    {.name = "chat-template",
     .kind = QR_OPTION_STRING,
     .offset = AT(chat_template),
     .metavar = "FILE",
     .default_text = "the model's",
     .help = "file with a Jinja chat template"},
    {0},
};
static const qr_option_group chat_group = {"Chat", chat_options};
static const qr_option_group *const chat_groups[] = {&chat_group, &chat_sampling,  &model_group, &context,
                                                     &memory,     &qr_cli_general, NULL};

static const qr_option generate_options[] = {
    {.name = "prompt",
     .kind = QR_OPTION_STRING,
     .offset = AT(prompt),
     .metavar = "TEXT",
     .short_name = 'p',
     .help = "text to continue; - reads it from standard input"},
    {.name = "ids",
     .kind = QR_OPTION_STRING,
     .offset = AT(ids),
     .metavar = "1,2,3",
     .help = "token ids to continue, in place of --prompt"},
    {.name = "file",
     .kind = QR_OPTION_STRING,
     .offset = AT(file),
     .metavar = "REQUESTS",
     .short_name = 'f',
     .help = "a batch: JSON Lines, each with the fields of /v1/completions; - is standard input"},
    {.name = "out",
     .kind = QR_OPTION_STRING,
     .offset = AT(out),
     .metavar = "RESULTS",
     .short_name = 'o',
     .help = "where the batch's results go, one line each in input order; - is standard output",
     .default_text = "-"},
    JSON_OPTION("print the answer as one JSON object, with token ids and log probabilities"),
    {0},
};
static const qr_option_group generate_group = {"Input and output", generate_options};
static const qr_option_group *const generate_groups[] = {&generate_group, &generate_sampling, &model_group,    &memory,
                                                         &scheduler,      &logging,           &qr_cli_general, NULL};

#define NO_SPECIAL_OPTIONS                                                                  \
    {.name = "no-add-special",                                                              \
     .kind = QR_OPTION_FLAG,                                                                \
     .offset = AT(no_add_special),                                                          \
     .help = "do not add the beginning and end tokens that the model's file asks for"},     \
    {                                                                                       \
        .name = "no-parse-special", .kind = QR_OPTION_FLAG, .offset = AT(no_parse_special), \
        .help = "take text such as <|im_end|> as plain characters"                          \
    }

static const qr_option tokenize_options[] = {
    {.name = "file",
     .kind = QR_OPTION_STRING,
     .offset = AT(file),
     .metavar = "F",
     .short_name = 'f',
     .help = "file whose bytes are tokenized; - is standard input"},
    {.name = "prompt",
     .kind = QR_OPTION_STRING,
     .offset = AT(prompt),
     .metavar = "TEXT",
     .short_name = 'p',
     .help = "text to tokenize, in place of --file"},
    NO_SPECIAL_OPTIONS,
    {0},
};
static const qr_option_group tokenize_group = {"Options", tokenize_options};
static const qr_option_group *const tokenize_groups[] = {&tokenize_group, &qr_cli_general, NULL};

static const qr_option detokenize_options[] = {
    {.name = "ids",
     .kind = QR_OPTION_STRING,
     .offset = AT(ids),
     .metavar = "1,2,3",
     .help = "token ids, with commas or as a JSON array"},
    {.name = "file",
     .kind = QR_OPTION_STRING,
     .offset = AT(file),
     .metavar = "F",
     .short_name = 'f',
     .help = "file with the ids, in place of --ids; - is standard input"},
    {.name = "skip-special-tokens",
     .kind = QR_OPTION_FLAG,
     .offset = AT(skip_special),
     .help = "leave special tokens out"},
    {0},
};
static const qr_option_group detokenize_group = {"Options", detokenize_options};
static const qr_option_group *const detokenize_groups[] = {&detokenize_group, &qr_cli_general, NULL};

static const qr_option render_options[] = {
    {.name = "messages",
     .kind = QR_OPTION_STRING,
     .offset = AT(messages),
     .metavar = "F.json",
     .help = "the conversation: an array of {\"role\", \"content\"}; - is standard input"},
    {.name = "template",
     .kind = QR_OPTION_STRING,
     .offset = AT(chat_template),
     .metavar = "F.jinja",
     .default_text = "the model's",
     .alias = "chat-template",
     .help = "Jinja template; MODEL may then be left out"},
    {.name = "tools", .kind = QR_OPTION_STRING, .offset = AT(tools), .metavar = "F.json", .help = "array of tools"},
    {.name = "bos",
     .kind = QR_OPTION_STRING,
     .offset = AT(bos),
     .metavar = "TEXT",
     .default_text = "the model's",
     .help = "the template's bos_token"},
    {.name = "eos",
     .kind = QR_OPTION_STRING,
     .offset = AT(eos),
     .metavar = "TEXT",
     .default_text = "the model's",
     .help = "the template's eos_token"},
    {.name = "no-generation-prompt",
     .kind = QR_OPTION_FLAG,
     .offset = AT(no_generation_prompt),
     .help = "do not begin the assistant's turn at the end"},
    {0},
};
static const qr_option_group render_group = {"Options", render_options};
static const qr_option_group *const render_groups[] = {&render_group, &qr_cli_general, NULL};

static const qr_option logits_options[] = {
    {.name = "ids", .kind = QR_OPTION_STRING, .offset = AT(ids), .metavar = "1,2,3", .help = "the prompt's token ids"},
    {.name = "out",
     .kind = QR_OPTION_STRING,
     .offset = AT(out),
     .metavar = "F",
     .short_name = 'o',
     .default_text = "",
     .help = "file that gets float32 [L, vocab], little endian; - is standard output"},
    {0},
};
static const qr_option_group logits_group = {"Options", logits_options};
static const qr_option_group *const logits_groups[] = {&logits_group, &model_group, &qr_cli_general, NULL};

static const qr_option inspect_options[] = {JSON_OPTION("print everything as one JSON document"), {0}};
static const qr_option_group inspect_group = {"Options", inspect_options};
static const qr_option_group *const inspect_groups[] = {&inspect_group, &qr_cli_general, NULL};

static const qr_option pull_options[] = {
    {.name = "revision",
     .kind = QR_OPTION_STRING,
     .offset = AT(revision),
     .metavar = "NAME",
     .default_text = "main",
     .help = "branch, tag or commit"},
    {.name = "dir",
     .kind = QR_OPTION_STRING,
     .offset = AT(dir),
     .metavar = "FOLDER",
     .default_text = "the model folder",
     .help = "where the files go"},
    {0},
};
static const qr_option_group pull_group = {"Options", pull_options};
static const qr_option_group *const pull_groups[] = {&pull_group, &qr_cli_general, NULL};

/* ---- bench ------------------------------------------------------------------------------------ */

#define BENCH_INT(option_name, field, what)                                                                \
    {                                                                                                      \
        .name = option_name, .kind = QR_OPTION_INT, .offset = AT(bench.field), .metavar = "N", .max = 1e9, \
        .help = what                                                                                       \
    }
#define BENCH_TEXT(option_name, field, value, what)                                                              \
    {                                                                                                            \
        .name = option_name, .kind = QR_OPTION_STRING, .offset = AT(bench.field), .metavar = value, .help = what \
    }
#define BENCH_SEED                                                                          \
    {                                                                                       \
        .name = "seed", .kind = QR_OPTION_UINT64, .offset = AT(bench.seed), .metavar = "N", \
        .help = "of the random prompts and arrivals"                                        \
    }

#define DATASET_OPTIONS                                                                                               \
    {.name = "dataset-name",                                                                                          \
     .kind = QR_OPTION_CHOICE,                                                                                        \
     .offset = AT(bench.dataset_name),                                                                                \
     .choices = "random|sharegpt-lengths|custom",                                                                     \
     .help = "random: prompts of random tokens; sharegpt-lengths: the same with the lengths of a CSV file; custom: "  \
             "prompts from a JSON Lines file"},                                                                       \
        BENCH_TEXT("dataset-path", dataset_path, "F",                                                                 \
                   "CSV of prompt_tokens,output_tokens for sharegpt-lengths; JSON Lines of {\"prompt\": TEXT, "       \
                   "\"output_tokens\": N} for custom"),                                                               \
        BENCH_INT("num-prompts", num_prompts, "requests to send"),                                                    \
        BENCH_INT("random-input-len", random_input_len, "tokens of a random prompt"),                                 \
        {.name = "random-prefix-len",                                                                                 \
         .kind = QR_OPTION_INT,                                                                                       \
         .offset = AT(bench.random_prefix_len),                                                                       \
         .metavar = "N",                                                                                              \
         .max = 1e8,                                                                                                  \
         .help = "tokens before it that are the same in all prompts"},                                                \
        BENCH_INT("random-output-len", random_output_len, "tokens of its answer, and of custom ones that name none"), \
        {.name = "random-range-ratio",                                                                                \
         .kind = QR_OPTION_DOUBLE,                                                                                    \
         .offset = AT(bench.random_range_ratio),                                                                      \
         .metavar = "X",                                                                                              \
         .max = 0.999,                                                                                                \
         .help = "random lengths lie within this fraction below and above"},                                          \
        BENCH_SEED

#define IGNORE_EOS_OPTION                                                             \
    {                                                                                 \
        .name = "ignore-eos", .kind = QR_OPTION_FLAG, .offset = AT(bench.ignore_eos), \
        .help = "answers run to their full length"                                    \
    }

static const qr_option throughput_options[] = {
    DATASET_OPTIONS,
    BENCH_TEXT("calibration", calibration, "FILE",
               "fit what a step costs on this machine and write it to a file, for `quire simulate --calibration`"),
    JSON_OPTION("print elapsed_time, num_requests, total_num_tokens, requests_per_second, tokens_per_second"),
    BENCH_TEXT("output-json", output_json, "F", "also write the JSON to this file"),
    {0},
};
static const qr_option_group throughput_group = {"Workload", throughput_options};
static const qr_option_group *const throughput_groups[] = {&throughput_group, &model_group,    &memory,
                                                           &scheduler,        &qr_cli_general, NULL};

static const qr_option latency_options[] = {
    BENCH_INT("input-len", input_len, "tokens of each prompt"),
    BENCH_INT("output-len", output_len, "tokens of each answer"),
    BENCH_INT("batch-size", batch_size, "prompts in a batch"),
    BENCH_INT("num-iters-warmup", num_iters_warmup, "batches that are not measured"),
    BENCH_INT("num-iters", num_iters, "batches that are measured"),
    BENCH_SEED,
    JSON_OPTION("print avg_latency, latencies and percentiles, in seconds"),
    BENCH_TEXT("output-json", output_json, "F", "also write the JSON to this file"),
    {0},
};
static const qr_option_group latency_group = {"Workload", latency_options};
static const qr_option_group *const latency_groups[] = {&latency_group, &model_group,    &memory,
                                                        &scheduler,     &qr_cli_general, NULL};

static const qr_option sharing_options[] = {
    BENCH_TEXT("n", n_list, "LIST", "sequences of a request, one run for each"),
    BENCH_TEXT("beam-width", beam_width_list, "LIST", "beams of a request, one run for each"),
    DATASET_OPTIONS,
    IGNORE_EOS_OPTION,
    JSON_OPTION("print an array of the runs: saved_block_fraction, num_steps, total_output_tokens, num_preemptions"),
    BENCH_TEXT("output-json", output_json, "F", "also write the JSON to this file"),
    {0},
};
static const qr_option_group sharing_group = {"Workload", sharing_options};
static const qr_option_group *const sharing_groups[] = {&sharing_group, &model_group,    &memory, &scheduler,
                                                        &logging,       &qr_cli_general, NULL};

static const qr_option step_options[] = {
    BENCH_INT("num-seqs", num_seqs, "sequences that decode in each step"),
    BENCH_INT("context-len", context_len, "tokens of context that they, and prompts, begin with"),
    BENCH_INT("prompt-chunk", prompt_chunk, "tokens of a prompt in each step; 0: none"),
    BENCH_INT("num-steps-warmup", num_steps_warmup, "steps that are not measured"),
    BENCH_INT("num-steps", num_steps, "steps that are measured; the faster half is reported"),
    BENCH_SEED,
    BENCH_TEXT("svg", svg, "F", "also draw the parts into this file"),
    JSON_OPTION("print step_us, parts_us, bookkeeping_us and the shape of the step"),
    BENCH_TEXT("output-json", output_json, "F", "also write the JSON to this file"),
    {0},
};
static const qr_option_group step_group = {"Workload", step_options};
static const qr_option_group *const step_groups[] = {&step_group, &model_group, &memory, &qr_cli_general, NULL};

static const qr_option kernels_options[] = {
    THREADS_OPTION,
    {.name = "isa",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(bench.isa),
     .choices = "ref|avx2|avx512bw|avx512|neon",
     .default_text = "the best that the processor has",
     .help = "instruction set of the kernels"},
    {.name = "filter",
     .kind = QR_OPTION_STRING,
     .offset = AT(bench.filter),
     .metavar = "TEXT",
     .default_text = "all rows",
     .help = "only rows whose name contains this text"},
    JSON_OPTION("print the machine's limits, and name, value, unit, seconds and percent_of_peak of each row"),
    BENCH_TEXT("output-json", output_json, "F", "also write the JSON to this file"),
    {0},
};
static const qr_option_group kernels_group = {"Kernels", kernels_options};
static const qr_option_group *const kernels_groups[] = {&kernels_group, &qr_cli_general, NULL};

static const qr_option bench_serve_options[] = {
    BENCH_TEXT("base-url", base_url, "URL", "the server; in place of --host and --port"),
    {.name = "host",
     .kind = QR_OPTION_STRING,
     .offset = AT(server.host),
     .metavar = "ADDRESS",
     .help = "the server's host"},
    {.name = "port",
     .kind = QR_OPTION_INT,
     .offset = AT(server.port),
     .metavar = "N",
     .min = 1,
     .max = 65535,
     .help = "and port"},
    BENCH_TEXT("endpoint", endpoint, "PATH", "path of the completions API"),
    {.name = "model",
     .kind = QR_OPTION_STRING,
     .offset = AT(bench.model),
     .metavar = "NAME",
     .default_text = "the first of /v1/models",
     .help = "name of the model in the requests"},
    {.name = "api-key",
     .kind = QR_OPTION_STRING,
     .offset = AT(server.api_key),
     .metavar = "KEY",
     .default_text = "none",
     .help = "sent as `Authorization: Bearer KEY`"},
    {0},
};
static const qr_option_group bench_serve_group = {"Server", bench_serve_options};
static const qr_option bench_load_options[] = {
    DATASET_OPTIONS,
    {.name = "request-rate",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(bench.request_rate),
     .metavar = "X",
     .min = 1e-6,
     .max = INFINITY,
     .help = "requests a second, arriving at random; inf sends all at once"},
    {.name = "burstiness",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(bench.burstiness),
     .metavar = "X",
     .min = 0.01,
     .max = 1000,
     .help = "shape of the gaps between arrivals (gamma distribution); 1 is a Poisson process, less is burstier"},
    BENCH_INT("max-concurrency", max_concurrency, "requests under way at most; 0: no limit"),
    {.name = "temperature",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(bench.temperature),
     .metavar = "X",
     .max = 100,
     .help = "of the requests"},
    IGNORE_EOS_OPTION,
    {0},
};
static const qr_option_group bench_load_group = {"Workload", bench_load_options};
static const qr_option bench_result_options[] = {
    JSON_OPTION("print the result as JSON"),
    BENCH_TEXT("metric-percentiles", metric_percentiles, "P,...", "percentiles to report"),
    {.name = "save-result",
     .kind = QR_OPTION_FLAG,
     .offset = AT(bench.save_result),
     .help = "also write the JSON to a file"},
    {.name = "save-detailed",
     .kind = QR_OPTION_FLAG,
     .offset = AT(bench.save_detailed),
     .help = "with every request's lengths, times and errors in the JSON"},
    BENCH_TEXT("result-dir", result_dir, "FOLDER", "folder of that file"),
    {.name = "result-filename",
     .kind = QR_OPTION_STRING,
     .offset = AT(bench.result_filename),
     .metavar = "NAME",
     .default_text = "quire-RATEqps-MODEL-DATE.json",
     .help = "its name"},
    {0},
};
static const qr_option_group bench_result_group = {"Result", bench_result_options};
static const qr_option_group *const bench_serve_groups[] = {&bench_serve_group, &bench_load_group, &bench_result_group,
                                                            &qr_cli_general, NULL};

/* ---- defaults that differ from the library's -------------------------------------------------- */

static void serve_defaults(qr_cli_args *args) { args->log_level = "info"; }

static void generate_defaults(qr_cli_args *args) { args->out = "-"; }

static void chat_defaults(qr_cli_args *args)
{
    args->sampling.max_tokens = -1;
    args->sampling.temperature = 0.7;
    args->engine.max_num_seqs = 1;
}

static void throughput_defaults(qr_cli_args *args) { args->bench.num_prompts = 100; }

static void sharing_defaults(qr_cli_args *args)
{
    args->bench.num_prompts = 100;
    args->bench.dataset_name = "custom";
    args->bench.n_list = args->bench.beam_width_list = "2,4,6";
    args->engine.enable_prefix_caching = false; /* what requests share with each other does not count */
}

void qr_cli_default_args(const qr_cli_command *command, qr_cli_args *args)
{
    memset(args, 0, sizeof *args);
    quire_model_options_init(&args->model);
    quire_engine_options_init(&args->engine);
    quire_sampling_params_init(&args->sampling);
    qr_server_options_init(&args->server);
    args->log_level = "warning";
    args->bench = (qr_cli_bench_args){.num_prompts = 1000,
                                      .input_len = 32,
                                      .output_len = 128,
                                      .random_input_len = 1024,
                                      .random_output_len = 128,
                                      .batch_size = 8,
                                      .num_seqs = 8,
                                      .context_len = 512,
                                      .num_steps = 40,
                                      .num_steps_warmup = 4,
                                      .num_iters = 30,
                                      .num_iters_warmup = 10,
                                      .request_rate = INFINITY,
                                      .burstiness = 1,
                                      .dataset_name = "random",
                                      .endpoint = "/v1/completions",
                                      .metric_percentiles = "99",
                                      .result_dir = "."};
    if (command->set_defaults) command->set_defaults(args);
}

/* ---- the commands ----------------------------------------------------------------------------- */

const qr_cli_command qr_cli_commands[] = {
    {"serve", "MODEL", "serve a model over HTTP, as OpenAI's API does",
     "Serve MODEL over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /health, "
     "/version and /metrics. All clients share one pool of KV blocks. Ctrl-C or SIGTERM lets the running requests "
     "finish; a second one ends at once.\n\n" MODEL_HELP,
     "quire serve model.gguf\n"
     "quire serve model.gguf --host 0.0.0.0 --port 8080 --api-key secret\n"
     "quire serve checkpoint/ --kv-cache-memory-bytes 4G --max-model-len 8K --max-num-seqs 256",
     serve_groups, 1, qr_cli_run_serve, serve_defaults},
    {"chat", "MODEL", "talk to a model in the terminal",
     "Talk to MODEL. Answers appear as they are made; the conversation is kept until /reset. Commands: /help, /reset, "
     "/system TEXT, /stats, /quit. Ctrl-C stops the answer, not the program. A line that ends in \\ goes on in the "
     "next. With standard input from a pipe every line is one message.\n\n" MODEL_HELP,
     "quire chat model.gguf\n"
     "quire chat model.gguf --system \"You answer in one sentence.\" --temperature 0\n"
     "echo \"Name three colours.\" | quire chat model.gguf",
     chat_groups, 1, qr_cli_run_chat, chat_defaults},
    {"generate", "MODEL", "continue a text, or a whole file of them",
     "Continue the text of --prompt; the answer is printed as it is made. With --file, run a batch offline: one JSON "
     "object a line with the fields of /v1/completions (prompt or prompt_token_ids, max_tokens, temperature, seed, "
     "stop, logprobs, n, ...), one result line each in input order: {\"index\", \"choices\": [{\"index\", \"text\", "
     "\"token_ids\", \"logprobs\", \"finish_reason\"}], \"usage\"}. The sampling options given here hold for lines "
     "that do not say otherwise. A bad line gives a result with \"error\" and exit status 1 at the end; the others "
     "go on.\n\n" MODEL_HELP,
     "quire generate model.gguf -p \"The capital of France is\" --max-tokens 20 --temperature 0\n"
     "quire generate model.gguf --file requests.jsonl --out results.jsonl\n"
     "echo '{\"prompt\": \"Once upon a time\", \"n\": 2}' | quire generate model.gguf --file -",
     generate_groups, 1, qr_cli_run_generate, generate_defaults},
    {"tokenize", "MODEL", "text to token ids",
     "Print the token ids of a file's bytes as one JSON array. A vocabulary-only GGUF will do.\n\n" MODEL_HELP,
     "quire tokenize model.gguf --file book.txt\n"
     "quire tokenize model.gguf -p \"Hello\" --no-add-special",
     tokenize_groups, 1, qr_cli_run_tokenize, NULL},
    {"detokenize", "MODEL", "token ids to text",
     "Print the bytes of token ids, nothing added. A vocabulary-only GGUF will do.\n\n" MODEL_HELP,
     "quire detokenize model.gguf --ids 1,2,3\n"
     "quire tokenize model.gguf --file book.txt | quire detokenize model.gguf --file -",
     detokenize_groups, 1, qr_cli_run_detokenize, NULL},
    {"render", "MODEL", "a conversation to the exact prompt",
     "Print the prompt that a chat template makes of a conversation, nothing added.\n\n" MODEL_HELP,
     "quire render model.gguf --messages chat.json\n"
     "quire render --template my.jinja --messages chat.json --bos \"<s>\"",
     render_groups, 0, qr_cli_run_render, NULL},
    {"logits", "MODEL", "the model's raw output for a prompt",
     "Write the logits after each token of a prompt as float32 [L, vocab], little endian, for tests and "
     "research.\n\n" MODEL_HELP,
     "quire logits model.gguf --ids 1,2,3 --out logits.f32 --compute-dtype float32", logits_groups, 1,
     qr_cli_run_logits, NULL},
    {"inspect", "MODEL", "what is in a model's file",
     "Show metadata, tensors, tokenizer and memory plan. Works on any readable file, also when the architecture is "
     "not supported.\n\n" MODEL_HELP,
     "quire inspect model.gguf\n"
     "quire inspect model.gguf --json | jq .tensors",
     inspect_groups, 1, qr_cli_run_inspect, NULL},
    {"pull", "REPO[:FILE]", "fetch a model from a hub",
     "Download a model from a hub that speaks Hugging Face's protocol. Without FILE: the repository's GGUF file if it "
     "has exactly one, else its safetensors checkpoint. An interrupted download is resumed; checksums are compared "
     "where the hub names them. HF_ENDPOINT and HF_TOKEN are honoured. Models go to $QUIRE_MODELS, else "
     "$XDG_CACHE_HOME/quire/models, else ~/.cache/quire/models, where the other commands find them by the same name.",
     "quire pull owner/model\n"
     "quire pull owner/model-GGUF:model.Q4_K_M.gguf",
     pull_groups, 1, qr_cli_run_pull, NULL},
    {"bench throughput", "MODEL", "how many tokens a second, offline",
     "Run all prompts at once, offline, and report requests and tokens per second, as `vllm bench throughput` does.",
     "quire bench throughput model.gguf --num-prompts 64 --random-input-len 128 --random-output-len 128\n"
     "quire bench throughput model.gguf --dataset-name sharegpt-lengths --dataset-path lengths.csv --json",
     throughput_groups, 1, qr_cli_run_bench_throughput, throughput_defaults},
    {"bench latency", "MODEL", "how long one batch takes, offline",
     "Run the same batch again and again and report its latency, as `vllm bench latency` does.",
     "quire bench latency model.gguf --batch-size 1 --input-len 32 --output-len 128 --num-iters 10", latency_groups, 1,
     qr_cli_run_bench_latency, NULL},
    {"bench sharing", "MODEL", "how much memory shared blocks save, offline",
     "Run all prompts at once, offline, with several sequences or beams for each, and report how many KV blocks were "
     "saved by sharing: (blocks without sharing - blocks) / blocks without sharing, averaged over steps, as in figure "
     "15 of the PagedAttention paper, and which share of a step's time was not the model's and the sampler's. Prefix "
     "caching is off unless asked for.",
     "quire bench sharing model.gguf --dataset-path prompts.jsonl --n 2,4,6 --beam-width 2,4,6", sharing_groups, 1,
     qr_cli_run_bench_sharing, sharing_defaults},
    {"bench step", "MODEL", "where the time of a step goes, offline",
     "Run steps of one shape, sequences that decode and tokens of a prompt, and report what each part of them took: "
     "scheduling, the batch, the model by kind of operation, sampling, outputs. Figures are means of the faster half "
     "of "
     "the steps, so that other load on the machine counts little; they add up to the whole.",
     "quire bench step model.gguf --num-seqs 32 --context-len 1024\n"
     "quire bench step model.gguf --num-seqs 0 --prompt-chunk 512 --context-len 0\n"
     "quire bench step model.gguf --num-seqs 16 --prompt-chunk 256 --svg step.svg",
     step_groups, 1, qr_cli_run_bench_step, NULL},
    {"bench kernels", "", "speed of the kernels beside the machine's limits",
     "Measure each kernel at the shapes of SmolLM2-135M, Llama 3 8B and Qwen3-0.6B with random weights: matrix "
     "products "
     "(M tokens), attention (requests x new tokens of a context), and the rest. The first line is what this machine "
     "can do at most, measured in the same way: int8 and float32 arithmetic, reading memory; the last column is the "
     "per cent of the limit with the row's unit (what fits the caches can be read faster than memory). Figures are the "
     "best of many short runs; with --threads 1 they are of processor time.",
     "quire bench kernels --threads 1 --filter \"SmolLM2-135M: linear\"\n"
     "quire bench kernels --json --output-json kernels.json",
     kernels_groups, 0, qr_cli_run_bench_kernels, NULL},
    {"bench serve", "", "load a running server and measure it",
     "Send requests to a running server (quire, vLLM, or any with OpenAI's completions API) and report throughput, "
     "time to first token (TTFT), time per output token (TPOT), inter-token latency (ITL) and end-to-end latency "
     "(E2EL) under the names of `vllm bench serve`. Random prompts are token ids 32 to 255, which every vocabulary "
     "has and none reserves.",
     "quire bench serve --port 8000 --num-prompts 200 --max-concurrency 32 --ignore-eos\n"
     "quire bench serve --dataset-name sharegpt-lengths --dataset-path lengths.csv --request-rate 4 --save-result",
     bench_serve_groups, 0, qr_cli_run_bench_serve, NULL},
    {"simulate", "", "run the scheduler in virtual time on GPUs and models of your choice",
     "Simulate a server: the scheduler and the KV memory are the ones that serve, and only the model's work is "
     "replaced "
     "by its time on a device (rates from data sheets, efficiencies and overheads measured; docs/simulation.md). Each "
     "rate of --request-rate is one run and one row: requests and output tokens finished a second; requests in a step, "
     "mean; mean normalized latency (latency of a request / tokens of its answer); time to first token (TTFT) and "
     "inter-token latency (ITL), median and 99th percentile; share of the KV memory that is in use, and of the slots "
     "in use those that hold live tokens; preemptions. The same options give the same result everywhere.",
     "quire simulate --model opt-13b --request-rate 1,2,3\n"
     "quire simulate --model llama-3-8b --device h100 --request-rate 10,20,40 --json\n"
     "quire simulate --model llama-3-70b --dataset-name trace --dataset-path data/traces/azure_llm_2023_conv.csv "
     "--request-rate trace\n"
     "quire simulate --model llama-13b --dataset-name translation --shared-prefix 341 --request-rate 20",
     qr_cli_simulate_groups, 0, qr_cli_run_simulate, qr_cli_simulate_defaults},
    {"paper", "", "the PagedAttention paper's evaluation, as a page",
     "Simulate the experiments of the PagedAttention paper (Kwon et al., SOSP 2023): FasterTransformer, Orca with "
     "three "
     "ways to reserve memory, vLLM as in the paper, and quire's scheduler of today, on the paper's models and GPUs. "
     "Writes a page with every figure beside the paper's values (docs/paper.md has the method), its charts as SVG, and "
     "the numbers as JSON. With --trace the systems are also compared on traces of production services, Llama 3 8B on "
     "an H100. Takes a few minutes; the same options write the same page everywhere.",
     "quire paper --out paper\n"
     "quire paper --hours 0.1 --trace data/traces/azure_llm_2023_conv.csv",
     qr_cli_paper_groups, 0, qr_cli_run_paper, qr_cli_paper_defaults},
    {0},
};

const qr_cli_command *qr_cli_find_command(int argc, char *const *argv, int *out_num_words)
{
    char name[64];
    for (*out_num_words = 2; *out_num_words > 0; (*out_num_words)--) {
        if (*out_num_words > argc) continue;
        snprintf(name, sizeof name, "%s%s%s", argv[0], *out_num_words == 2 ? " " : "",
                 *out_num_words == 2 ? argv[1] : "");
        for (const qr_cli_command *c = qr_cli_commands; c->name; c++)
            if (strcmp(c->name, name) == 0) return c;
    }
    return NULL;
}
