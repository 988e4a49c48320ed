/* long_run: how many seeds a random test tries.
 *
 *   PROGRAM                   seeds 1 .. the program's number: the same on every run
 *   PROGRAM SECONDS [SEED]    from SEED (else from the clock), as long as SECONDS say */
#ifndef LONG_RUN_H
#define LONG_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

typedef struct long_run {
    int64_t end_us; /* 0: no limit of time */
    unsigned first_seed, num_seeds, done;
} long_run;

static long_run long_run_start(int argc, char **argv, unsigned num_seeds)
{
    long_run run = {.first_seed = 1, .num_seeds = num_seeds};
    if (argc < 2) return run;
    const int64_t now_us = qr_clock_us();
    run.end_us = now_us + (int64_t)(atof(argv[1]) * 1e6);
    run.first_seed = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : (unsigned)now_us;
    return run;
}

/* The next seed into *seed, or false. */
static bool long_run_next(long_run *run, unsigned *seed)
{
    *seed = run->first_seed + run->done;
    if (run->end_us ? qr_clock_us() >= run->end_us : run->done == run->num_seeds) return false;
    run->done++;
    return true;
}

#endif
