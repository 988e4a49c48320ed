/* cuda_shim: cuBLASLt by loops (cublasLt.h). */
#include "cublasLt.h"

#include <stdlib.h>

#include <vector>

#include "cuda_bf16.h"

#pragma GCC visibility push(default)

enum { TILE = 128, SPLITS = 4, WORKSPACE = 1 << 20 };

struct shim_lt {
    int unused;
};
struct shim_lt_product {
    cublasOperation_t trans_a;
};
struct shim_lt_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct shim_lt_preference {
    uint64_t workspace;
    uint32_t reductions;
};

template <class T> static cublasStatus_t create(T **out, T value)
{
    *out = (T *)malloc(sizeof(T));
    if (!*out) return CUBLAS_STATUS_ALLOC_FAILED;
    **out = value;
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> static cublasStatus_t set(T *to, const void *value, size_t bytes)
{
    if (bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return create(handle, {0}); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_INVALID_VALUE   ? "CUBLAS_STATUS_INVALID_VALUE"
           : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                   : "CUBLAS_STATUS";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t, cudaDataType_t)
{
    return create(desc, {CUBLAS_OP_N});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t,
                                              const void *value, size_t bytes)
{
    return set(&desc->trans_a, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld)
{
    return create(layout, {type, rows, cols, ld});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return set(&layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return set(&layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return set(&layout->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD: return set(&layout->ld, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    return create(preference, {0, ~0u});
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes)
{
    return attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? set(&preference->workspace, value, bytes)
                                                                 : set(&preference->reductions, value, bytes);
}

/* Whether shapes and types are those of a product W^T x with 16-byte aligned columns. */
static bool fits(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                 cublasLtMatrixLayout_t d)
{
    return desc->trans_a == CUBLAS_OP_T && a->type == b->type && a->type != CUDA_R_32F && d->type == CUDA_R_32F &&
           a->rows == b->rows && a->cols == d->rows && b->cols == d->cols && a->ld % 8 == 0 && b->ld % 8 == 0 &&
           d->ld % 4 == 0 && (uint64_t)a->ld >= a->rows && (uint64_t)b->ld >= b->rows && (uint64_t)d->ld >= d->rows;
}

/* data[0]: in how many parts K is split; data[1]: a mark. */
enum { MARK = 0x4C74 };

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t *results, int *count)
{
    const char *set = getenv("QUIRE_SHIM_LT_ALGOS");
    *count = std::min(most, set ? atoi(set) : 2);
    if (!fits(desc, a, b, d)) return CUBLAS_STATUS_INVALID_VALUE;
    if (*count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < *count; i++) {
        results[i] = cublasLtMatmulHeuristicResult_t();
        results[i].algo.data[0] = i == 0 ? SPLITS : 1;
        results[i].algo.data[1] = MARK;
        results[i].workspaceSize = std::min((uint64_t)WORKSPACE, preference->workspace);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result)
{
    if (!fits(desc, a, b, d)) return CUBLAS_STATUS_INVALID_VALUE;
    if (algo->data[1] != MARK || d->cols % TILE != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = cublasLtMatmulHeuristicResult_t();
    result->algo = *algo;
    result->workspaceSize = WORKSPACE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t, void *value, size_t bytes,
                                                    size_t *)
{
    const int32_t splits = (int32_t)algo->data[0];
    if (bytes != sizeof splits) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &splits, sizeof splits);
    return CUBLAS_STATUS_SUCCESS;
}

static void convert(cudaDataType_t type, const uint16_t *from, uint64_t count, float *to)
{
    for (uint64_t i = 0; i < count; i++) to[i] = type == CUDA_R_16F ? qr_f16_to_f32(from[i]) : qr_bf16_to_f32(from[i]);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t)
{
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle, desc, a_layout, b_layout, c_layout, d_layout, algo, &result);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (*(const float *)alpha != 1 || *(const float *)beta != 0 || workspace_bytes < WORKSPACE || !workspace ||
        ((uintptr_t)a | (uintptr_t)b | (uintptr_t)d) % 256 != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    memset(workspace, 0xFF, WORKSPACE);
    const uint64_t depth = a_layout->rows;
    std::vector<float> x(depth * b_layout->cols), w(depth);
    for (uint64_t t = 0; t < b_layout->cols; t++)
        convert(b_layout->type, (const uint16_t *)b + t * (uint64_t)b_layout->ld, depth, &x[t * depth]);
    for (uint64_t n = 0; n < a_layout->cols; n++) {
        convert(a_layout->type, (const uint16_t *)a + n * (uint64_t)a_layout->ld, depth, w.data());
        for (uint64_t t = 0; t < b_layout->cols; t++) {
            double sum = 0;
            for (uint64_t k = 0; k < depth; k++) sum += (double)w[k] * (double)x[t * depth + k];
            ((float *)d)[t * (uint64_t)d_layout->ld + n] = (float)sum;
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}

#pragma GCC visibility pop
