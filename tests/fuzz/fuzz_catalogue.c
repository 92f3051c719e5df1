/* Any bytes as a price list, CSV or document: never a crash, every refusal and every lost row says why, and no figure
 * that is used is out of bounds. The first byte says which.
 * links: spw_providers */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "providers/catalogue.h"

static void on_problem(int line, const char *text, void *arg)
{
    (void)arg;
    SPW_ASSERT(line >= 0 && text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct price_table t;
    struct error e = {0};
    if (size < 1 || size > 65536)
        return 0;
    snprintf(path, sizeof path, "/dev/shm/spillway-fuzz-%ld%s", (long)getpid(), data[0] & 1 ? ".csv" : ".yaml");
    FILE *f = fopen(path, "w");
    SPW_ASSERT(f && fwrite(data + 1, 1, size - 1, f) == size - 1 && fclose(f) == 0);
    enum rc rc = price_table_load(&t, path, on_problem, NULL, &e);
    unlink(path);
    SPW_ASSERT(rc == RC_OK || e.message[0]);
    if (rc != RC_OK)
        return 0;
    for (int i = 0; i < t.n; i++)
        SPW_ASSERT(t.rows[i].on_demand_h.v >= -1 && t.rows[i].spot_h.v >= -1);
    for (int i = 0; i < t.n_apis; i++)
        SPW_ASSERT(t.apis[i].prices.output.uusd_per_mtok >= -1 &&
                   t.apis[i].prices.output.uusd_per_mtok <= INT64_C(1000000000));
    (void)price_spread(&t, &(struct price_row){.at_s = 1700000000}, PRICE_ON_DEMAND);
    (void)price_api_find(&t, NULL, "m", 1700000000);
    price_table_fini(&t);
    return 0;
}
