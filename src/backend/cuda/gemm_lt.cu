/* gemm_lt's calls of cuBLASLt, which is found at run time; its kernels are in lt_rows.cu. */
#include "backend/cuda/gemm_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/lt_rows.cuh"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

enum { MAX_TRIED = 8 }; /* algorithms of a query */

/* XX(function) */
#define LT_FUNCTIONS(XX)                     \
    XX(cublasLtCreate)                       \
    XX(cublasLtDestroy)                      \
    XX(cublasLtGetStatusString)              \
    XX(cublasLtMatmulDescCreate)             \
    XX(cublasLtMatmulDescDestroy)            \
    XX(cublasLtMatmulDescSetAttribute)       \
    XX(cublasLtMatrixLayoutCreate)           \
    XX(cublasLtMatrixLayoutDestroy)          \
    XX(cublasLtMatrixLayoutSetAttribute)     \
    XX(cublasLtMatmulPreferenceCreate)       \
    XX(cublasLtMatmulPreferenceDestroy)      \
    XX(cublasLtMatmulPreferenceSetAttribute) \
    XX(cublasLtMatmulAlgoGetHeuristic)       \
    XX(cublasLtMatmulAlgoCheck)              \
    XX(cublasLtMatmulAlgoConfigGetAttribute) \
    XX(cublasLtMatmul)

struct qr_lt {
#define XX(name) decltype(&::name) name;
    LT_FUNCTIONS(XX)
#undef XX
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;     /* float32 sums, the first matrix transposed */
    cublasLtMatrixLayout_t w, x, out; /* of the product that is asked for; no step allocates */
};

static void check(const qr_lt *lt, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fprintf(stderr, "quire: cuBLASLt: %s: %s\n", what, lt->cublasLtGetStatusString(status));
    abort();
}

/* ---- the library */

static bool load(qr_lt *lt, char *problem, size_t problem_bytes)
{
    const char *path = getenv("QUIRE_CUBLASLT_LIBRARY");
    void *library = dlopen(path && path[0] ? path : LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(problem, problem_bytes, "%s", dlerror());
        return false;
    }
    void *symbol = NULL;
#define XX(name)                                           \
    symbol = dlsym(library, #name);                        \
    if (!symbol) {                                         \
        snprintf(problem, problem_bytes, "%s", dlerror()); \
        dlclose(library);                                  \
        return false;                                      \
    }                                                      \
    memcpy(&lt->name, &symbol, sizeof symbol);
    LT_FUNCTIONS(XX)
#undef XX
    return true;
}

static cublasStatus_t create(qr_lt *lt)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t status = lt->cublasLtCreate(&lt->handle);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->cublasLtMatmulDescCreate(&lt->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lt->cublasLtMatmulDescSetAttribute(lt->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                    sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS) status = lt->cublasLtMatrixLayoutCreate(&lt->w, CUDA_R_16BF, 8, 8, 8);
    if (status == CUBLAS_STATUS_SUCCESS) status = lt->cublasLtMatrixLayoutCreate(&lt->x, CUDA_R_16BF, 8, 8, 8);
    if (status == CUBLAS_STATUS_SUCCESS) status = lt->cublasLtMatrixLayoutCreate(&lt->out, CUDA_R_32F, 8, 8, 8);
    return status;
}

static void destroy(qr_lt *lt)
{
    if (lt->out) lt->cublasLtMatrixLayoutDestroy(lt->out);
    if (lt->x) lt->cublasLtMatrixLayoutDestroy(lt->x);
    if (lt->w) lt->cublasLtMatrixLayoutDestroy(lt->w);
    if (lt->product) lt->cublasLtMatmulDescDestroy(lt->product);
    if (lt->handle) lt->cublasLtDestroy(lt->handle);
    free(lt);
}

bool qr_lt_open(qr_cuda_device *dev, char *problem, size_t problem_bytes)
{
    if (dev->lt) return true;
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    qr_lt *lt = (qr_lt *)calloc(1, sizeof *lt);
    if (!lt || !load(lt, problem, problem_bytes)) {
        if (!lt) snprintf(problem, problem_bytes, "out of memory");
        free(lt);
        return false;
    }
    const cublasStatus_t status = create(lt);
    if (status != CUBLAS_STATUS_SUCCESS) {
        snprintf(problem, problem_bytes, "%s", lt->cublasLtGetStatusString(status));
        destroy(lt);
        return false;
    }
    dev->lt = lt;
    return true;
}

void qr_lt_close(qr_cuda_device *dev)
{
    if (dev->lt) destroy(dev->lt);
    dev->lt = NULL;
}

/* ---- one product: cuBLASLt's matrices are column-major, so out^T [rows, tokens] = W (stored as K x rows) x^T */

static void set_layout(const qr_lt *lt, cublasLtMatrixLayout_t layout, cudaDataType_t type, int64_t rows, int64_t cols)
{
    const uint64_t height = (uint64_t)rows, width = (uint64_t)cols;
    const uint32_t kind = (uint32_t)type;
    check(lt, lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &kind, sizeof kind), "type");
    check(lt, lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &height, sizeof height),
          "rows");
    check(lt, lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &width, sizeof width), "cols");
    check(lt, lt->cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_LD, &rows, sizeof rows), "ld");
}

static void set_product(const qr_lt *lt, const qr_lt_weight *w, int64_t rows, int64_t tokens)
{
    const cudaDataType_t type = w->is_f16 ? CUDA_R_16F : CUDA_R_16BF;
    set_layout(lt, lt->w, type, w->num_cols, rows);
    set_layout(lt, lt->x, type, w->num_cols, tokens);
    set_layout(lt, lt->out, CUDA_R_32F, rows, tokens);
}

/* Whether the algorithm multiplies `rows` of W with as few and as many tokens as a call has. */
static bool takes(const qr_lt *lt, const qr_lt_weight *w, const cublasLtMatmulAlgo_t *algo, int64_t rows)
{
    const int64_t tokens[] = {QR_LT_TILE, QR_LT_TOKENS, w->piece_tokens};
    for (int i = 0; i < 3; i++) {
        cublasLtMatmulHeuristicResult_t result;
        set_product(lt, w, rows, tokens[i]);
        if (lt->cublasLtMatmulAlgoCheck(lt->handle, lt->product, lt->w, lt->x, lt->out, lt->out, algo, &result) !=
                CUBLAS_STATUS_SUCCESS ||
            result.workspaceSize > QR_LT_WORKSPACE_BYTES)
            return false;
    }
    return true;
}

static bool choose(const qr_lt *lt, qr_lt_weight *w)
{
    const uint64_t workspace = QR_LT_WORKSPACE_BYTES;
    const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    const int64_t last = w->num_rows % w->piece_rows ? w->num_rows % w->piece_rows : w->piece_rows;
    cublasLtMatmulHeuristicResult_t tried[MAX_TRIED];
    cublasLtMatmulPreference_t wish;
    int count = 0;
    check(lt, lt->cublasLtMatmulPreferenceCreate(&wish), "cublasLtMatmulPreferenceCreate");
    check(lt,
          lt->cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                   sizeof workspace),
          "workspace");
    check(lt,
          lt->cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_reduction,
                                                   sizeof no_reduction),
          "reduction scheme");
    set_product(lt, w, w->piece_rows, QR_LT_TOKENS);
    if (lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, lt->product, lt->w, lt->x, lt->out, lt->out, wish, MAX_TRIED,
                                           tried, &count) != CUBLAS_STATUS_SUCCESS)
        count = 0;
    lt->cublasLtMatmulPreferenceDestroy(wish);
    for (int i = 0; i < count; i++) {
        int32_t splits = 0;
        if (tried[i].state != CUBLAS_STATUS_SUCCESS ||
            lt->cublasLtMatmulAlgoConfigGetAttribute(&tried[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits,
                                                     sizeof splits, NULL) != CUBLAS_STATUS_SUCCESS ||
            splits > 1 || !takes(lt, w, &tried[i].algo, w->piece_rows) || !takes(lt, w, &tried[i].algo, last))
            continue;
        static_assert(sizeof tried[i].algo == sizeof w->algo, "cublasLtMatmulAlgo_t has grown");
        memcpy(w->algo, &tried[i].algo, sizeof w->algo);
        return true;
    }
    return false;
}

bool qr_lt_describe(qr_cuda_device *dev, qr_dtype dtype, int64_t num_rows, int64_t num_cols, const void *rows,
                    const qr_mma_weight *packed, qr_lt_weight *out)
{
    *out = {};
    const int64_t in_w16 = QR_LT_W16_COUNT / num_cols, in_out = QR_LT_OUT_COUNT / QR_LT_TILE;
    const int64_t most = (in_w16 < in_out ? in_w16 : in_out) / QR_LINEAR_ROWS * QR_LINEAR_ROWS;
    if (num_cols % 8 != 0 || num_rows % 8 != 0 || most == 0) return false;
    out->num_rows = num_rows;
    out->num_cols = num_cols;
    out->piece_rows = num_rows < most ? num_rows : most;
    out->piece_tokens = QR_LT_OUT_COUNT / out->piece_rows / QR_LT_TILE * QR_LT_TILE;
    out->rows = rows;
    out->is_f16 = rows && dtype == QR_F16;
    if (packed) out->packed = *packed;
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    return out->is_there = choose(dev->lt, out);
}

static void multiply_piece(qr_cuda_device *dev, const qr_lt_linear *a, const void *w16, int64_t first_row, int64_t rows)
{
    const qr_lt *lt = dev->lt;
    const qr_lt_weight *w = a->w;
    const float one = 1, zero = 0;
    for (int64_t first = 0; first < a->num_tokens; first += w->piece_tokens) {
        const int64_t left = a->num_tokens - first, count = left < w->piece_tokens ? left : w->piece_tokens;
        set_product(lt, w, rows, (count + QR_LT_TILE - 1) / QR_LT_TILE * QR_LT_TILE);
        const uint16_t *x16 = (const uint16_t *)a->scratch.x16 + first * w->num_cols;
        check(lt,
              lt->cublasLtMatmul(lt->handle, lt->product, &one, w16, lt->w, x16, lt->x, &zero, a->scratch.out, lt->out,
                                 a->scratch.out, lt->out, (const cublasLtMatmulAlgo_t *)w->algo, a->scratch.workspace,
                                 QR_LT_WORKSPACE_BYTES, dev->stream),
              "cublasLtMatmul");
        qr_lt_finish(dev, a->scratch.out, rows, (int)count, a->bias ? a->bias + first_row : NULL, a->accumulate,
                     a->y + first * a->ld_y + first_row, a->ld_y);
    }
}

void qr_lt_multiply(qr_cuda_device *dev, const qr_lt_linear *a)
{
    const qr_lt_weight *w = a->w;
    qr_cuda_check(cudaSetDevice(dev->index), "cudaSetDevice");
    for (int64_t first = 0; first < w->num_rows; first += w->piece_rows) {
        const int64_t rows = w->num_rows - first < w->piece_rows ? w->num_rows - first : w->piece_rows;
        const void *w16 = a->scratch.w16;
        if (w->rows)
            w16 = (const uint16_t *)w->rows + first * w->num_cols;
        else
            qr_lt_unpack(dev, &w->packed, first, rows, (uint16_t *)a->scratch.w16);
        multiply_piece(dev, a, w16, first, rows);
    }
}
