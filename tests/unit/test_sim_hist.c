/* Proves that a histogram's quantiles are within its promise of the exact ones, and that merging loses nothing.
 * links: spw_sched_simulate */
#include "scheduler/simulate/hist.h"
#include "tests/unit/test.h"

#include <stdlib.h>

#define N 20000

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static struct hist all, parts[2];

static void quantiles_are_close(void)
{
    static int64_t values[N];
    uint64_t seed = 1;
    for (int i = 0; i < N; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = (int64_t)(seed >> (20 + (i % 40))); /* all sizes */
        hist_add(&all, values[i]);
        hist_add(&parts[i % 2], values[i]);
    }
    qsort(values, N, sizeof(values[0]), by_value);
    hist_merge(&parts[0], &parts[1]);
    CHECK_INT(parts[0].n, N);
    for (double q = 0.001; q <= 1; q += 0.007) {
        int i = (int)(q * N);
        if (i < q * N)
            i++;
        const int64_t exact = values[i ? i - 1 : 0], v = hist_quantile(&all, q);
        CHECK(v >= exact && (double)v <= (double)exact * (1 + 1.0 / HIST_SUB) + 1);
        CHECK_INT(hist_quantile(&parts[0], q), v);
    }
    CHECK_INT(hist_quantile(&all, 1), values[N - 1]);
}

static void edges(void)
{
    static struct hist h;
    CHECK_INT(hist_quantile(&h, 0.5), 0);
    hist_add(&h, -5);
    CHECK_INT(hist_quantile(&h, 1), 0);
    hist_add(&h, INT64_MAX);
    CHECK_INT(h.counts[HIST_BUCKETS - 1], 1);
    CHECK_INT(hist_quantile(&h, 0.5), 0);
    for (int64_t v = 0; v < 300; v++) { /* the buckets' ends fit the buckets */
        static struct hist one;
        memset(&one, 0, sizeof(one));
        hist_add(&one, v);
        one.max = INT64_MAX;
        CHECK(hist_quantile(&one, 1) >= v && hist_quantile(&one, 1) <= v + v / HIST_SUB);
    }
}

int main(void)
{
    TEST(quantiles_are_close);
    TEST(edges);
    return TEST_RESULT();
}
