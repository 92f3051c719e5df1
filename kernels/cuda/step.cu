/* A step: its tokens on the device, and the launches of steps that come again, as CUDA graphs.
 *
 * A decode step is a few hundred launches of a few microseconds each: launched one by one they cost the host more than
 * the device. So a step in which each sequence has one token is captured when it comes the second time, and replayed
 * from then on; to a few numbers of tokens the engine pads the others (step_rows()). Equal are steps of the same number
 * of tokens, the same shape and the same bound of positions (a power of two); everything else that differs is data on
 * the device. */
#include <string.h>

#include "kernels/cuda/internal.h"

/* ---- tokens ---- */

static int32_t pages_of(int32_t pos)
{
    return pos / K_PAGE_TOKENS + 1;
}

static bool continues(const struct k_token_ref *tok, int32_t t)
{
    return t > 0 && tok[t].page_ids == tok[t - 1].page_ids && tok[t].pos == tok[t - 1].pos + 1;
}

/* 256, 512, ...: less one, what pos_max says. */
static int32_t bound_of(int32_t pos)
{
    int32_t bound = 256;
    while (bound <= pos && bound < 1 << 30)
        bound *= 2;
    return bound - 1;
}

/* Fill t's numbers; returns how many int32 the plan takes. */
static size_t count_plan(struct cuda_tokens *t, const struct k_token_ref *tok, int32_t n_tok)
{
    size_t pages = 0;
    int32_t last = 0, run = 0;
    *t = (struct cuda_tokens){};
    t->n_tok = n_tok;
    for (int32_t i = 0; i < n_tok; i++) {
        run = continues(tok, i) ? run + 1 : 1;
        t->n_runs += run == 1;
        t->run_max = run > t->run_max ? run : t->run_max;
        last = tok[i].pos > last ? tok[i].pos : last;
        if (i + 1 == n_tok || !continues(tok, i + 1)) /* the last token of a run has its highest position */
            pages += tok[i].page_ids ? (size_t)pages_of(tok[i].pos) : 0;
    }
    t->pos_max = bound_of(last);
    return 4 * (size_t)n_tok + 1 + pages;
}

/* [pos][run_of][first][run_start][pages], so that addresses depend on n_tok alone. */
static void fill_plan(int32_t *plan, const struct k_token_ref *tok, int32_t n_tok)
{
    int32_t *pos = plan, *run_of = pos + n_tok, *first = run_of + n_tok, *run_start = first + n_tok;
    int32_t *pages = run_start + n_tok + 1, run = -1, n_pages = 0, list = 0;
    for (int32_t i = 0; i < n_tok; i++) {
        if (!continues(tok, i)) {
            run_start[++run] = i;
            list = n_pages;
        }
        pos[i] = tok[i].pos;
        run_of[i] = run;
        first[i] = list;
        if ((i + 1 == n_tok || !continues(tok, i + 1)) && tok[i].page_ids) {
            memcpy(pages + n_pages, tok[i].page_ids, (size_t)pages_of(tok[i].pos) * sizeof *pages);
            n_pages += pages_of(tok[i].pos);
        }
    }
    for (int32_t i = run + 1; i <= n_tok; i++)
        run_start[i] = n_tok;
}

/* The other plan, empty and large enough. */
static enum k_status next_plan(struct k_ctx *c, size_t bytes)
{
    enum k_status s = K_OK;
    c->plan ^= 1;
    auto *p = &c->plans[c->plan];
    if (!p->sent)
        s = event_new(&p->sent);
    if (s == K_OK && p->in_flight)
        s = event_sync(p->sent);
    p->in_flight = false;
    if (s != K_OK || p->bytes >= bytes)
        return s;
    host_pinned_free(p->data);
    p->data = NULL;
    p->bytes = 0;
    s = host_pinned_alloc(&p->data, 2 * bytes);
    if (s == K_OK)
        p->bytes = 2 * bytes;
    return s;
}

static enum k_status send_plan(struct k_ctx *c, void *to, size_t bytes)
{
    auto *p = &c->plans[c->plan];
    enum k_status s = copy_in(c->stream, to, p->data, bytes);
    if (s == K_OK)
        s = event_record(p->sent, c->stream);
    p->in_flight = s == K_OK;
    return s;
}

void cuda_plans_free(struct k_ctx *c)
{
    for (int i = 0; i < 2; i++) {
        host_pinned_free(c->plans[i].data);
        if (c->plans[i].sent)
            event_free(c->plans[i].sent);
    }
}

static enum k_status upload_tokens(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok)
{
    struct cuda_tokens t;
    size_t bytes = count_plan(&t, tok, n_tok) * sizeof(int32_t);
    enum k_status s = K_OK;
    c->tokens_of = NULL;
    const int32_t *at = (const int32_t *)cuda_scratch(c, CUDA_SCRATCH_TOKENS, bytes, &s);
    if (s == K_OK)
        s = next_plan(c, bytes);
    if (s != K_OK)
        return cuda_note(c, s);
    fill_plan((int32_t *)c->plans[c->plan].data, tok, n_tok);
    t.pos = at;
    t.run_of = at + n_tok;
    t.first = at + 2 * (int64_t)n_tok;
    t.run_start = at + 3 * (int64_t)n_tok;
    t.pages = at + 4 * (int64_t)n_tok + 1;
    c->tokens = t;
    return cuda_note(c, send_plan(c, (void *)at, bytes));
}

enum k_status cuda_tokens(struct k_ctx *c, struct cuda_tokens *out, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status s = K_OK;
    if (c->tokens_of != tok || c->tokens_n != n_tok)
        s = c->recording ? K_DEVICE : upload_tokens(c, tok, n_tok);
    *out = c->tokens;
    return s;
}

/* ---- graphs ---- */

static void forget(struct cuda_graph *g)
{
    if (g->recorded)
        graph_free(g->graph);
    *g = (struct cuda_graph){};
}

void cuda_graphs_free(struct k_ctx *c)
{
    for (int i = 0; i < CUDA_GRAPHS; i++)
        forget(&c->graphs[i]);
}

/* The entry of this kind of step; a new one takes the place of the one that was longest unused. */
static struct cuda_graph *find_graph(struct k_ctx *c, const struct cuda_tokens *t, uint64_t shape, bool *is_new)
{
    struct cuda_graph *oldest = &c->graphs[0];
    *is_new = false;
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        struct cuda_graph *g = &c->graphs[i];
        if (g->used_at && g->n_tok == t->n_tok && g->shape == shape && g->pos_max == t->pos_max)
            return g;
        if (g->used_at < oldest->used_at)
            oldest = g;
    }
    forget(oldest);
    oldest->n_tok = t->n_tok;
    oldest->pos_max = t->pos_max;
    oldest->shape = shape;
    *is_new = true;
    return oldest;
}

/* Powers of two, from 16 on four steps to each: 20, 24, 28, 32, 40, ... So at most a fifth of a large step is padding,
 * and there are few kinds of steps to capture. */
int32_t cuda_step_rows(const struct k_ctx *c, int32_t n_tok)
{
    (void)c;
    int32_t power = 1;
    while (power < n_tok && power < 1 << 30)
        power *= 2;
    if (power <= 16)
        return power;
    const int32_t step = power / 8;
    return (n_tok + step - 1) / step * step;
}

enum k_status cuda_step_begin(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok, uint64_t shape,
                              enum k_step *how)
{
    *how = K_STEP_RUN;
    enum k_status s = device_use(c->device);
    if (s == K_OK)
        s = upload_tokens(c, tok, n_tok);
    if (s != K_OK)
        return s;
    c->tokens_of = tok;
    c->tokens_n = n_tok;
    if (c->tokens.run_max > 1) /* prefill is long enough to be launched as it is */
        return K_OK;
    bool is_new;
    struct cuda_graph *g = find_graph(c, &c->tokens, shape, &is_new);
    g->used_at = ++c->clock;
    if (g->recorded && g->generation == c->generation) {
        *how = K_STEP_REPEAT;
        return cuda_note(c, graph_launch(c->stream, g->graph));
    }
    if (is_new ||
        g->generation != c->generation) { /* scratch grew, or has to: once without, then it is as large as it gets */
        if (g->recorded)
            graph_free(g->graph);
        g->recorded = false;
        g->generation = c->generation;
        return K_OK;
    }
    s = graph_capture_begin(c->stream);
    if (s == K_OK) {
        c->recording = g;
        *how = K_STEP_RECORD;
    }
    return cuda_note(c, s);
}

enum k_status cuda_step_end(struct k_ctx *c, enum k_status so_far)
{
    struct cuda_graph *g = c->recording;
    c->tokens_of = NULL;
    c->recording = NULL;
    if (!g)
        return so_far;
    enum k_status s = graph_capture_end(c->stream, &g->graph); /* ends it also when something failed */
    g->recorded = s == K_OK;
    if (so_far != K_OK || s != K_OK) {
        forget(g);
        return so_far != K_OK ? so_far : cuda_note(c, s);
    }
    return cuda_note(c, graph_launch(c->stream, g->graph));
}
