/* The options of `quire simulate`. */
#include <math.h>

#include "cli/cli.h"

#define AT(field) offsetof(qr_cli_args, field)
#define TEXT(option_name, field, value, shown, what)                                                                 \
    {                                                                                                                \
        .name = option_name, .kind = QR_OPTION_STRING, .offset = AT(field), .metavar = value, .default_text = shown, \
        .help = what                                                                                                 \
    }

static const qr_option machine_options[] = {
    TEXT("model", sim.model, "NAME|FILE", NULL,
         "opt-13b, opt-66b, opt-175b, llama-13b, llama-3-8b, llama-3-70b, smollm2-135m, or a JSON file"),
    TEXT("device", sim.device, "NAME|FILE", "the model's",
         "a100-40gb, a100-80gb, h100, h200, cpu, or a JSON file such as {\"base\": \"h100\", \"memory_gib\": 96}"),
    TEXT("calibration", sim.calibration, "FILE", "the device's",
         "measured constants in place of the device's, as `quire bench throughput --calibration` writes them"),
    {.name = "tensor-parallel-size",
     .kind = QR_OPTION_INT,
     .offset = AT(sim.tensor_parallel_size),
     .metavar = "N",
     .max = 1024,
     .default_text = "the model's on this device, else 1",
     .help = "devices that share the model"},
    {.name = "num-kv-blocks",
     .kind = QR_OPTION_INT64,
     .offset = AT(engine.num_kv_blocks),
     .metavar = "N",
     .max = 1e9,
     .default_text = "as many as the paper has for its models, else what fits beside the weights",
     .help = "KV blocks in the pool, exactly"},
    {.name = "gpu-memory-utilization",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(engine.gpu_memory_utilization),
     .metavar = "X",
     .min = 0.001,
     .max = 1,
     .help = "fraction of the devices' memory for weights and KV blocks"},
    {0},
};
static const qr_option_group machine = {"Machine", machine_options};

static const qr_option policy_options[] = {
    TEXT("kv-allocator", sim.kv_allocators, "NAME,...", NULL,
         "vllm: blocks as they are needed; orca-max, orca-pow2, orca-oracle: the PagedAttention paper's baselines, "
         "contiguous memory for the longest answer, the next power of two, the true length; all: all of them"),
    {.name = "block-size",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.block_size),
     .metavar = "N",
     .min = 1,
     .max = 1024,
     .help = "tokens in one KV block"},
    {.name = "max-num-seqs",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_num_seqs),
     .metavar = "N",
     .min = 1,
     .max = 65536,
     .help = "sequences that run at the same time, at most"},
    {.name = "max-num-batched-tokens",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_num_batched_tokens),
     .metavar = "N",
     .min = 1,
     .max = 1e6,
     .help = "tokens that one step computes, at most"},
    {.name = "max-model-len",
     .kind = QR_OPTION_INT,
     .offset = AT(engine.max_model_len),
     .metavar = "N",
     .max = 1e9,
     .default_text = "the model's",
     .help = "tokens of prompt and answer together; longer requests are cut"},
    {.name = "enable-chunked-prefill",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(engine.enable_chunked_prefill),
     .help = "cut long prompts into steps that also serve the running requests"},
    {.name = "enable-prefix-caching",
     .kind = QR_OPTION_SWITCH,
     .offset = AT(engine.enable_prefix_caching),
     .help = "reuse the KV blocks of prompts that begin alike"},
    {.name = "scheduling-policy",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.scheduling_policy),
     .choices = "fcfs|fair",
     .help = "fcfs: first come first served, as in the paper; fair: a short prompt may overtake longer ones, each for "
             "a bounded time, as `quire serve` does by itself"},
    {.name = "preemption-mode",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(engine.preemption_mode),
     .choices = "recompute|swap|auto",
     .help = "what happens to the last request's KV blocks when there are not enough"},
    {.name = "swap-space",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(swap_space_gib),
     .metavar = "GiB",
     .default_text = "as large as the pool with --preemption-mode swap or auto",
     .help = "host memory for preempted requests"},
    {0},
};
static const qr_option_group policy = {"Scheduling", policy_options};

static const qr_option workload_options[] = {
    {.name = "dataset-name",
     .kind = QR_OPTION_CHOICE,
     .offset = AT(bench.dataset_name),
     .choices = "sharegpt|sharegpt-paper|alpaca|chat|translation|trace",
     .help = "sharegpt: lengths of first turns, filtered as in the paper; sharegpt-paper: scaled to its means too; "
             "alpaca: lengths with that data set's means; "
             "chat: ShareGPT turns that follow each other, prompts of at most 1,024 tokens; translation: sentences "
             "(with --shared-prefix 80 or 341 the paper's); trace: --dataset-path"},
    TEXT("dataset-path", bench.dataset_path, "FILE", "",
         "a trace: CSV of prompt_tokens,output_tokens; Azure's CSV with arrival times; Mooncake's JSON Lines with "
         "arrival times and shared prefixes"),
    TEXT("request-rate", sim.request_rates, "R,...", NULL,
         "requests a second, Poisson arrivals; inf: all at once; trace: the trace's own times. Several make a sweep"),
    {.name = "speed",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(sim.speed),
     .metavar = "X",
     .min = 1e-6,
     .max = 1e6,
     .help = "the trace's own times, so many times faster"},
    {.name = "duration",
     .kind = QR_OPTION_DOUBLE,
     .offset = AT(sim.duration),
     .metavar = "SECONDS",
     .max = 1e9,
     .help = "for how long requests arrive; those that have arrived are finished"},
    {.name = "num-prompts",
     .kind = QR_OPTION_INT64,
     .offset = AT(sim.num_prompts),
     .metavar = "N",
     .max = 1e12,
     .default_text = "until --duration; 1000 at rate inf",
     .help = "requests, exactly, in place of --duration"},
    {.name = "n",
     .kind = QR_OPTION_INT,
     .offset = AT(sampling.n),
     .metavar = "N",
     .short_name = 'n',
     .min = 1,
     .max = 1024,
     .help = "answers to each prompt (parallel sampling)"},
    {.name = "beam-width",
     .kind = QR_OPTION_INT,
     .offset = AT(beam_width),
     .metavar = "N",
     .max = 10,
     .default_text = "no beam search",
     .help = "beams of each request, which fork and end as in recorded searches"},
    TEXT("beam-record", sim.beam_record, "FILE", "one of SmolLM2, widths 2, 4 and 6",
         "those searches: CSV of width,parents as tools/beam-statistics.py writes it"),
    {.name = "shared-prefix",
     .kind = QR_OPTION_INT,
     .offset = AT(sim.shared_prefix),
     .metavar = "N",
     .max = 1e6,
     .help = "tokens that all prompts begin with, before their own"},
    {.name = "seed",
     .kind = QR_OPTION_UINT64,
     .offset = AT(bench.seed),
     .metavar = "N",
     .help = "of arrivals and lengths; the same seed gives the same result"},
    {0},
};
static const qr_option_group workload = {"Workload", workload_options};

static const qr_option replay_options[] = {
    TEXT(
        "replay", sim.replay, "LOG", "",
        "run the requests of a --schedule-log again: check that each step is the one recorded, and compare the time of "
        "all with --model, --device and --calibration; no other option counts but --json"),
    TEXT("fit", sim.fit, "FILE", "", "with --replay: learn from the log what steps cost and write it as a calibration"),
    {0},
};
static const qr_option_group replay = {"Replay", replay_options};

static const qr_option result_options[] = {
    {.name = "json",
     .kind = QR_OPTION_FLAG,
     .offset = AT(json),
     .help = "print JSON Lines, one object for each run, in place of the table"},
    TEXT("output-json", bench.output_json, "FILE", "", "also write those lines to a file"),
    TEXT("plots", sim.plots, "FOLDER", "",
         "also draw charts (SVG): latency and batched requests against the rate, KV memory by use, and over time"),
    {0},
};
static const qr_option_group result = {"Result", result_options};

const qr_option_group *const qr_cli_simulate_groups[] = {&machine, &policy, &workload,       &replay,
                                                         &replay,  &result, &qr_cli_general, NULL};

void qr_cli_simulate_defaults(qr_cli_args *args)
{
    args->engine.max_num_seqs = 256;
    args->engine.max_num_batched_tokens = 2048;
    args->engine.scheduling_policy = "fcfs";
    args->engine.gpu_memory_utilization = 0.9;
    args->bench.dataset_name = "sharegpt";
    args->sim = (qr_cli_sim_args){
        .model = "opt-13b", .kv_allocators = "vllm", .request_rates = "2", .speed = 1, .duration = 3600};
}
