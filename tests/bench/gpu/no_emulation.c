/* The tests of the kernels say things to the emulated device; a real one does not listen. */
#include "kernels/cuda/emulated/control.h"

bool cuda_emulated(void)
{
    return false;
}

void cuda_emulated_order(unsigned seed)
{
    (void)seed;
}

void cuda_emulated_late(bool late)
{
    (void)late;
}

void cuda_emulated_memory(size_t bytes)
{
    (void)bytes;
}

void cuda_emulated_none(bool none)
{
    (void)none;
}

void cuda_emulated_lose(bool lost)
{
    (void)lost;
}

long cuda_emulated_launches(void)
{
    return 0;
}

size_t cuda_emulated_allocated(void)
{
    return 0;
}
