/* What a test says to the stand-in for cuBLASLt, by dlsym. */
#ifndef TESTS_FAKES_CUBLASLT_FAKE_H
#define TESTS_FAKES_CUBLASLT_FAKE_H

#include <stdbool.h>
#include <stddef.h>

/* Runs fn on a copy of arg where device memory may be touched, in the stream's order. */
typedef void cublaslt_fake_call(void *stream, void (*fn)(const void *arg), const void *arg, size_t bytes);

struct cublaslt_fake {
    cublaslt_fake_call *call; /* NULL: at once */
    bool refuse;              /* there is no algorithm for anything */
    int refuse_cols;          /* the algorithm does not do for so many columns of b; 0: for any */
    int live;                 /* objects that are not destroyed yet */
    int heuristics, products; /* calls so far */
};
typedef struct cublaslt_fake *cublaslt_fake_fn(void); /* of "cublaslt_fake_state" */

#endif
