#include "engine/serve/histogram.h"

const struct histogram_edges histogram_seconds = {
    .n = 20,
    .le = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80, 300, 600},
};
const struct histogram_edges histogram_gaps = {
    .n = 16,
    .le = {0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10},
};
const struct histogram_edges histogram_tokens = {
    .n = 18,
    .le = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072},
};

const struct histogram_edges histogram_joules = {
    .n = 19,
    .le = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000},
};

void histogram_init(struct histogram *h, const struct histogram_edges *edges)
{
    *h = (struct histogram){.edges = edges};
}

void histogram_observe(struct histogram *h, double v)
{
    int i = 0;
    while (i < h->edges->n && v > h->edges->le[i])
        i++;
    h->counts[i]++;
    h->count++;
    h->sum += v;
}
