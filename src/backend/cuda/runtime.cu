/* The device, its memory and its one stream; the table that quire takes. */
#include "backend/cuda/runtime.cuh"

#include "backend/cuda/gemm_lt.h"
#include "backend/cuda/wgmma_attention.h"

#include <stdio.h>
#include <stdlib.h>

void qr_cuda_check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return;
    fprintf(stderr, "quire: CUDA: %s: %s\n", what, cudaGetErrorString(error));
    abort();
}

static const char *error_text(int code)
{
    if (code == cudaErrorInsufficientDriver) return "there is no NVIDIA driver, or one too old for this CUDA";
    return cudaGetErrorString((cudaError_t)code);
}

static int num_devices(int *count)
{
    *count = 0;
    return (int)cudaGetDeviceCount(count);
}

static void close_device(qr_cuda_device *dev)
{
    if (!dev) return;
    cudaSetDevice(dev->index);
    qr_lt_close(dev);
    qr_cuda_upload_end(dev);
    if (dev->staged) cudaEventDestroy(dev->staged);
    if (dev->stream) cudaStreamDestroy(dev->stream);
    free(dev);
}

static int open_device(int index, qr_cuda_device **out, qr_cuda_info *info)
{
    qr_cuda_device *dev = (qr_cuda_device *)calloc(1, sizeof *dev);
    if (!dev) return (int)cudaErrorMemoryAllocation;
    dev->index = index;
    cudaDeviceProp prop;
    cudaError_t error = cudaSetDevice(index);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&prop, index);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&dev->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&dev->staged, cudaEventDisableTiming);
    if (error != cudaSuccess) {
        close_device(dev);
        return (int)error;
    }
    snprintf(info->name, sizeof info->name, "%s", prop.name);
    info->compute_major = prop.major;
    info->compute_minor = prop.minor;
    info->num_multiprocessors = prop.multiProcessorCount;
    *out = dev;
    return 0;
}

static int memory(qr_cuda_device *dev, size_t *free_bytes, size_t *total_bytes)
{
    cudaError_t error = cudaSetDevice(dev->index);
    return (int)(error != cudaSuccess ? error : cudaMemGetInfo(free_bytes, total_bytes));
}

static void *alloc(qr_cuda_device *dev, size_t bytes)
{
    void *ptr = NULL;
    if (cudaSetDevice(dev->index) != cudaSuccess || cudaMalloc(&ptr, bytes) != cudaSuccess) {
        cudaGetLastError(); /* no memory is an answer, not a fault */
        return NULL;
    }
    qr_cuda_check(cudaMemsetAsync(ptr, 0, bytes, dev->stream), "cudaMemsetAsync");
    return ptr;
}

static void *alloc_host(qr_cuda_device *dev, size_t bytes)
{
    void *ptr = NULL;
    if (cudaSetDevice(dev->index) != cudaSuccess || cudaHostAlloc(&ptr, bytes, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    memset(ptr, 0, bytes);
    return ptr;
}

static void free_memory(qr_cuda_device *dev, void *ptr)
{
    cudaPointerAttributes attributes;
    if (!ptr) return;
    cudaSetDevice(dev->index);
    if (cudaPointerGetAttributes(&attributes, ptr) == cudaSuccess && attributes.type == cudaMemoryTypeHost)
        cudaFreeHost(ptr);
    else
        cudaFree(ptr);
}

static void transfer(qr_cuda_device *dev, void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check(cudaMemcpyAsync(dst, src, bytes, kind, dev->stream), "cudaMemcpyAsync");
}

static void wait_device(qr_cuda_device *dev)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check(cudaStreamSynchronize(dev->stream), "cudaStreamSynchronize");
}

/* A short one: `host` may be page-locked memory of the caller, which the copy would still read after return. */
static void write_device(qr_cuda_device *dev, void *dst, const void *host, size_t bytes)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    if (qr_cuda_upload_run(dev, dst, host, bytes)) return;
    transfer(dev, dst, host, bytes, cudaMemcpyHostToDevice);
    wait_device(dev);
}

static void read_device(qr_cuda_device *dev, void *host, const void *src, size_t bytes)
{
    transfer(dev, host, src, bytes, cudaMemcpyDeviceToHost);
    wait_device(dev);
}

static void copy(qr_cuda_device *dev, void *dst, const void *src, size_t bytes)
{
    transfer(dev, dst, src, bytes, cudaMemcpyDeviceToDevice);
}

static void stage(qr_cuda_device *dev, void *dst, const void *host, size_t bytes)
{
    transfer(dev, dst, host, bytes, cudaMemcpyHostToDevice);
    qr_cuda_check(cudaEventRecord(dev->staged, dev->stream), "cudaEventRecord");
}

static void stage_wait(qr_cuda_device *dev)
{
    qr_cuda_check(cudaEventSynchronize(dev->staged), "cudaEventSynchronize");
}

static void capture_begin(qr_cuda_device *dev)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check(cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}

static int capture_end(qr_cuda_device *dev, qr_cuda_graph **out)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    *out = NULL;
    qr_cuda_check(cudaStreamEndCapture(dev->stream, &graph), "cudaStreamEndCapture");
    cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    if (error == cudaSuccess)
        *out = reinterpret_cast<qr_cuda_graph *>(exec);
    else
        cudaGetLastError(); /* no memory is an answer, not a fault */
    return (int)error;
}

static void graph_launch(qr_cuda_device *dev, qr_cuda_graph *graph)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), dev->stream), "cudaGraphLaunch");
}

static void graph_free(qr_cuda_device *dev, qr_cuda_graph *graph)
{
    if (!graph) return;
    wait_device(dev);
    cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}

static void mma_pack(qr_cuda_device *dev, const qr_mma_weight *w, const void *rows, size_t row_bytes)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check((cudaError_t)qr_mma_weight_pack(w, rows, row_bytes, dev->stream), "qr_mma_weight_pack");
}

static void mma_linear(qr_cuda_device *dev, const qr_mma_linear *args)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check((cudaError_t)qr_mma_linear_run(args, dev->stream), "qr_mma_linear_run");
}

static void mma_attention(qr_cuda_device *dev, const qr_mma_attention *args, const qr_mma_plan *plan)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_cuda_check((cudaError_t)qr_mma_attention_run(args, plan, dev->stream), "qr_mma_attention_run");
}

static bool wgmma_check(qr_cuda_device *dev)
{
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    return qr_wgmma_attention_check(dev->stream);
}

extern "C" __attribute__((visibility("default"))) const qr_cuda_api *quire_cuda_api(void)
{
    static const qr_cuda_api api = {QR_CUDA_VERSION,
                                    error_text,
                                    num_devices,
                                    open_device,
                                    close_device,
                                    memory,
                                    alloc,
                                    alloc_host,
                                    free_memory,
                                    write_device,
                                    read_device,
                                    copy,
                                    stage,
                                    stage_wait,
                                    wait_device,
                                    capture_begin,
                                    capture_end,
                                    graph_launch,
                                    graph_free,
                                    qr_cuda_embed_rows,
                                    qr_cuda_rms_norm,
                                    qr_cuda_layer_norm,
                                    qr_cuda_gated_act,
                                    qr_cuda_act_rows,
                                    qr_cuda_gather_rows,
                                    qr_cuda_quantize,
                                    qr_cuda_multiply,
                                    qr_cuda_rope_kv_write,
                                    qr_cuda_attend,
                                    qr_cuda_sample,
                                    mma_pack,
                                    mma_linear,
                                    mma_attention,
                                    wgmma_check,
                                    qr_cuda_stream,
                                    qr_cuda_sum_parts,
                                    qr_cuda_copy_rows,
                                    qr_lt_open,
                                    qr_lt_describe,
                                    qr_lt_round_x,
                                    qr_lt_multiply};
    return &api;
}
