/* cuda_shim: fibers, the warp-wide operations, and the runtime's calls. */
#include "shim.h"

#include <atomic>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <vector>

#include "cuda_bf16.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHIM_ASAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SHIM_ASAN 1
#endif
#ifdef SHIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    MAX_THREADS = 1024, /* of a block */
    MAX_SHARED = 227 << 10,
    MAX_GRID_YZ = 65535,
    STACK_BYTES = 128 << 10,
    MAX_COPIES = 256, /* cp.async of one thread that are under way */
    ALL_LANES = 32
};

/* ---- switching between stacks ------------------------------------------------------------------------ */

/* Save what a called function must preserve and the stack pointer in *from, go on where `to` was saved. */
extern "C" void shim_switch(void **from, void *to);
#if defined(__x86_64__)
asm(".text\n.globl shim_switch\n.hidden shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size shim_switch,.-shim_switch\n");
enum { FRAME_WORDS = 8, RETURN_AT = 6 }; /* 6 registers, thread_main, where it would return to */
#elif defined(__aarch64__)
asm(".text\n.globl shim_switch\n.hidden shim_switch\n.type shim_switch,%function\nshim_switch:\n"
    "sub sp,sp,#160\nstp x29,x30,[sp]\nstp x19,x20,[sp,#16]\nstp x21,x22,[sp,#32]\nstp x23,x24,[sp,#48]\n"
    "stp x25,x26,[sp,#64]\nstp x27,x28,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\n"
    "stp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x29,x30,[sp]\nldp x19,x20,[sp,#16]\nldp x21,x22,[sp,#32]\nldp x23,x24,[sp,#48]\n"
    "ldp x25,x26,[sp,#64]\nldp x27,x28,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\n"
    "ldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\nadd sp,sp,#160\nret\n.size shim_switch,.-shim_switch\n");
enum { FRAME_WORDS = 20, RETURN_AT = 1 }; /* x29, x30 = thread_main, ... */
#else
#error "cuda_shim: no stack switch for this processor"
#endif

/* ---- a block ----------------------------------------------------------------------------------------- */

struct copy {
    void *shared;
    const void *global;
    bool valid;
    int group;
};

enum wait { READY, AT_WARP, AT_BARRIER, AT_CONDITION, DONE };

struct thread {
    void *sp;
    wait state;
    bool (*ready)(void *); /* AT_CONDITION */
    void *ready_ctx;
    uint3 idx;
    int lane, warp;
    copy copies[MAX_COPIES];
    int num_copies, group; /* group: commits so far */
};

struct warp {
    const char *what; /* the operation that lanes wait at */
    int arrived;
    unsigned turn;
    shim_slots slots[2]; /* of this operation and of the one before */
};

struct engine {
    unsigned char *stacks, *shared;
    thread threads[MAX_THREADS];
    warp warps[MAX_THREADS / 32];
    void *scheduler_sp;
    thread *self;
    size_t shared_bytes;
    int num_threads, num_left, num_at_barrier;
    void (*body)(void *);
    void *ctx;
    unsigned launches, rounds; /* rounds: over the warps of a block */
#ifdef SHIM_ASAN
    void *scheduler_fake;
    const void *scheduler_bottom;
    size_t scheduler_size;
    void *fakes[MAX_THREADS];
#endif

    engine()
    {
        stacks = (unsigned char *)mmap(NULL, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        shared = (unsigned char *)aligned_alloc(1024, MAX_SHARED + 1024);
        if (stacks == MAP_FAILED || !shared) abort();
    }
    ~engine()
    {
        munmap(stacks, (size_t)MAX_THREADS * STACK_BYTES);
        free(shared);
    }
};

__thread shim_place shim_now;
static thread_local engine *eng;
static thread_local struct engine_owner {
    engine *e = NULL;
    ~engine_owner() { delete e; }
} owner;

[[noreturn]] void shim_die(const char *what, const char *detail)
{
    fprintf(stderr, "cuda_shim: %s%s (block %u %u %u, thread %u %u %u)\n", what, detail, blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    abort();
}

static unsigned char *stack_of(thread *t) { return eng->stacks + (t - eng->threads) * (size_t)STACK_BYTES; }

/* From the running thread back to the scheduler. */
static void leave(thread *t)
{
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(t->state == DONE ? NULL : &eng->fakes[t - eng->threads], eng->scheduler_bottom,
                                   eng->scheduler_size);
#endif
    shim_switch(&t->sp, eng->scheduler_sp);
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(eng->fakes[t - eng->threads], &eng->scheduler_bottom, &eng->scheduler_size);
#endif
}

static void finish_copies(thread *t, int up_to_group)
{
    int kept = 0;
    for (int i = 0; i < t->num_copies; i++) {
        copy *c = &t->copies[i];
        if (c->group >= up_to_group)
            t->copies[kept++] = *c;
        else if (c->valid)
            memcpy(c->shared, c->global, 16);
        else
            memset(c->shared, 0, 16);
    }
    t->num_copies = kept;
}

static void thread_main(void)
{
    thread *t = eng->self;
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &eng->scheduler_bottom, &eng->scheduler_size);
#endif
    eng->body(eng->ctx);
    t->state = DONE;
    eng->num_left--;
    if (eng->warps[t->warp].arrived > 0)
        shim_die("a thread has ended while its warp waits at ", eng->warps[t->warp].what);
    if (eng->num_at_barrier > 0) shim_die("a thread has ended while others wait at __syncthreads", "");
    leave(t);
    abort();
}

/* Run t until it waits. */
static void resume(thread *t)
{
    eng->self = t;
    shim_now.thread = t->idx;
#ifdef SHIM_ASAN
    __sanitizer_start_switch_fiber(&eng->scheduler_fake, stack_of(t), STACK_BYTES);
#endif
    shim_switch(&eng->scheduler_sp, t->sp);
#ifdef SHIM_ASAN
    __sanitizer_finish_switch_fiber(eng->scheduler_fake, NULL, NULL);
#endif
}

static void start_threads(dim3 block)
{
    int i = 0;
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++, i++) {
                thread *t = &eng->threads[i];
                t->state = READY;
                t->idx = {x, y, z};
                t->lane = i % 32;
                t->warp = i / 32;
                t->num_copies = t->group = 0;
                void **sp = (void **)(stack_of(t) + STACK_BYTES) - FRAME_WORDS;
                memset(sp, 0, FRAME_WORDS * sizeof *sp);
                sp[RETURN_AT] = (void *)thread_main;
                t->sp = sp;
#ifdef SHIM_ASAN
                eng->fakes[i] = NULL;
#endif
            }
    eng->num_threads = eng->num_left = i;
    eng->num_at_barrier = 0;
    for (int w = 0; w < i / 32; w++) eng->warps[w].arrived = 0;
}

/* All that can run of a warp; whether anything could. */
static bool run_warp(int w, bool backwards)
{
    bool ran = false, again;
    do {
        again = false;
        for (int i = 0; i < 32; i++) {
            thread *t = &eng->threads[32 * w + (backwards ? 31 - i : i)];
            if (t->state == AT_CONDITION && t->ready(t->ready_ctx)) t->state = READY;
            if (t->state != READY) continue;
            resume(t);
            again = ran = true;
        }
    } while (again);
    return ran;
}

static void run_block(dim3 block, size_t shared_bytes)
{
    memset(eng->shared, 0xFF, shared_bytes); /* NaN */
    start_threads(block);
    bool backwards = eng->launches % 2 != 0;
    int warps = eng->num_threads / 32;
    shim_hopper_begin(warps);
    while (eng->num_left > 0) {
        bool ran = false;
        eng->rounds++;
        for (int i = 0; i < warps; i++) ran |= run_warp(backwards ? warps - 1 - i : i, backwards);
        if (!ran && !shim_hopper_progress()) shim_die("lanes wait for each other for ever", "");
    }
    shim_hopper_end(warps);
}

void shim_run(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void *), void *ctx)
{
    if (!owner.e) owner.e = new engine();
    eng = owner.e;
    unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > MAX_THREADS || threads % 32 != 0) shim_die("a block must be 1 to 32 whole warps", "");
    if (shared_bytes > MAX_SHARED) shim_die("more dynamic shared memory than a block can have", "");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ)
        shim_die("a grid that cannot be launched", "");
    eng->body = body;
    eng->ctx = ctx;
    shim_now.grid_dim = {grid.x, grid.y, grid.z};
    shim_now.block_dim = {block.x, block.y, block.z};
    shim_now.shared = eng->shared;
    eng->shared_bytes = shared_bytes;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                shim_now.block = {x, y, z};
                run_block(block, shared_bytes);
            }
    eng->launches++;
}

/* ---- waiting ----------------------------------------------------------------------------------------- */

int shim_lane(void) { return eng->self->lane; }
int shim_warp_index(void) { return eng->self->warp; }
bool shim_copies_at_once(void) { return eng->launches & 2; }
unsigned char *shim_shared(size_t *bytes)
{
    *bytes = eng->shared_bytes;
    return eng->shared;
}

void shim_wait_until(bool (*ready)(void *), void *ctx)
{
    thread *t = eng->self;
    if (ready(ctx)) return;
    t->ready = ready;
    t->ready_ctx = ctx;
    t->state = AT_CONDITION;
    leave(t);
}

void shim_yield(void)
{
    unsigned now = eng->rounds;
    shim_wait_until([](void *ctx) { return eng->rounds != *(unsigned *)ctx; }, &now);
}

void __syncthreads(void)
{
    thread *t = eng->self;
    if (eng->num_left < eng->num_threads) shim_die("__syncthreads after a thread of the block has ended", "");
    if (++eng->num_at_barrier < eng->num_threads) {
        t->state = AT_BARRIER;
        leave(t);
        return;
    }
    eng->num_at_barrier = 0;
    for (int i = 0; i < eng->num_threads; i++) eng->threads[i].state = READY;
}

const shim_slots *shim_warp(const char *what, unsigned mask, const void *in, size_t bytes, void (*all)(shim_slots *))
{
    thread *t = eng->self;
    warp *w = &eng->warps[t->warp];
    shim_slots *slots = &w->slots[w->turn & 1];
    if (mask != ~0u) shim_die("an operation of a part of a warp: ", what);
    if (w->arrived > 0 && w->what != what) shim_die("lanes of a warp at different operations, one of them ", what);
    w->what = what;
    if (bytes) memcpy(slots->in[t->lane], in, bytes);
    if (++w->arrived < ALL_LANES) {
        t->state = AT_WARP;
        leave(t);
        return slots;
    }
    if (all) all(slots);
    w->arrived = 0;
    w->turn++;
    for (int i = 0; i < 32; i++) eng->threads[32 * t->warp + i].state = READY;
    return slots;
}

/* ---- tensor cores ------------------------------------------------------------------------------------ */

/* What a lane gives to and gets from an mma. */
struct mma_in {
    uint32_t a[4], b[2];
};

/* The 16-bit values of the warp's fragments as matrices: A [16][16], B [16][8]. */
static void gather_16(const shim_slots *s, float (*value)(uint16_t), float a[16][16], float b[16][8])
{
    for (int lane = 0; lane < 32; lane++) {
        mma_in in;
        memcpy(&in, s->in[lane], sizeof in);
        int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++)
                a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = value((uint16_t)(in.a[i] >> (16 * half)));
            for (int i = 0; i < 2; i++) b[2 * t + half + 8 * i][g] = value((uint16_t)(in.b[i] >> (16 * half)));
        }
    }
}

/* Products summed in double precision: closer than the tensor core, whose order is its own. */
static void multiply_16(shim_slots *s, float (*value)(uint16_t))
{
    float a[16][16], b[16][8];
    gather_16(s, value, a, b);
    for (int lane = 0; lane < 32; lane++) {
        double sums[4];
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
            sums[i] = 0;
            for (int k = 0; k < 16; k++) sums[i] += (double)a[row][k] * (double)b[k][col];
        }
        memcpy(s->out[lane], sums, sizeof sums);
    }
}
static void multiply_f16(shim_slots *s) { multiply_16(s, qr_f16_to_f32); }
static void multiply_bf16(shim_slots *s) { multiply_16(s, qr_bf16_to_f32); }

static void multiply_s8(shim_slots *s)
{
    int8_t a[16][32], b[32][8];
    for (int lane = 0; lane < 32; lane++) {
        mma_in in;
        memcpy(&in, s->in[lane], sizeof in);
        int g = lane / 4, t = lane % 4;
        for (int byte = 0; byte < 4; byte++) {
            for (int i = 0; i < 4; i++)
                a[g + 8 * (i % 2)][4 * t + byte + 16 * (i / 2)] = (int8_t)(in.a[i] >> (8 * byte));
            for (int i = 0; i < 2; i++) b[4 * t + byte + 16 * i][g] = (int8_t)(in.b[i] >> (8 * byte));
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        int32_t sums[4] = {0};
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 32; k++) sums[i] += a[lane / 4 + i / 2 * 8][k] * b[k][lane % 4 * 2 + i % 2];
        memcpy(s->out[lane], sums, sizeof sums);
    }
}

static const unsigned char *mma(const char *what, const uint32_t a[4], const uint32_t b[2], void (*all)(shim_slots *))
{
    mma_in in;
    memcpy(in.a, a, sizeof in.a);
    memcpy(in.b, b, sizeof in.b);
    return shim_warp(what, ~0u, &in, sizeof in, all)->out[shim_lane()];
}

static void add_sums(float d[4], const unsigned char *out)
{
    double sums[4];
    memcpy(sums, out, sizeof sums);
    for (int i = 0; i < 4; i++) d[i] = (float)((double)d[i] + sums[i]);
}

void qr_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    add_sums(d, mma("mma f16", a, b, multiply_f16));
}
void qr_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    add_sums(d, mma("mma bf16", a, b, multiply_bf16));
}
void qr_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    int32_t sums[4];
    memcpy(sums, mma("mma s8", a, b, multiply_s8), sizeof sums);
    for (int i = 0; i < 4; i++) d[i] += sums[i];
}

void shim_ldmatrix(uint32_t *r, const void *row, int count, bool transposed)
{
    if ((uintptr_t)row % 16 != 0) shim_die("ldmatrix: a row that is not 16-byte aligned", "");
    const shim_slots *s = shim_warp("ldmatrix", ~0u, &row, sizeof row, NULL);
    int major = shim_lane() / 4, minor = shim_lane() % 4 * 2;
    for (int i = 0; i < count; i++) {
        uint16_t pair[2];
        for (int j = 0; j < 2; j++) {
            const uint16_t *from;
            memcpy(&from, s->in[8 * i + (transposed ? minor + j : major)], sizeof from);
            pair[j] = from[transposed ? major : minor + j];
        }
        r[i] = (uint32_t)pair[1] << 16 | pair[0];
    }
    shim_warp("ldmatrix, end", ~0u, NULL, 0, NULL); /* all have read before one may write there */
}

/* ---- cp.async ---------------------------------------------------------------------------------------- */

void qr_cp_async_16(void *shared, const void *global, bool valid)
{
    thread *t = eng->self;
    if ((uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0) shim_die("cp.async: not 16-byte aligned", "");
    if (t->num_copies == MAX_COPIES) shim_die("more cp.async under way than the shim keeps", "");
    t->copies[t->num_copies++] = {shared, global, valid, t->group};
    if (shim_copies_at_once()) finish_copies(t, INT_MAX); /* at once: before the others have read what was there */
}
void qr_cp_async_commit(void) { eng->self->group++; }
void shim_cp_async_wait(int pending) { finish_copies(eng->self, eng->self->group - pending); }

/* ---- the runtime ------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count)
{
    const char *set = getenv("QUIRE_SHIM_DEVICES");
    *count = set ? atoi(set) : 1;
    return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device)
{
    int count;
    cudaError_t error = cudaGetDeviceCount(&count);
    return error != cudaSuccess ? error : device >= 0 && device < count ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    *prop = cudaDeviceProp();
    snprintf(prop->name, sizeof prop->name, "CUDA shim");
    prop->major = 9;
    prop->multiProcessorCount = 132;
    prop->totalGlobalMem = (size_t)1 << 30;
    prop->sharedMemPerBlockOptin = MAX_SHARED;
    return cudaSetDevice(device);
}
/* What cudaMemGetInfo() tells; allocations past it succeed. */
static const size_t DEVICE_BYTES = (size_t)512 << 20;
static std::atomic<size_t> device_bytes_taken;
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    const size_t taken = device_bytes_taken;
    *total_bytes = DEVICE_BYTES;
    *free_bytes = taken < DEVICE_BYTES ? DEVICE_BYTES - taken : 0;
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "no driver";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    }
    return "unknown error";
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }

/* As on a GPU: 256-byte aligned, and whatever was there before. */
cudaError_t shim_malloc(void **p, size_t bytes)
{
    if (bytes > (size_t)1 << 39) return cudaErrorMemoryAllocation; /* AddressSanitizer would end the program */
    if (posix_memalign(p, 256, bytes ? bytes : 1) != 0) return cudaErrorMemoryAllocation;
    memset(*p, 0xFF, bytes < 4096 ? bytes : 4096);
    device_bytes_taken += malloc_usable_size(*p);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    device_bytes_taken -= malloc_usable_size(p);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind)
{
    memmove(dst, src, bytes);
    return cudaSuccess;
}
/* A stream, and what is asked of it while it is captured; a graph is the same list. */
struct shim_graph {
    std::vector<std::function<void()>> work;
};
struct shim_stream {
    shim_graph *captured = NULL;
};
static void no_capture(cudaStream_t stream, const char *what)
{
    if (stream && stream->captured) shim_die("while its stream is captured: ", what);
}
void shim_do(cudaStream_t stream, const std::function<void()> &work)
{
    if (stream && stream->captured)
        stream->captured->work.push_back(work);
    else
        work();
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    no_capture(stream, "cudaStreamBeginCapture");
    stream->captured = new shim_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = stream->captured;
    stream->captured = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    const char *graphs = getenv("QUIRE_SHIM_GRAPHS");
    if (graphs && graphs[0] == '0') return cudaErrorMemoryAllocation;
    *exec = new shim_graph(*graph);
    return cudaSuccess;
}
extern "C" {
__attribute__((visibility("default"))) unsigned long long shim_graph_launches; /* for tests */
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    no_capture(stream, "cudaGraphLaunch");
    for (const std::function<void()> &work : exec->work) work();
    shim_graph_launches++;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    no_capture(stream, "cudaMemcpyAsync");
    return cudaMemcpy(dst, src, bytes, kind);
}
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    no_capture(stream, "cudaMemcpy2DAsync");
    for (size_t i = 0; i < height; i++)
        cudaMemcpy((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width, kind);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    no_capture(stream, "cudaMemsetAsync");
    memset(p, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new shim_stream;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    no_capture(stream, "cudaStreamSynchronize");
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = NULL;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream)
{
    no_capture(stream, "cudaEventRecord");
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
