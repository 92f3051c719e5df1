/* An engine: a backend context, a pool of KV pages and the buffers of a step, all made once by engine_new(). A step
 * checks its slices, lays their tokens out as rows, runs the graph, and only then moves the sequences on. */
#include "engine/model/model.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

#define CTX_DEFAULT_MAX  8192
#define BATCH_DEFAULT    256
#define BATCH_TOKENS_MAX 65536
#define SEQS_MAX         65536
#define THREADS_MAX      1024
#define PAGES_MAX        (1 << 24) /* a thousand million tokens */
#define LOGIT_ROWS       256       /* rows of logits at a time where they have to be fetched from a device */

static int cores_available(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n;
}

/* Memory of the backend; NULL: it has none left. */
static void *work_new(struct engine *en, size_t bytes)
{
    void *p;
    return en->ops->buf_new(en->ctx, &p, bytes, K_BUF_WORK) == K_OK ? p : NULL;
}

/* ---- scratch: one pass to add up the sizes, one to hand out the places ---- */

#define CARVE_ALIGN 256 /* what devices load from best */

void *carve(struct carver *c, int64_t rows, int64_t elems)
{
    size_t bytes;
    void *p = c->base ? c->base + c->used : NULL;
    if (!size_mul_add((size_t)rows * 4, (size_t)elems, CARVE_ALIGN - 1, &bytes) ||
        __builtin_add_overflow(c->used, bytes & ~(size_t)(CARVE_ALIGN - 1), &c->used))
        c->fits = false;
    return p;
}

static void plan_scratch(struct carver *c, struct engine *en)
{
    struct scratch *s = &en->s;
    const struct hparams *hp = &en->m->hp;
    int64_t t = en->max_batch_tokens;
    int64_t nh = hp->n_head, wide = hparams_hidden(hp);
    int64_t kv_a = hp->mla ? hp->kv_lora + hp->rope.d_rope : 0;
    s->x = carve(c, t, hp->n_embd);
    s->h = carve(c, t, hp->n_embd);
    s->q = carve(c, t, nh * hp->d_k);
    s->k = carve(c, t, hp->mla ? kv_a : (int64_t)hp->n_kv_head * hp->d_k);
    s->v = carve(c, t, hp->mla ? 0 : (int64_t)hp->n_kv_head * hp->d_v);
    s->q_a = carve(c, t, hp->q_lora);
    s->q_abs = carve(c, t, nh * kv_a);
    s->lat = carve(c, t, nh * hp->kv_lora);
    s->att = carve(c, t, nh * hp->d_v);
    s->o = carve(c, t, hp->n_embd);
    s->gate = carve(c, t, wide);
    s->shared = carve(c, en->ops->moe ? t : 0, (int64_t)hp->n_shared * hp->n_ff_exp);
    s->exp_out = carve(c, t, (int64_t)hp->n_used * hp->n_embd);
    s->rt_logit = carve(c, t, hp->n_expert);
    s->rt_w = carve(c, t, hp->n_used);
    s->rt_id = carve(c, t, hp->n_used);
    s->last = carve(c, t, hp->n_embd);
    s->logits = carve(c, en->logit_rows, hp->n_vocab);
    s->ids = carve(c, t, 1);
    s->rows = carve(c, t, 1);
    s->counts = carve(c, 2, 1);
}

static enum rc size_scratch(struct engine *en, struct error *e)
{
    struct carver c = {.fits = true};
    en->logit_rows = !en->on_device || en->max_batch_tokens < LOGIT_ROWS ? en->max_batch_tokens : LOGIT_ROWS;
    plan_scratch(&c, en);
    en->scratch_bytes = c.used;
    if (!c.fits)
        return error_set(e, RC_FULL, "work buffers of %d tokens in one step pass any memory: lower max_batch_tokens",
                         en->max_batch_tokens);
    return RC_OK;
}

static enum rc make_scratch(struct engine *en, struct error *e)
{
    en->scratch_mem = work_new(en, en->scratch_bytes);
    if (!en->scratch_mem)
        return error_set(e, RC_FULL, "no memory for the work buffers of %d tokens in one step: lower max_batch_tokens",
                         en->max_batch_tokens);
    struct carver c = {.base = en->scratch_mem, .fits = true};
    plan_scratch(&c, en);
    size_t t = (size_t)en->max_batch_tokens;
    en->ids = spw_calloc(t, sizeof *en->ids);
    en->toks = spw_calloc(t, sizeof *en->toks);
    en->last_rows = spw_calloc(t, sizeof *en->last_rows);
    en->requests = spw_calloc(t, sizeof *en->requests);
    en->choices = spw_calloc(t, sizeof *en->choices);
    en->follows = spw_calloc(t, sizeof *en->follows);
    return RC_OK;
}

/* ---- KV pool ---- */

/* Values begin where keys end: with a block. */
static enum rc check_kv_type(const struct engine *en, struct error *e)
{
    const struct hparams *hp = &en->m->hp;
    const struct k_type_info *type = k_type_info(en->kv_type);
    int32_t keys = hp->mla ? 0 : hp->n_kv_head * hp->d_k;
    if (en->kv_type != K_F32 && en->kv_type != K_F16 && en->kv_type != K_Q8_0)
        return error_set(e, RC_INVALID, "keys and values can be kept in f32, f16 or q8_0, not in %s",
                         type ? type->name : "an unknown type");
    if (keys % type->block_elems)
        return error_set(e, RC_UNSUPPORTED,
                         "this model has %d key elements per token and layer; %s keeps them in blocks of %d: use f16",
                         keys, type->name, type->block_elems);
    return RC_OK;
}

static enum rc kv_refused(const struct engine *en, struct error *e)
{
    return error_set(e, RC_FULL, "no memory for %d KV pages of %zu bytes: lower n_ctx, max_seqs or kv_pages",
                     en->n_pages, en->layer_bytes * (size_t)en->m->hp.n_layer);
}

static enum rc size_kv(struct engine *en, int32_t pages, struct error *e)
{
    const struct hparams *hp = &en->m->hp;
    size_t stride;
    en->kv_row = hp->mla ? hp->kv_lora + hp->rope.d_rope : hp->n_kv_head * (hp->d_k + hp->d_v);
    enum rc rc = check_kv_type(en, e);
    if (rc)
        return rc;
    en->pages_per_seq = (en->n_ctx + K_PAGE_TOKENS - 1) / K_PAGE_TOKENS;
    int64_t wanted = pages > 0 ? pages : (int64_t)en->max_seqs * en->pages_per_seq;
    if (wanted > PAGES_MAX || (int64_t)en->max_seqs * en->pages_per_seq > 16 * (int64_t)PAGES_MAX)
        return error_set(e, RC_INVALID, "%d sequences of %d tokens pass %d KV pages: lower n_ctx or max_seqs",
                         en->max_seqs, en->n_ctx, PAGES_MAX);
    if (wanted < en->pages_per_seq)
        return error_set(e, RC_INVALID, "%d KV pages do not hold one sequence of n_ctx %d, which takes %d", (int)wanted,
                         en->n_ctx, en->pages_per_seq);
    en->n_pages = (int32_t)wanted;
    en->layer_bytes = k_kv_row_bytes(en->kv_type, en->kv_row) * K_PAGE_TOKENS;
    if (!size_mul_add(en->layer_bytes, (size_t)hp->n_layer, 0, &stride) || stride > INT64_MAX ||
        !size_mul_add(stride, (size_t)en->n_pages, 0, &en->kv_bytes))
        return kv_refused(en, e);
    en->page_stride = (int64_t)stride;
    return RC_OK;
}

/* As many as the options say; of a device's pinned memory not so much that the machine has none left. */
static int32_t spill_pages_max(const struct engine *en, int32_t wanted)
{
    if (wanted >= 0)
        return wanted < PAGES_MAX ? wanted : PAGES_MAX;
    uint64_t bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) / 8 * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t most = bytes / (uint64_t)en->page_stride;
    if (!en->on_device)
        return 0;
    return most < (uint64_t)en->n_pages ? (int32_t)most : en->n_pages;
}

static enum rc make_kv(struct engine *en, int32_t kept_pages, int32_t spill_pages, struct error *e)
{
    en->kv = work_new(en, en->kv_bytes);
    if (!en->kv)
        return kv_refused(en, e);
    en->pages_free = spw_calloc((size_t)en->n_pages, sizeof *en->pages_free);
    for (int32_t i = 0; i < en->n_pages; i++) /* a stack: the lowest numbers go out first */
        en->pages_free[i] = en->n_pages - 1 - i;
    en->n_pages_free = en->n_pages;
    en->kept_max = kept_pages < 0 ? en->n_pages / 2 : kept_pages;
    int32_t spilled = spill_pages_max(en, spill_pages);
    en->prefix = prefix_new(en->n_pages, kv_store_slots(spilled));
    kv_store_init(en, spilled);
    en->seqs = spw_calloc((size_t)en->max_seqs, sizeof *en->seqs);
    en->seq_pages = spw_calloc((size_t)en->max_seqs * (size_t)en->pages_per_seq, sizeof *en->seq_pages);
    return RC_OK;
}

struct k_kv_pool engine_kv_pool(const struct engine *en, int32_t layer)
{
    return (struct k_kv_pool){.data = (uint8_t *)en->kv + (size_t)layer * en->layer_bytes,
                              .type = en->kv_type,
                              .row_elems = en->kv_row,
                              .page_stride = en->page_stride};
}

/* ---- life ---- */

static enum rc check_options(const struct engine_options *o, const struct model *m, struct error *e)
{
    if (o->threads < 0 || o->threads > THREADS_MAX)
        return error_set(e, RC_INVALID, "threads is %d, not 0 to %d", o->threads, THREADS_MAX);
    if (o->n_ctx < 0 || o->n_ctx > m->hp.n_ctx_train)
        return error_set(e, RC_INVALID, "n_ctx is %d, not 0 to the %d that the model was trained for", o->n_ctx,
                         m->hp.n_ctx_train);
    if (o->kv_pages < 0)
        return error_set(e, RC_INVALID, "kv_pages is %d, not 0 or more", o->kv_pages);
    if (o->max_seqs < 0 || o->max_seqs > SEQS_MAX)
        return error_set(e, RC_INVALID, "max_seqs is %d, not 0 to %d", o->max_seqs, SEQS_MAX);
    if (o->max_batch_tokens < 0 || o->max_batch_tokens > BATCH_TOKENS_MAX)
        return error_set(e, RC_INVALID, "max_batch_tokens is %d, not 0 to %d", o->max_batch_tokens, BATCH_TOKENS_MAX);
    return RC_OK;
}

/* It is no failure when there is none. */
static void take_library(struct engine *en)
{
    if (!en->ops->use_library)
        snprintf(en->library_missing, sizeof en->library_missing, "backend %s has none", en->ops->name);
    else if (en->ops->use_library(en->ctx, NULL, en->library_missing, sizeof en->library_missing) == K_OK)
        en->library = true, en->library_missing[0] = 0;
}

const char *engine_library_missing(const struct engine *en)
{
    return en->library_missing[0] ? en->library_missing : NULL;
}

/* Not every backend, and not every CPU, multiplies in every way. */
static enum rc check_precision(const struct engine *en, struct error *e)
{
    const bool usual = en->precision == K_FAST || en->precision == K_PRECISE;
    if (en->ops->has_precision ? en->ops->has_precision(en->ctx, en->precision) : usual)
        return RC_OK;
    return error_set(
        e, RC_UNSUPPORTED,
        "backend %s cannot multiply activations in bf16 here: that needs a CPU with AVX512-BF16 (avx512_bf16 in "
        "/proc/cpuinfo); use fast",
        en->ops->name);
}

/* What the options say, and the sizes that come of it. */
static enum rc take_options(struct engine *en, const struct model *m, const struct engine_options *o, struct error *e)
{
    enum rc rc = check_options(o, m, e);
    if (rc)
        return rc;
    int32_t ctx = m->hp.n_ctx_train < CTX_DEFAULT_MAX ? m->hp.n_ctx_train : CTX_DEFAULT_MAX;
    en->magic = ENGINE_MAGIC;
    en->m = m;
    en->ops = o->ops ? o->ops : &k_cpu_ops;
    en->host.wanted = o->host_layers == 0 ? PLACEMENT_FEWEST : o->host_layers < 0 ? 0 : o->host_layers;
    en->precision = o->precision;
    en->kv_type = o->kv_type ? o->kv_type : o->precision == K_PRECISE ? K_F32 : K_F16;
    en->n_ctx = o->n_ctx ? o->n_ctx : ctx;
    en->max_seqs = o->max_seqs ? o->max_seqs : 1;
    en->max_batch_tokens = o->max_batch_tokens ? o->max_batch_tokens : BATCH_DEFAULT;
    rc = size_kv(en, o->kv_pages, e);
    return rc ? rc : size_scratch(en, e);
}

static void name_numerics(struct engine *en)
{
    static const char *const activations[] = {[K_FAST] = "fast", [K_PRECISE] = "f32", [K_FAST_BF16] = "bf16"};
    int n = snprintf(en->numerics, sizeof en->numerics, "%s;act=%s;kv=%s", en->ops->numerics(en->ctx),
                     activations[en->precision], k_type_info(en->kv_type)->name);
    if (en->host.state)
        snprintf(en->numerics + n, sizeof en->numerics - (size_t)n, ";experts=%s from layer %d",
                 en->host.ops->numerics(en->host.ctx), en->host.first);
}

enum rc engine_new(struct engine **out, const struct model *m, const struct engine_options *o, struct error *e)
{
    struct engine *en = spw_calloc(1, sizeof *en);
    int threads = o->threads ? o->threads : cores_available();
    en->on_device = o->ops && o->ops->put_many;
    enum rc rc = take_options(en, m, o, e);
    if (!rc && !(en->ctx = en->ops->ctx_new(threads, o->device)))
        rc = error_set(e, RC_UNSUPPORTED, "backend %s cannot start on device %d", en->ops->name, o->device);
    if (!rc && o->gemm_library)
        take_library(en);
    if (!rc)
        rc = check_precision(en, e);
    if (!rc)
        rc = weights_decide(en, e);
    if (!rc)
        rc = make_kv(en, o->kept_pages, o->spill_pages, e);
    if (!rc)
        rc = make_scratch(en, e);
    if (!rc)
        rc = host_experts_open(en, threads, e);
    if (!rc)
        rc = weights_place(en, o->lazy, e);
    if (rc) {
        engine_free(en);
        return rc;
    }
    name_numerics(en);
    *out = en;
    return RC_OK;
}

enum rc engine_plan(struct engine_plan *plan, const struct model *m, const struct engine_options *o,
                    uint64_t device_bytes, struct error *e)
{
    struct engine en = {.on_device = true};
    enum rc rc = take_options(&en, m, o, e);
    if (!rc)
        weights_plan(plan, &en, device_bytes);
    return rc;
}

void engine_free(struct engine *en)
{
    if (!en)
        return;
    if (en->ctx) {
        SPW_ASSERT(en->magic == ENGINE_MAGIC);
        host_experts_close(en);
        kv_store_fini(en);
        weights_unplace(en);
        en->ops->buf_free(en->ctx, en->kv, en->kv_bytes, K_BUF_WORK);
        en->ops->buf_free(en->ctx, en->scratch_mem, en->scratch_bytes, K_BUF_WORK);
        en->ops->buf_free(en->ctx, en->out_logits, en->out_logits_bytes, K_BUF_HOST);
        en->ops->buf_free(en->ctx, en->out_hidden, en->out_hidden_bytes, K_BUF_HOST);
        en->ops->ctx_free(en->ctx);
    }
    free(en->pages_free);
    prefix_free(en->prefix);
    free(en->seqs);
    free(en->seq_pages);
    free(en->ids);
    free(en->toks);
    free(en->last_rows);
    free(en->requests);
    free(en->choices);
    free(en->follows);
    en->magic = 0;
    free(en);
}

int32_t engine_host_layers(const struct engine *en, uint64_t *bytes)
{
    *bytes = en->host.bytes;
    int32_t n = 0;
    for (int32_t i = en->host.first; i < en->m->hp.n_layer && en->on_device; i++)
        n += en->m->layers[i].router.data != NULL;
    return n;
}

const char *engine_numerics(const struct engine *en)
{
    return en->numerics;
}

int32_t engine_n_ctx(const struct engine *en)
{
    return en->n_ctx;
}

int32_t engine_max_batch_tokens(const struct engine *en)
{
    return en->max_batch_tokens;
}

/* ---- a step ---- */

static enum rc check_slice(const struct engine *en, const struct step_slice *sl, int32_t i, struct error *e)
{
    SPW_ASSERT(sl->seq && sl->seq->magic == SEQ_MAGIC && sl->seq->en == en);
    if (sl->n < 1)
        return error_set(e, RC_INVALID, "slice %d has %d tokens, not 1 or more", i, sl->n);
    if (sl->seq->in_step)
        return error_set(e, RC_INVALID, "slice %d: its sequence stands in this step already", i);
    if (sl->n > sl->seq->n_pages * K_PAGE_TOKENS - sl->seq->len || sl->n > en->n_ctx - sl->seq->len)
        return error_set(e, RC_INVALID, "slice %d: %d tokens after %d have no room reserved", i, sl->n, sl->seq->len);
    for (int32_t j = 0; sl->ids && j < sl->n; j++)
        if (sl->ids[j] < 0 || sl->ids[j] >= en->m->hp.n_vocab)
            return error_set(e, RC_INVALID, "slice %d: id %d is not in the vocabulary of %d", i, sl->ids[j],
                             en->m->hp.n_vocab);
    return RC_OK;
}

static enum rc check_slices(const struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e)
{
    enum rc rc = RC_OK;
    int64_t total = 0;
    int32_t marked = 0;
    for (; marked < n_slices && !rc; marked++) {
        rc = check_slice(en, &slices[marked], marked, e);
        if (rc)
            break;
        slices[marked].seq->in_step = true;
        total += slices[marked].n;
    }
    for (int32_t i = 0; i < marked; i++)
        slices[i].seq->in_step = false;
    if (!rc && total > en->max_batch_tokens)
        rc = error_set(e, RC_INVALID, "%lld tokens in one step, more than max_batch_tokens %d", (long long)total,
                       en->max_batch_tokens);
    return rc;
}

static enum rc step_failed(const struct engine *en, enum k_status s, struct error *e)
{
    static const struct {
        enum rc rc;
        const char *why;
    } of[] = {[K_UNSUPPORTED] = {RC_UNSUPPORTED, "is not supported for these types"},
              [K_BAD_SHAPE] = {RC_INVALID, "refuses these shapes"},
              [K_NO_MEMORY] = {RC_FULL, "ran out of memory"},
              [K_DEVICE] = {RC_IO, "failed on the device"}};
    const char *text = (s == K_DEVICE || s == K_NO_MEMORY) && en->ops->error_text ? en->ops->error_text(en->ctx) : "";
    return error_set(e, of[s].rc, "backend %s: layer %d: %s %s%s%s", en->ops->name, en->op_layer, en->op, of[s].why,
                     text[0] ? ": " : "", text);
}

/* How many rows of what a step computes. */
struct step_rows {
    int32_t n_tok, n_logits, n_hidden;
    int32_t n_pad; /* of n_tok, the last: rows of nobody */
};

/* Whether the slice's token j goes on to the logits. */
static bool wants_logits(const struct step_slice *sl, int32_t j)
{
    return !sl->want_hidden && (sl->all_logits || (sl->want_logits && j == sl->n - 1));
}

/* A step of one token each, whose logits are wanted, has as many rows as the backend likes: what comes after the tokens
 * is padding. Not where the logits would not be there at once. */
static void pad(struct engine *en, struct step_rows *r, int32_t n_slices)
{
    static const int32_t no_page = K_PAGE_NONE;
    if (!en->ops->step_rows || r->n_tok != n_slices || r->n_logits != n_slices || r->n_hidden > 0)
        return;
    int32_t rows = en->ops->step_rows(en->ctx, r->n_tok);
    rows = rows < en->logit_rows ? rows : en->logit_rows; /* which is not more than max_batch_tokens */
    for (; r->n_tok < rows; r->n_tok++) {
        en->ids[r->n_tok] = 0;
        en->follows[r->n_tok] = -1;
        en->toks[r->n_tok] = (struct k_token_ref){.page_ids = &no_page};
        en->last_rows[r->n_tok] = r->n_tok;
        r->n_pad++;
    }
}

/* One row per token; first those whose logits are wanted go on, then those whose state is. */
static struct step_rows lay_out(struct engine *en, const struct step_slice *slices, int32_t n_slices)
{
    struct step_rows r = {0};
    for (int32_t i = 0; i < n_slices; i++) {
        const struct step_slice *sl = &slices[i];
        for (int32_t j = 0; j < sl->n; j++, r.n_tok++) {
            en->ids[r.n_tok] = sl->ids ? sl->ids[j] : 0;
            en->follows[r.n_tok] = sl->ids ? -1 : sl->follows;
            en->toks[r.n_tok] = (struct k_token_ref){.page_ids = sl->seq->pages, .pos = sl->seq->len + j};
            if (wants_logits(sl, j))
                en->last_rows[r.n_logits++] = r.n_tok;
        }
    }
    for (int32_t i = 0, row = 0; i < n_slices; row += slices[i++].n)
        for (int32_t j = 0; slices[i].want_hidden && j < slices[i].n; j++)
            en->last_rows[r.n_logits + r.n_hidden++] = row + j;
    pad(en, &r, n_slices);
    return r;
}

/* Room for results in the host's memory, which grows to the largest step's. */
static enum k_status grow_result(struct engine *en, float **p, size_t *bytes, size_t rows, int32_t elems)
{
    size_t needed = rows * (size_t)elems * sizeof **p;
    if (needed <= *bytes)
        return K_OK;
    en->ops->buf_free(en->ctx, *p, *bytes, K_BUF_HOST);
    *p = NULL, *bytes = 0;
    void *grown;
    enum k_status s = en->ops->buf_new(en->ctx, &grown, needed, K_BUF_HOST);
    if (s == K_OK)
        *p = grown, *bytes = needed;
    return s;
}

static enum k_status fetch(struct engine *en, float *to, const float *from, int64_t elems)
{
    en->op = "fetching results";
    return en->ops->get(en->ctx, to, from, (size_t)elems * sizeof *to);
}

/* Rows of logits that a slice asked for. */
static int32_t rows_of(const struct step_slice *sl)
{
    return sl->want_hidden ? 0 : sl->all_logits ? sl->n : sl->want_logits;
}

/* Choices made where the logits are, for the slices that have one row and ask for that; those that need the host after
 * all are left to it. Nothing where the logits are not there at once. */
static enum k_status choose(struct engine *en, struct step_slice *slices, int32_t n_slices, const struct step_rows *r)
{
    int32_t n = 0;
    if (!en->ops->sample_begin || r->n_logits > en->logit_rows)
        return K_OK;
    for (int32_t i = 0, row = 0; i < n_slices; row += rows_of(&slices[i++]))
        if (rows_of(&slices[i]) == 1 && slices[i].sample) {
            en->requests[n] = *slices[i].sample;
            en->requests[n++].row = row;
        }
    en->op = "sampling";
    enum k_status s = en->ops->sample_begin(en->ctx, 0, en->s.logits, en->m->hp.n_vocab, en->requests, n);
    if (s == K_OK)
        s = en->ops->sample_end(en->ctx, 0, en->choices, n);
    if (s != K_OK)
        return s == K_UNSUPPORTED ? K_OK : s;
    for (int32_t i = 0, k = 0; i < n_slices; i++)
        if (rows_of(&slices[i]) == 1 && slices[i].sample) {
            slices[i].chosen = en->choices[k++];
            slices[i].is_chosen = slices[i].chosen.state != K_SAMPLED_NOT_HERE;
        }
    return K_OK;
}

/* The logits of slices that are not chosen from, one behind the other; neighbours' in one piece. */
static enum k_status fetch_logits(struct engine *en, const struct step_slice *slices, int32_t n_slices)
{
    const int64_t n_vocab = en->m->hp.n_vocab;
    float *to = en->out_logits;
    enum k_status s = K_OK;
    for (int32_t i = 0, row = 0; i < n_slices && s == K_OK;) {
        int32_t rows = 0;
        for (; i < n_slices && !slices[i].is_chosen; i++)
            rows += rows_of(&slices[i]);
        if (rows > 0) {
            s = fetch(en, to, en->s.logits + row * n_vocab, rows * n_vocab);
            to += rows * n_vocab;
            row += rows;
        }
        for (; i < n_slices && slices[i].is_chosen; i++)
            row++;
    }
    return s;
}

/* The same where there are more than logit_rows of them, which are not chosen from. */
static enum k_status fetch_many_logits(struct engine *en, const struct step_rows *r)
{
    const int64_t n_vocab = en->m->hp.n_vocab;
    enum k_status s = K_OK;
    for (int32_t at = 0; at < r->n_logits && s == K_OK; at += en->logit_rows) {
        int32_t n = r->n_logits - at < en->logit_rows ? r->n_logits - at : en->logit_rows;
        s = at > 0 ? graph_logits(en, at, n) : K_OK;
        if (s == K_OK)
            s = fetch(en, en->out_logits + at * n_vocab, en->s.logits, n * n_vocab);
    }
    return s;
}

/* What the step left on the device and somebody wants. */
static enum k_status fetch_results(struct engine *en, const struct step_slice *slices, int32_t n_slices,
                                   const struct step_rows *r)
{
    const struct hparams *hp = &en->m->hp;
    enum k_status s = grow_result(en, &en->out_logits, &en->out_logits_bytes, (size_t)r->n_logits, hp->n_vocab);
    if (s == K_OK)
        s = grow_result(en, &en->out_hidden, &en->out_hidden_bytes, (size_t)r->n_hidden, hp->n_embd);
    if (s == K_OK)
        s = r->n_logits > en->logit_rows ? fetch_many_logits(en, r) : fetch_logits(en, slices, n_slices);
    if (s == K_OK && r->n_hidden > 0)
        s = fetch(en, en->out_hidden, en->s.last + (int64_t)r->n_logits * hp->n_embd,
                  (int64_t)r->n_hidden * hp->n_embd);
    return s;
}

/* The rows through the model; device backends need not be done by then. */
static enum k_status compute(struct engine *en, const struct step_rows *r)
{
    const struct k_ops *ops = en->ops;
    int32_t n_last = r->n_logits + r->n_hidden + r->n_pad, n_first = r->n_logits + r->n_pad;
    enum k_step how;
    n_first = n_first < en->logit_rows ? n_first : en->logit_rows;
    en->op = "beginning the step";
    en->op_layer = 0;
    enum k_status s = ops->put(en->ctx, en->s.ids, en->ids, (size_t)r->n_tok * sizeof *en->ids);
    if (s == K_OK)
        s = ops->put(en->ctx, en->s.rows, en->last_rows, (size_t)n_last * sizeof *en->last_rows);
    if (s == K_OK && en->host.state)
        s = ops->put(en->ctx, en->s.counts, (const int32_t[]){r->n_tok - r->n_pad, n_last - r->n_pad},
                     2 * sizeof *en->s.counts);
    if (s == K_OK && en->started > 0)
        s = ops->take_chosen(en->ctx, en->s.ids, en->slot, en->follows, r->n_tok);
    if (s == K_OK)
        s = ops->step_begin(en->ctx, en->toks, r->n_tok, (uint64_t)n_last << 32 | (uint32_t)n_first, &how);
    if (s != K_OK)
        return s;
    if (how != K_STEP_REPEAT)
        s = graph_run(en, r->n_tok, n_last, n_first);
    s = ops->step_end(en->ctx, s);
    upload_step_over(en, s);
    return s;
}

/* Where each slice finds what it asked for. */
static void point_out(const struct engine *en, struct step_slice *slices, int32_t n_slices, const struct step_rows *r)
{
    size_t n_vocab = (size_t)en->m->hp.n_vocab, n_embd = (size_t)en->m->hp.n_embd;
    const float *logits = en->on_device ? en->out_logits : en->s.logits;
    const float *hidden = en->on_device ? en->out_hidden : en->s.last + (size_t)r->n_logits * n_embd;
    for (int32_t i = 0; i < n_slices; i++) {
        struct step_slice *sl = &slices[i];
        size_t n = sl->is_chosen ? 0 : (size_t)rows_of(sl);
        sl->logits = n > 0 ? logits : NULL;
        sl->hidden = sl->want_hidden ? hidden : NULL;
        if (sl->logits)
            logits += n * n_vocab;
        if (sl->hidden)
            hidden += (size_t)sl->n * n_embd;
    }
}

static void clear_results(struct step_slice *slices, int32_t n_slices)
{
    for (int32_t i = 0; i < n_slices; i++) {
        slices[i].logits = slices[i].hidden = NULL;
        slices[i].is_chosen = false;
    }
}

static void advance(struct step_slice *slices, int32_t n_slices)
{
    for (int32_t i = 0; i < n_slices; i++)
        slices[i].seq->len += slices[i].n;
}

enum rc engine_step(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e)
{
    SPW_ASSERT(en->started == 0);
    enum rc rc = check_slices(en, slices, n_slices, e);
    if (rc || n_slices == 0)
        return rc;
    for (int32_t i = 0; i < n_slices; i++)
        SPW_ASSERT(slices[i].ids);
    struct step_rows r = lay_out(en, slices, n_slices);
    clear_results(slices, n_slices);
    enum k_status s = compute(en, &r);
    if (s == K_OK && en->on_device)
        s = choose(en, slices, n_slices, &r);
    if (s == K_OK && en->on_device)
        s = fetch_results(en, slices, n_slices, &r);
    if (s == K_OK && en->on_device) {
        en->op = "experts on the host";
        s = host_experts_status(en);
    }
    if (s != K_OK)
        return step_failed(en, s, e);
    point_out(en, slices, n_slices, &r);
    advance(slices, n_slices);
    return RC_OK;
}

/* ---- a step in two halves ---- */

int32_t engine_overlap_max(const struct engine *en)
{
    /* What the host computes in a step has one place for its numbers. */
    return en->ops->take_chosen && !en->host.state ? en->logit_rows : 0;
}

enum rc engine_step_start(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e)
{
    enum rc rc = check_slices(en, slices, n_slices, e);
    if (rc)
        return rc;
    SPW_ASSERT(en->started < K_SLOTS && n_slices > 0 && n_slices <= engine_overlap_max(en));
    for (int32_t i = 0; i < n_slices; i++) {
        const struct step_slice *sl = &slices[i];
        SPW_ASSERT(sl->n == 1 && rows_of(sl) == 1 && sl->sample && (sl->ids || en->started > 0));
        en->requests[i] = *sl->sample;
        en->requests[i].row = i;
    }
    struct step_rows r = lay_out(en, slices, n_slices);
    clear_results(slices, n_slices);
    enum k_status s = compute(en, &r);
    const int slot = en->slot ^ 1;
    if (s == K_OK) {
        en->op = "sampling";
        s = en->ops->sample_begin(en->ctx, slot, en->s.logits, en->m->hp.n_vocab, en->requests, n_slices);
    }
    if (s != K_OK)
        return step_failed(en, s, e);
    en->slot = slot;
    en->started++;
    advance(slices, n_slices);
    return RC_OK;
}

enum rc engine_step_finish(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e)
{
    SPW_ASSERT(en->started > 0);
    const int slot = en->started == K_SLOTS ? en->slot ^ 1 : en->slot;
    en->started--;
    en->op = "waiting for choices";
    enum k_status s = en->ops->sample_end(en->ctx, slot, en->choices, n_slices);
    if (s != K_OK)
        return step_failed(en, s, e);
    for (int32_t i = 0; i < n_slices; i++) {
        slices[i].chosen = en->choices[i];
        slices[i].is_chosen = slices[i].chosen.state != K_SAMPLED_NOT_HERE;
    }
    return RC_OK;
}
