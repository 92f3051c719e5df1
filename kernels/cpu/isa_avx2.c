/* The inner kernels for AVX2, FMA and F16C; compiled with those flags, called only where the CPU has them. */
#include <immintrin.h>

#include "kernels/cpu/isa.h"

#define EXPAND_F16(h) _cvtsh_ss(h)
#include "kernels/cpu/gemv_avx2.h"
#include "kernels/cpu/pack_avx2.h"
#include "kernels/cpu/vec_avx2.h"

#define ISA_NAME  "avx2"
#define ISA_TABLE isa_avx2
#include "kernels/cpu/body.h"
