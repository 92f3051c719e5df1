/* The inner kernels for AVX-512 with VNNI; compiled with those flags, called only where the CPU has them. */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/gemv_avx512.h"
#include "kernels/cpu/vec_avx512.h"

#define EXPAND_F16(h) _cvtsh_ss(h)
#define ISA_NAME      "avx512"
#define ISA_TABLE     isa_avx512
#include "kernels/cpu/body.h"
