/* Work of the host inside of a step: a second stream copies what it needs to pinned memory, has it called, and copies
 * what came of it back, while the first goes on with operations that do not need that. The two are tied by events
 * alone, so that a captured step has the host's part in it as a node like others, and is repeated without the host
 * asking for anything.
 *
 * Cost beside the work itself: a host node of a graph is called some 10 to 20 us after what it waits for (reckoned). */
#include "kernels/cuda/internal.h"

enum k_status cuda_host_begin(struct k_ctx *c, const struct k_host_work *w)
{
    if (w->n_out < 0 || w->n_out > K_HOST_COPIES || !w->run)
        return K_BAD_SHAPE;
    enum k_status s = device_use(c->device);
    if (s == K_OK)
        s = event_record(c->beside_from, c->stream);
    if (s == K_OK)
        s = event_wait(c->beside, c->beside_from);
    for (int32_t i = 0; i < w->n_out && s == K_OK; i++)
        s = copy_out(c->beside, w->out[i].to, w->out[i].from, w->out[i].bytes);
    if (s == K_OK)
        s = host_call(c->beside, w->run, w->arg);
    if (s == K_OK && w->back.bytes > 0)
        s = copy_in(c->beside, w->back.to, w->back.from, w->back.bytes);
    return cuda_note(c, s);
}

enum k_status cuda_host_end(struct k_ctx *c)
{
    enum k_status s = event_record(c->beside_to, c->beside);
    return cuda_note(c, s == K_OK ? event_wait(c->stream, c->beside_to) : s);
}
