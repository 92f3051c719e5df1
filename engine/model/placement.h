/* Which layers' routed experts a device keeps and which the host, as a pure function of sizes.
 *
 * Everything else is the device's: attention, routers, shared experts, embedding and output, the pages of keys and
 * values, work buffers. What is left of its memory goes to experts, layer by layer from the first one on. The host gets
 * the last ones: of the very last layer a step computes only the rows that are asked for. The pages that are asked for
 * come before experts: who wants more of these on the device lowers them. */
#ifndef ENGINE_MODEL_PLACEMENT_H
#define ENGINE_MODEL_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLACEMENT_FEWEST (-1) /* host_layers: as few as it takes */

/* Bytes of what there is. Sums of any two fit uint64. */
struct placement_need {
    int32_t n_layer;
    const uint64_t *experts; /* [n_layer] of the routed experts; 0: a dense layer. Borrowed */
    const uint64_t *others;  /* [n_layer] of the rest of the layer. Borrowed */
    uint64_t ends;           /* what is of no layer: embedding, output, last norm */
    uint64_t work;           /* a step's buffers and what the backend keeps for itself */
    uint64_t page;           /* one page of keys and values, all layers; > 0 */
    uint64_t pages;          /* of them, wanted */
    uint64_t pages_min;      /* that one sequence of full length takes */
    int32_t host_layers;     /* layers whose experts the host keeps, counted from the last; or PLACEMENT_FEWEST */
    uint64_t device;         /* that are free */
};

struct placement {
    bool fits;
    int32_t first_host;      /* experts of this layer and of those behind it are the host's; n_layer: of none */
    int32_t n_host;          /* how many layers that are: dense ones have none */
    uint64_t device_weights; /* with ends */
    uint64_t host_weights;
    uint64_t left;      /* of the device when all is placed; 0 if it does not fit */
    uint64_t pages_fit; /* with the experts where they are */
};

/* Where they go; if nothing fits, with the experts as host_layers says or all of them on the host. */
struct placement placement_decide(const struct placement_need *n);
/* What would fit where this does not, for people: a smaller context, experts of more layers on the host, fewer bytes of
 * weights. */
void placement_advise(char *text, size_t size, const struct placement_need *n, const struct placement *p);

#endif
