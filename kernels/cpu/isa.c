/* Which instruction sets this CPU has. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pairs.h"

#include <string.h>

#if defined(__x86_64__)
static bool has_avx2(void)
{
    __builtin_cpu_init();
    /* F16C has no name in __builtin_cpu_supports of older compilers; every CPU with AVX2 has it. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

const struct pairs *pairs_find(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16") ? &pairs_avx512 : NULL;
}
#else
const struct pairs *pairs_find(void)
{
    return NULL;
}
#endif

static bool has_scalar(void)
{
    return true;
}

static const struct {
    const struct isa *isa;
    bool (*usable)(void);
} candidates[] = {
#if defined(__x86_64__)
    {&isa_avx512, has_avx512},
    {&isa_avx2, has_avx2},
#endif
    {&isa_scalar, has_scalar},
};

const struct isa *isa_find(const char *name)
{
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++)
        if ((!name || strcmp(name, candidates[i].isa->name) == 0) && candidates[i].usable())
            return candidates[i].isa;
    return NULL;
}
