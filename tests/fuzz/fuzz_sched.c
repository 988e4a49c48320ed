/* Bytes -> operations on the scheduler, checked against the naive reference of tests/sched_model.h. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MODEL_FAIL(...)               \
    do {                              \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr);          \
        abort();                      \
    } while (0)
#include "sched_model.h"

typedef struct bytes {
    const uint8_t *data;
    size_t left;
} bytes;

/* One byte a choice, zeros after the end. */
static uint32_t byte_choice(void *source, uint32_t n)
{
    bytes *b = source;
    if (b->left == 0) return 0;
    b->left--;
    return *b->data++ % n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static model m;
    bytes source = {data, size};
    model_init(&m, byte_choice, &source);
    while (source.left > 0) model_operation(&m);
    model_finish(&m);
    return 0;
}
