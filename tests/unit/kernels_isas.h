/* Contexts of the CPU backend for each of its instruction sets, and for AVX-512 where the processor lacks it: the same
 * kernels, compiled for AVX2 (tests/simde/). Links: kernels_simde. */
#ifndef TESTS_UNIT_KERNELS_ISAS_H
#define TESTS_UNIT_KERNELS_ISAS_H

#include <stdio.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define HELP_BY_AVX2 "avx512 by avx2"
static const char *const help_isas[] = {"scalar", "avx2", "avx512", HELP_BY_AVX2};
#define HELP_ISAS (sizeof help_isas / sizeof help_isas[0])

#ifdef HELP_SIMDE
extern const struct isa isa_avx512_simde;
extern const struct pairs pairs_avx512_simde;
#endif

/* NULL: not on this CPU, or not in this build. NULL for a name: the fastest of the CPU's own. */
static inline struct k_ctx *help_isa_ctx(int threads, const char *isa)
{
    if (!isa || strcmp(isa, HELP_BY_AVX2) != 0)
        return cpu_ctx_new_isa(threads, isa);
#ifdef HELP_SIMDE
    struct k_ctx *c = cpu_ctx_new_isa(threads, "avx2");
    if (c) {
        c->isa = &isa_avx512_simde;
        c->pairs = &pairs_avx512_simde;
    }
    return c;
#else
    return NULL;
#endif
}

static inline void help_say_what_is_missing(void)
{
    struct k_ctx *c = help_isa_ctx(1, HELP_BY_AVX2);
    if (!c)
        printf("skipped: AVX-512 by AVX2 (needs libsimde-dev and a processor with AVX2)\n");
    else
        k_cpu_ops.ctx_free(c);
}

#endif
