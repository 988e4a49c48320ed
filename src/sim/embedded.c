#include "sim/embedded.h"

/* The assembler finds the files from the top of the tree, where the compiler runs; the Makefile knows that this object
 * depends on them. */
#define EMBED(symbol, path)                                                                                    \
    __asm__(".section .rodata\n.global " #symbol "\n.hidden " #symbol "\n" #symbol ":\n.incbin \"" path "\"\n" \
            ".global " #symbol "_end\n.hidden " #symbol "_end\n" #symbol "_end:\n.byte 0\n.previous\n")

EMBED(qr_sim_sharegpt_csv, "data/traces/sharegpt_lengths.csv");
EMBED(qr_sim_beams_csv, "data/beam_parents.csv");
