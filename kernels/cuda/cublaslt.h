/* NVIDIA's matrix products, cuBLASLt, as a library that may or may not be there: found by dlopen, its functions and
 * types declared here, so that neither its header nor its file is needed to build or to start. What gemm_lt.cu does
 * with it.
 *
 * Source: cuBLAS Library documentation, section "Using the cuBLASLt API" (names, numbers and sizes of versions 12 and
 * 13). */
#ifndef KERNELS_CUDA_CUBLASLT_H
#define KERNELS_CUDA_CUBLASLT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every call returns one of the library's numbers: */
enum cublaslt_status { CUBLASLT_SUCCESS = 0, CUBLASLT_INVALID_VALUE = 7, CUBLASLT_NOT_SUPPORTED = 15 };

enum cublaslt_type { CUBLASLT_R_32F = 0, CUBLASLT_R_16F = 2, CUBLASLT_R_16BF = 14 }; /* cudaDataType_t */
enum cublaslt_compute { CUBLASLT_COMPUTE_32F = 68 };                                 /* cublasComputeType_t */
enum cublaslt_op { CUBLASLT_OP_N = 0, CUBLASLT_OP_T = 1 };                           /* int32_t */
enum cublaslt_desc_attribute { CUBLASLT_DESC_TRANSA = 3, CUBLASLT_DESC_TRANSB = 4 };
enum cublaslt_layout_attribute { CUBLASLT_LAYOUT_COLS = 3 }; /* uint64_t */
enum cublaslt_preference_attribute {
    CUBLASLT_PREFERENCE_WORKSPACE = 1,   /* uint64_t: bytes that an algorithm may have */
    CUBLASLT_PREFERENCE_REDUCTION = 3,   /* uint32_t: how parts of k may be added up; 0: k is not cut into parts */
    CUBLASLT_PREFERENCE_ALIGNMENT_A = 5, /* uint32_t: bytes that the address is a multiple of; B, C and D follow */
    CUBLASLT_PREFERENCE_ALIGNMENT_D = 8
};

typedef struct cublaslt_handle_s *cublaslt_handle; /* opaque objects of the library */
typedef struct cublaslt_desc_s *cublaslt_desc;
typedef struct cublaslt_layout_s *cublaslt_layout;
typedef struct cublaslt_preference_s *cublaslt_preference;

struct cublaslt_algo {
    uint64_t data[8];
};
struct cublaslt_heuristic {
    struct cublaslt_algo algo;
    size_t workspace; /* bytes that it needs */
    int state;        /* of no use unless CUBLASLT_SUCCESS */
    float waves;
    int reserved[4];
};

struct cublaslt {
    void *opened; /* NULL: not there */
    size_t (*version)(void);
    int (*create)(cublaslt_handle *handle);
    int (*destroy)(cublaslt_handle handle);
    int (*desc_create)(cublaslt_desc *desc, int compute, int scale_type);
    int (*desc_destroy)(cublaslt_desc desc);
    int (*desc_set)(cublaslt_desc desc, int attribute, const void *value, size_t bytes);
    int (*layout_create)(cublaslt_layout *layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(cublaslt_layout layout);
    int (*layout_set)(cublaslt_layout layout, int attribute, const void *value, size_t bytes);
    int (*preference_create)(cublaslt_preference *preference);
    int (*preference_destroy)(cublaslt_preference preference);
    int (*preference_set)(cublaslt_preference preference, int attribute, const void *value, size_t bytes);
    int (*heuristic)(cublaslt_handle handle, cublaslt_desc desc, cublaslt_layout a, cublaslt_layout b,
                     cublaslt_layout c, cublaslt_layout d, cublaslt_preference preference, int wanted,
                     struct cublaslt_heuristic *results, int *found);
    /* d = alpha op(a) op(b) + beta c, matrices by columns; alpha and beta are the host's. */
    int (*matmul)(cublaslt_handle handle, cublaslt_desc desc, const void *alpha, const void *a,
                  cublaslt_layout a_layout, const void *b, cublaslt_layout b_layout, const void *beta, const void *c,
                  cublaslt_layout c_layout, void *d, cublaslt_layout d_layout, const struct cublaslt_algo *algo,
                  void *workspace, size_t workspace_bytes, void *stream);
};

/* file NULL: the versions that we know, by the names under which the system's loader finds them. false: it is not there
 * or lacks a function, text says what was looked for and why it will not do, and lt is empty. */
bool cublaslt_open(struct cublaslt *lt, const char *file, char *text, size_t size);
void cublaslt_close(struct cublaslt *lt); /* an empty one is fine */

#ifdef __cplusplus
}
#endif

#endif
