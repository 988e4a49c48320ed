/* embed: quire inside another program, with nothing but quire.h.
 *
 *   cc embed.c -lquire && ./a.out model.gguf
 *
 * Two requests run at the same time: one streams through a callback, the other is polled. */
#include <stdio.h>
#include <string.h>

#include "quire.h"

/* Called on the engine's thread for every piece of text. */
static void on_output(void *user, const quire_output *output)
{
    fwrite(output->text, 1, output->text_bytes, stdout);
    if (output->request_finished) printf(" [%s]\n", quire_finish_reason_text(output->finish_reason));
    *(int *)user += output->num_tokens;
}

static quire_status submit(quire_engine *engine, const char *prompt, int *count, quire_request **out,
                           quire_error *error)
{
    quire_request_options options;
    quire_request_options_init(&options);
    options.prompt = prompt;
    options.prompt_bytes = strlen(prompt);
    options.sampling.max_tokens = 24;
    options.sampling.temperature = 0;
    options.on_output = count ? on_output : NULL;
    options.user = count;
    return quire_submit(engine, &options, out, error);
}

int main(int argc, char **argv)
{
    quire_model *model = NULL;
    quire_engine *engine = NULL;
    quire_request *streamed = NULL, *polled = NULL;
    const quire_output *output;
    quire_error error = {.message = "usage: embed MODEL"};

    int num_streamed = 0, failed = argc != 2 || quire_model_open(argv[1], NULL, &model, &error) ||
                                   quire_engine_create(model, NULL, &engine, &error) ||
                                   submit(engine, "The capital of France is", &num_streamed, &streamed, &error) ||
                                   submit(engine, "Water boils at", NULL, &polled, &error);
    if (!failed) {
        while (quire_request_next(polled, -1, &output) == QUIRE_OK) fwrite(output->text, 1, output->text_bytes, stderr);
        failed = quire_engine_drain(engine, -1) != QUIRE_OK; /* the streamed one has ended too, then */
        quire_stats stats;
        quire_engine_get_stats(engine, &stats);
        printf("%d tokens streamed, %llu generated in %llu steps, %lld of %lld KV blocks free\n", num_streamed,
               (unsigned long long)stats.generation_tokens, (unsigned long long)stats.num_steps,
               (long long)stats.num_free_kv_blocks, (long long)stats.num_kv_blocks);
    }
    if (failed) fprintf(stderr, "embed: %s\n", error.message);
    quire_request_release(streamed);
    quire_request_release(polled);
    quire_engine_destroy(engine);
    quire_model_close(model);
    return failed;
}
