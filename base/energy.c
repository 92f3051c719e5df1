#include "base/energy.h"

#include <stdio.h>

#include "base/file.h"

#define PACKAGES_MAX 16

/* One number from .../intel-rapl:N/NAME (AMD packages appear under the same name). */
static bool read_package(int package, const char *name, int64_t *v)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/class/powercap/intel-rapl:%d/%s", package, name);
    return file_read_int(path, v);
}

static bool sum_packages(const char *name, uint64_t *sum)
{
    int64_t v;
    *sum = 0;
    int found = 0;
    for (int i = 0; i < PACKAGES_MAX && read_package(i, name, &v); i++, found++)
        *sum += (uint64_t)v;
    return found > 0;
}

bool energy_read_uj(uint64_t *microjoules)
{
    return sum_packages("energy_uj", microjoules);
}

uint64_t energy_range_uj(void)
{
    uint64_t range;
    return sum_packages("max_energy_range_uj", &range) ? range : 0;
}

uint64_t energy_since_uj(uint64_t start, uint64_t end, uint64_t range)
{
    return end >= start ? end - start : end + range - start;
}
