#include "engine/model/placement.h"

#include <inttypes.h>
#include <stdio.h>

#include "kernels/ops.h"

static uint64_t all_weights(const struct placement_need *n)
{
    uint64_t sum = n->ends;
    for (int32_t i = 0; i < n->n_layer; i++)
        sum += n->experts[i] + n->others[i];
    return sum;
}

/* Experts of the last layer that has any and of which the device still has them become the host's. False: there is none. */
static bool move_one(const struct placement_need *n, struct placement *p)
{
    int32_t i = p->first_host - 1;
    while (i >= 0 && n->experts[i] == 0)
        i--;
    if (i < 0)
        return false;
    p->first_host = i;
    p->n_host++;
    p->device_weights -= n->experts[i];
    p->host_weights += n->experts[i];
    return true;
}

static bool fits(const struct placement_need *n, const struct placement *p)
{
    uint64_t kv = n->page * n->pages;
    return p->device_weights <= n->device && kv <= n->device - p->device_weights &&
           n->work <= n->device - p->device_weights - kv;
}

struct placement placement_decide(const struct placement_need *n)
{
    struct placement p = {.first_host = n->n_layer, .device_weights = all_weights(n)};
    bool fewest = n->host_layers == PLACEMENT_FEWEST;
    while ((fewest ? !fits(n, &p) : p.n_host < n->host_layers) && move_one(n, &p))
        ;
    uint64_t fixed = p.device_weights + n->work;
    p.fits = fits(n, &p);
    p.pages_fit = fixed < n->device ? (n->device - fixed) / n->page : 0;
    p.left = p.fits ? n->device - fixed - n->page * n->pages : 0;
    return p;
}

void placement_advise(char *text, size_t size, const struct placement_need *n, const struct placement *p)
{
    struct placement_need fewest = *n;
    fewest.host_layers = PLACEMENT_FEWEST;
    struct placement best = placement_decide(&fewest);
    if (best.fits)
        snprintf(text, size, "with the experts of %d layers in host memory it would fit: raise host-experts",
                 best.n_host);
    else if (p->pages_fit >= n->pages_min)
        snprintf(text, size, "%" PRIu64 " pages (%" PRIu64 " tokens) would fit: lower kv_pages, or n_ctx or max_seqs",
                 p->pages_fit, p->pages_fit * K_PAGE_TOKENS);
    else if (p->pages_fit > 0)
        snprintf(text, size, "n_ctx %" PRIu64 " for one sequence would fit", p->pages_fit * K_PAGE_TOKENS);
    else if (best.pages_fit > 0)
        snprintf(text, size,
                 "n_ctx %" PRIu64 " for one sequence would fit with the experts of %d layers in host memory",
                 best.pages_fit * K_PAGE_TOKENS, best.n_host);
    else if (n->device > n->work + n->page)
        snprintf(text, size,
                 "no context would fit: %.1f GB of weights would (a smaller model or quantisation), or the cpu",
                 (double)(n->device - n->work - n->page) * 1e-9);
    else
        snprintf(text, size, "no context would fit: a smaller model or quantisation, or the cpu, would");
}
