/* plugin: parts of quire in libraries of their own, loaded when they are needed, so that the program runs where what
 * they build on is not installed.
 *
 *   quire ── libquire-mpi.so ── libmpi      looked for beside the file that holds this code, in its ../lib, and where
 *                                           the system keeps libraries
 *
 * Threads: any. */
#ifndef QR_BASE_PLUGIN_H
#define QR_BASE_PLUGIN_H

#include <stddef.h>

/* The symbol of that library, which stays loaded; NULL: `problem` says why not. */
void *qr_plugin_symbol(const char *library, const char *symbol, char *problem, size_t problem_bytes);

#endif
