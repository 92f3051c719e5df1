#include "scheduler/simulate/hist.h"

/* Buckets 0..63 hold one value each; from there on each doubling has 64: the value's first seven bits choose. */
static int bucket_of(int64_t value)
{
    if (value < HIST_SUB)
        return (int)value;
    const int top = 63 - __builtin_clzll((unsigned long long)value); /* >= 6 */
    const int i = (top - 5) * HIST_SUB + (int)((value >> (top - 6)) & (HIST_SUB - 1));
    return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

int64_t hist_bucket_end(int i)
{
    if (i < HIST_SUB)
        return i;
    const int top = i / HIST_SUB + 5;
    return (((int64_t)HIST_SUB + i % HIST_SUB + 1) << (top - 6)) - 1;
}

void hist_add(struct hist *h, int64_t value)
{
    if (value < 0)
        value = 0;
    h->n++;
    h->sum += (double)value;
    h->counts[bucket_of(value)]++;
    if (value > h->max)
        h->max = value;
}

void hist_merge(struct hist *into, const struct hist *h)
{
    into->n += h->n;
    into->sum += h->sum;
    if (h->max > into->max)
        into->max = h->max;
    for (int i = 0; i < HIST_BUCKETS; i++)
        into->counts[i] += h->counts[i];
}

int64_t hist_quantile(const struct hist *h, double q)
{
    if (!h->n)
        return 0;
    const double want = q * (double)h->n;
    int64_t seen = 0;
    for (int i = 0; i < HIST_BUCKETS; i++) {
        seen += h->counts[i];
        if (seen && (double)seen >= want) {
            const int64_t end = hist_bucket_end(i);
            return end < h->max ? end : h->max;
        }
    }
    return h->max;
}

double hist_mean(const struct hist *h)
{
    return h->n ? h->sum / (double)h->n : 0;
}
