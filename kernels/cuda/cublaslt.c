#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const char *const files[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

static const struct {
    const char *name;
    size_t at; /* in struct cublaslt */
} functions[] = {
    {"cublasLtGetVersion", offsetof(struct cublaslt, version)},
    {"cublasLtCreate", offsetof(struct cublaslt, create)},
    {"cublasLtDestroy", offsetof(struct cublaslt, destroy)},
    {"cublasLtMatmulDescCreate", offsetof(struct cublaslt, desc_create)},
    {"cublasLtMatmulDescDestroy", offsetof(struct cublaslt, desc_destroy)},
    {"cublasLtMatmulDescSetAttribute", offsetof(struct cublaslt, desc_set)},
    {"cublasLtMatrixLayoutCreate", offsetof(struct cublaslt, layout_create)},
    {"cublasLtMatrixLayoutDestroy", offsetof(struct cublaslt, layout_destroy)},
    {"cublasLtMatrixLayoutSetAttribute", offsetof(struct cublaslt, layout_set)},
    {"cublasLtMatmulPreferenceCreate", offsetof(struct cublaslt, preference_create)},
    {"cublasLtMatmulPreferenceDestroy", offsetof(struct cublaslt, preference_destroy)},
    {"cublasLtMatmulPreferenceSetAttribute", offsetof(struct cublaslt, preference_set)},
    {"cublasLtMatmulAlgoGetHeuristic", offsetof(struct cublaslt, heuristic)},
    {"cublasLtMatmul", offsetof(struct cublaslt, matmul)},
};

static bool find_functions(struct cublaslt *lt, const char *file, char *text, size_t size)
{
    for (size_t i = 0; i < COUNT(functions); i++) {
        void *found = dlsym(lt->opened, functions[i].name);
        memcpy((char *)lt + functions[i].at, &found, sizeof found); /* a function's address, as POSIX has it */
        if (!found) {
            snprintf(text, size, "%s has no %s: it is no cuBLASLt of a version that we know", file, functions[i].name);
            return false;
        }
    }
    return true;
}

bool cublaslt_open(struct cublaslt *lt, const char *file, char *text, size_t size)
{
    memset(lt, 0, sizeof *lt);
    for (size_t i = 0; i < (file ? 1 : COUNT(files)); i++) {
        const char *name = file ? file : files[i];
        lt->opened = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (!lt->opened)
            snprintf(text, size, "%s", dlerror());
        else if (find_functions(lt, name, text, size))
            return true;
        cublaslt_close(lt);
    }
    return false;
}

void cublaslt_close(struct cublaslt *lt)
{
    if (lt->opened)
        dlclose(lt->opened);
    memset(lt, 0, sizeof *lt);
}
