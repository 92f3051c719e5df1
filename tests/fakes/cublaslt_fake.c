/* A stand-in for NVIDIA's cuBLASLt: checks what it is told as the documentation has it (types, transposes, dimensions,
 * leading dimensions, alignment, workspace, that an algorithm is used for the shape that it was chosen for) and
 * computes the product on the host, in double. Signatures and numbers: cuBLAS Library documentation, "Using the
 * cuBLASLt API"; on purpose it does not include kernels/cuda/cublaslt.h, whose slips it shall find. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fakes/cublaslt_fake.h"

enum { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14, COMPUTE_32F = 68 };

struct desc {
    int compute, scale;
    int32_t op_a, op_b;
};
struct layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
};
struct preference {
    uint64_t workspace;
    uint32_t reduction, alignment[4];
};
struct algo {
    uint64_t data[8];
};
struct heuristic_result {
    struct algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static struct cublaslt_fake fake;

struct cublaslt_fake *cublaslt_fake_state(void);
struct cublaslt_fake *cublaslt_fake_state(void)
{
    return &fake;
}

static int refuse(const char *what)
{
    fprintf(stderr, "cublaslt_fake: %s\n", what);
    return INVALID_VALUE;
}

static void *object(size_t bytes)
{
    fake.live++;
    return calloc(1, bytes);
}

static int gone(void *p)
{
    fake.live -= p != NULL;
    free(p);
    return SUCCESS;
}

size_t cublasLtGetVersion(void);
size_t cublasLtGetVersion(void)
{
    return 130001;
}

int cublasLtCreate(void **handle);
int cublasLtCreate(void **handle)
{
    *handle = object(1);
    return SUCCESS;
}

int cublasLtDestroy(void *handle);
int cublasLtDestroy(void *handle)
{
    return gone(handle);
}

int cublasLtMatmulDescCreate(struct desc **d, int compute, int scale);
int cublasLtMatmulDescCreate(struct desc **d, int compute, int scale)
{
    if (compute != COMPUTE_32F || scale != R_32F)
        return refuse("a product that does not sum in float");
    *d = object(sizeof **d);
    (*d)->compute = compute, (*d)->scale = scale;
    return SUCCESS;
}

int cublasLtMatmulDescDestroy(struct desc *d);
int cublasLtMatmulDescDestroy(struct desc *d)
{
    return gone(d);
}

int cublasLtMatmulDescSetAttribute(struct desc *d, int attribute, const void *value, size_t bytes);
int cublasLtMatmulDescSetAttribute(struct desc *d, int attribute, const void *value, size_t bytes)
{
    if (bytes != sizeof(int32_t) || (attribute != 3 && attribute != 4))
        return refuse("an attribute of a product that is neither transpose, or not four bytes");
    memcpy(attribute == 3 ? &d->op_a : &d->op_b, value, bytes);
    return SUCCESS;
}

int cublasLtMatrixLayoutCreate(struct layout **l, int type, uint64_t rows, uint64_t cols, int64_t ld);
int cublasLtMatrixLayoutCreate(struct layout **l, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    if (ld < (int64_t)rows || rows == 0 || cols == 0)
        return refuse("a matrix whose columns overlap, or an empty one");
    *l = object(sizeof **l);
    **l = (struct layout){type, rows, cols, ld};
    return SUCCESS;
}

int cublasLtMatrixLayoutDestroy(struct layout *l);
int cublasLtMatrixLayoutDestroy(struct layout *l)
{
    return gone(l);
}

int cublasLtMatrixLayoutSetAttribute(struct layout *l, int attribute, const void *value, size_t bytes);
int cublasLtMatrixLayoutSetAttribute(struct layout *l, int attribute, const void *value, size_t bytes)
{
    if (attribute != 3 || bytes != sizeof l->cols)
        return refuse("an attribute of a matrix that is not its columns in eight bytes");
    memcpy(&l->cols, value, bytes);
    return SUCCESS;
}

int cublasLtMatmulPreferenceCreate(struct preference **p);
int cublasLtMatmulPreferenceCreate(struct preference **p)
{
    *p = object(sizeof **p);
    **p = (struct preference){0, UINT32_MAX, {256, 256, 256, 256}};
    return SUCCESS;
}

int cublasLtMatmulPreferenceDestroy(struct preference *p);
int cublasLtMatmulPreferenceDestroy(struct preference *p)
{
    return gone(p);
}

int cublasLtMatmulPreferenceSetAttribute(struct preference *p, int attribute, const void *value, size_t bytes);
int cublasLtMatmulPreferenceSetAttribute(struct preference *p, int attribute, const void *value, size_t bytes)
{
    if (attribute == 1 && bytes == sizeof p->workspace)
        memcpy(&p->workspace, value, bytes);
    else if (attribute == 3 && bytes == sizeof p->reduction)
        memcpy(&p->reduction, value, bytes);
    else if (attribute >= 5 && attribute <= 8 && bytes == sizeof p->alignment[0])
        memcpy(&p->alignment[attribute - 5], value, bytes);
    else
        return refuse("a preference of an unknown number or size");
    return SUCCESS;
}

/* d[m, cols] = transpose(a[k, m]) . b[k, cols], 16-bit numbers of one kind, floats. */
static bool shapes_fit(const struct desc *d, const struct layout *a, const struct layout *b, const struct layout *out)
{
    return d->op_a == 1 && d->op_b == 0 && a->type == b->type && (a->type == R_16F || a->type == R_16BF) &&
           out->type == R_32F && a->rows == b->rows && a->cols == out->rows && b->cols == out->cols;
}

static struct algo algo_for(const struct layout *a)
{
    return (struct algo){{0x5eed, a->rows, a->cols, (uint64_t)a->ld, (uint64_t)a->type}};
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, const struct desc *d, const struct layout *a, const struct layout *b,
                                   const struct layout *c, const struct layout *out, const struct preference *p,
                                   int wanted, struct heuristic_result *results, int *found);
int cublasLtMatmulAlgoGetHeuristic(void *handle, const struct desc *d, const struct layout *a, const struct layout *b,
                                   const struct layout *c, const struct layout *out, const struct preference *p,
                                   int wanted, struct heuristic_result *results, int *found)
{
    fake.heuristics++;
    *found = 0;
    if (!handle || wanted < 1 || !shapes_fit(d, a, b, c) || !shapes_fit(d, a, b, out))
        return refuse("a search for a product that does not fit");
    for (int i = 0; i < 4; i++)
        if (p->alignment[i] != 16)
            return refuse("an alignment that nobody promised");
    if (p->reduction != 0)
        return refuse("parts of k that are added up in any order");
    if (fake.refuse)
        return NOT_SUPPORTED;
    *found = 1;
    results[0] = (struct heuristic_result){.algo = algo_for(a), .workspace = p->workspace, .state = SUCCESS};
    return SUCCESS;
}

/* ---- the product ---- */

struct product {
    const uint16_t *a, *b;
    float *d;
    struct layout la, lb, ld;
};

static double number(uint16_t h, int type)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    if (type == R_16BF) {
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    }
    const int e = h >> 10 & 31;
    const double fraction = (double)(h & 1023) / 1024.0, sign = h >> 15 ? -1.0 : 1.0;
    if (e == 31)
        return fraction > 0 ? (double)__builtin_nanf("") : sign * (double)__builtin_inff();
    return sign * (e == 0 ? __builtin_ldexp(fraction, -14) : __builtin_ldexp(1.0 + fraction, e - 15));
}

static void multiply(const void *arg)
{
    const struct product *p = arg;
    for (uint64_t t = 0; t < p->lb.cols; t++)
        for (uint64_t r = 0; r < p->la.cols; r++) {
            const uint16_t *a = p->a + (int64_t)r * p->la.ld, *b = p->b + (int64_t)t * p->lb.ld;
            double sum = 0;
            for (uint64_t k = 0; k < p->la.rows; k++)
                sum += number(a[k], p->la.type) * number(b[k], p->lb.type);
            p->d[(int64_t)t * p->ld.ld + (int64_t)r] = (float)sum;
        }
}

int cublasLtMatmul(void *handle, const struct desc *desc, const float *alpha, const void *a, const struct layout *la,
                   const void *b, const struct layout *lb, const float *beta, const void *c, const struct layout *lc,
                   void *d, const struct layout *ld, const struct algo *algo, void *workspace, size_t workspace_bytes,
                   void *stream);
int cublasLtMatmul(void *handle, const struct desc *desc, const float *alpha, const void *a, const struct layout *la,
                   const void *b, const struct layout *lb, const float *beta, const void *c, const struct layout *lc,
                   void *d, const struct layout *ld, const struct algo *algo, void *workspace, size_t workspace_bytes,
                   void *stream)
{
    const struct algo expected = algo_for(la);
    struct product p = {a, b, d, *la, *lb, *ld};
    if (!handle || !shapes_fit(desc, la, lb, ld) || lc != ld || c != d)
        return refuse("a product that does not fit");
    if (*alpha != 1.0f || *beta != 0.0f)
        return refuse("alpha and beta that are not 1 and 0");
    if (memcmp(algo, &expected, sizeof expected) != 0)
        return refuse("an algorithm that was chosen for another shape");
    if (!workspace || workspace_bytes < ((size_t)32 << 20) || (uintptr_t)workspace % 256)
        return refuse("a workspace that is too small or not aligned");
    if ((uintptr_t)a % 16 || (uintptr_t)b % 16 || (uintptr_t)d % 16 || la->ld % 8 || lb->ld % 8 || ld->ld % 4)
        return refuse("a matrix that is not aligned as was promised");
    if (fake.refuse_cols && (uint64_t)fake.refuse_cols == lb->cols)
        return NOT_SUPPORTED;
    fake.products++;
    if (fake.call)
        fake.call(stream, multiply, &p, sizeof p);
    else
        multiply(&p);
    return SUCCESS;
}
