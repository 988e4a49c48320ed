/* plugin: parts of quire in libraries of their own, loaded when they are needed, so that the program runs where what
 * they build on is not installed.
 *
 *   quire ─┬─ libquire-mpi.so ── libmpi     looked for beside the file that holds this code, in its ../lib, and where
 *          └─ libquire-cuda.so              the system keeps libraries
 *
 * Threads: any. */
#ifndef QR_BASE_PLUGIN_H
#define QR_BASE_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>

/* A handle for dlsym(); NULL: `problem` says why not. A library with a slash in its name is taken from there alone.
 * global: what it builds on is there for libraries that are loaded later (Open MPI's own plugins need that). */
void *qr_plugin_open(const char *library, bool global, char *problem, size_t problem_bytes);

#endif
