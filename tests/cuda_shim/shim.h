/* cuda_shim's own: what its two sources know of each other.
 *
 *   shim.cpp      fibers, warps, barriers, what sm_80 has, the runtime
 *   hopper.cpp    what sm_90a adds: mbarrier, TMA, wgmma
 *
 * Threads: as cuda_runtime.h; all of it is about the calling thread's launch. */
#ifndef QR_TESTS_CUDA_SHIM_SHIM_H
#define QR_TESTS_CUDA_SHIM_SHIM_H

#include "cuda_runtime.h"

[[noreturn]] void shim_die(const char *what, const char *detail);
/* Let the others run until ready(ctx). */
void shim_wait_until(bool (*ready)(void *), void *ctx);
/* Let all others run once. */
void shim_yield(void);
/* Of the running thread's warp in its block. */
int shim_warp_index(void);
/* Whether asynchronous copies of this launch are done at once; else as late as they may. */
bool shim_copies_at_once(void);
/* The running block's dynamic shared memory, this many bytes of it. */
unsigned char *shim_shared(size_t *bytes);

/* hopper.cpp, as shim.cpp calls it: before and after each block of so many warps; when no thread can go on: whether
 * something that was under way is done now. */
void shim_hopper_begin(int num_warps);
void shim_hopper_end(int num_warps);
bool shim_hopper_progress(void);

#endif
