/* Dequantise from the command line, for tests/golden/dequant.py: lines "TYPE COUNT HEX" in, one line of values out.
 * links: spw_kernels */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ops.h"

static char line[1 << 20];
static uint8_t raw[1 << 19];
static float values[1 << 16];

int main(void)
{
    while (fgets(line, sizeof line, stdin)) {
        char *rest;
        unsigned long type = strtoul(line, &rest, 10), count = strtoul(rest, &rest, 10), bytes = 0;
        rest += strspn(rest, " ");
        while (bytes < sizeof raw && sscanf(rest + 2 * bytes, "%2hhx", &raw[bytes]) == 1)
            bytes++;
        if (count > sizeof values / sizeof values[0] || bytes != k_row_bytes((uint32_t)type, count) ||
            k_dequantise(values, raw, (uint32_t)type, (int64_t)count) != K_OK) {
            puts("unsupported");
            continue;
        }
        for (unsigned long i = 0; i < count; i++)
            printf("%.9g%c", (double)values[i], i + 1 < count ? ' ' : '\n');
    }
    return 0;
}
