/* The inner kernels for any CPU. */
#include "kernels/cpu/isa.h"

#include "kernels/cpu/vec_scalar.h"

#define ISA_NAME  "scalar"
#define ISA_TABLE isa_scalar
#include "kernels/cpu/body.h"
