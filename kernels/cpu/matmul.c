/* Matrix products of the CPU backend. All three operations are one job: a list of (x, y) row pairs per weight matrix,
 * for one or more products of the same activations.
 *
 *   1. Activations are brought to 8 bits (FAST, quantised weights) or to BF16 (FAST_BF16, BF16 weights) once per distinct row
 *      and per form that weights want, spread over the threads.
 *   2. Work is cut into runs of panels (16 weight rows of one matrix), those of all products in one list, so that small
 *      matrices leave no thread waiting. A panel is packed piece by piece, and each piece multiplied with all tokens, so
 *      weights are read from memory once, and packing is shared by tokens. With few tokens memory sets the pace, and it is
 *      fastest when asked for at several places at once: the rows of a run are then dealt out as eight streams, each read
 *      from its begin to its end. Of a gated product a run is rows of both matrices: sums of the first go to y, and those
 *      of the second are folded into them where they lie.
 *
 * Every (row, token) sum runs along the row in one fixed order (isa.h), whatever the tiling: neither the number of
 * tokens nor that of threads nor what else is multiplied can change it. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#define TOKEN_BLOCK     256  /* tokens whose sums are kept beside the panel: 16 KiB */
#define RUNS_PER_THREAD 8    /* enough items to even out threads that run at different speeds */
#define RUN_MAX         16   /* panels */
#define STREAMS         8    /* rows that a panel takes from places apart */
#define STREAM_TOKENS   16   /* with more of them, sums are better kept together than weights apart */
#define STREAM_AHEAD    384  /* bytes of a row that are asked for before they are multiplied */
#define PACK_AHEAD      1024 /* the same of what is packed: other things are done meanwhile */

/* Activations in one form: all rows quantised, in BF16, or as they came. */
struct activations {
    struct act_layout layout; /* row_bytes 0: float; group 0: BF16 */
    uint8_t *q;
    const void **x; /* per pair */
};

/* A weight tensor and what it is multiplied with. */
struct operand {
    const struct k_tensor *w;
    size_t row_bytes;
    const struct quant_form *form; /* of quantised weights with activations in 8 bits */
    const struct pairs *pairs;     /* of BF16 weights with activations in BF16. Neither: float activations */
    const struct activations *act;
};

struct product {
    struct operand by[2]; /* the second one, if there is: what is gated */
    int n_by;
    const float *bias;
    float *y_out;
    int64_t y_stride;
    float **y;      /* per pair */
    int64_t n_runs; /* per matrix */
    int64_t run;    /* rows of a matrix per item; a multiple of PANEL_ROWS */
};

#define FORMS_MAX (2 * K_PRODUCTS_MAX)
struct matmul_job {
    const struct isa *isa;
    const struct pairs *pairs; /* NULL: none in this job's precision */
    int n_products, n_forms;
    struct product products[K_PRODUCTS_MAX];
    struct activations forms[FORMS_MAX];
    int64_t n;                 /* elements of a row */
    int32_t n_active;          /* matrices with rows to multiply */
    int32_t *matrices, *first; /* per active matrix: its number, and its first pair; first[n_active] = n_pairs */
    int32_t *order;            /* experts: pairs as they are grouped */
    /* Step 1 */
    const float *x_in;
    int64_t x_in_stride, n_x;
    /* Per thread */
    uint8_t *scratch;
    size_t scratch_bytes;
};

/* One thread's buffers; sizes are fixed by the constants of isa.h. */
struct panel_scratch {
    float acc[TOKEN_BLOCK * PANEL_ROWS];
    union {
        struct {
            uint8_t q_rows[PANEL_ROWS * EXPAND_ELEMS];
            float d_rows[PANEL_ROWS * EXPAND_GROUPS], m_rows[PANEL_ROWS * EXPAND_GROUPS];
            uint8_t q[PANEL_ROWS * Q_CHUNK_ELEMS]; /* chunks are shorter where a number has two bytes */
            float d[PANEL_ROWS * Q_CHUNK_ELEMS / 16], m[PANEL_ROWS * Q_CHUNK_ELEMS / 16];
        };
        uint32_t pairs[PANEL_ROWS * PAIR_CHUNK_ELEMS / 2];
        struct {
            float f_rows[PANEL_ROWS * F_CHUNK_ELEMS], f[PANEL_ROWS * F_CHUNK_ELEMS];
        };
    };
};

/* The rows of one panel: where they lie, and which outputs they are; -1 for a lane that only repeats a row. */
struct panel_rows {
    const uint8_t *at[PANEL_ROWS];
    int64_t output[PANEL_ROWS];
    bool whole; /* no lane repeats a row, so lanes r and r + STREAMS are neighbours */
};

/* Panel i of rows first .. first + n of a matrix, dealt out as STREAMS runs of neighbours: a panel takes the next two
 * rows of each, one into its first eight lanes, one into the others. */
static void deal_rows(const struct operand *by, struct panel_rows *p, int32_t matrix, int64_t first, int64_t n,
                      int64_t i)
{
    const size_t row_bytes = by->row_bytes;
    const uint8_t *base = (const uint8_t *)by->w->data + (size_t)(matrix * by->w->ne[1] + first) * row_bytes;
    const int64_t length = (n + STREAMS - 1) / STREAMS;
    int64_t row = 2 * i;
    for (int r = 0; r < STREAMS; r++, row += length) {
        p->at[r] = base + (size_t)row * row_bytes;
        p->at[r + STREAMS] = p->at[r] + row_bytes;
        p->output[r] = first + row;
        p->output[r + STREAMS] = first + row + 1;
    }
    p->whole = 2 * i + 1 < length && row - length + 1 < n;
    for (int r = 0; r < PANEL_ROWS && !p->whole; r++) {
        int64_t place = 2 * i + r / STREAMS;
        if (place < length && p->output[r] < first + n)
            continue;
        p->at[r] = base + (size_t)(n - 1) * row_bytes;
        p->output[r] = -1;
    }
}

/* Elements k0 .. k0+n of 16 quantised rows -> s->q, d, m. */
static void pack_quantised(const struct isa *isa, const struct operand *by, struct panel_scratch *s,
                           const uint8_t *const *rows, int64_t k0, int64_t n)
{
    const void *q[PANEL_ROWS], *d[PANEL_ROWS], *m[PANEL_ROWS];
    if (isa->panel[by->w->type]) {
        const struct q_panel panel = {s->q, s->d, s->m};
        const uint8_t *at[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++)
            at[r] = rows[r] + k_row_bytes(by->w->type, (uint64_t)k0);
        isa->panel[by->w->type](&panel, at, n, PACK_AHEAD);
        return;
    }
    for (int r = 0; r < PANEL_ROWS; r++) {
        q[r] = s->q_rows + r * EXPAND_ELEMS;
        d[r] = s->d_rows + r * EXPAND_GROUPS;
        m[r] = s->m_rows + r * EXPAND_GROUPS;
    }
    for (int64_t k = 0; k < n; k += EXPAND_ELEMS) {
        int64_t part = n - k < EXPAND_ELEMS ? n - k : EXPAND_ELEMS, groups = part / by->form->group;
        int64_t group_at = k / by->form->group * PANEL_ROWS;
        size_t bytes_at = k_row_bytes(by->w->type, (uint64_t)(k0 + k));
        const uint8_t *at[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++)
            at[r] = rows[r] + bytes_at;
        isa->expand[by->w->type](s->q_rows, s->d_rows, s->m_rows, at, part, PACK_AHEAD);
        isa->pack((uint32_t *)(s->q + k * PANEL_ROWS), q, part / 4);
        isa->pack((uint32_t *)(s->d + group_at), d, groups);
        if (by->form->has_min)
            isa->pack((uint32_t *)(s->m + group_at), m, groups);
    }
}

/* The same in float; float32 weights are packed where they lie. */
static void pack_float(const struct isa *isa, const struct operand *by, struct panel_scratch *s,
                       const uint8_t *const *rows, int64_t k0, int64_t n)
{
    const void *from[PANEL_ROWS];
    for (int r = 0; r < PANEL_ROWS; r++) {
        const uint8_t *at = rows[r] + k_row_bytes(by->w->type, (uint64_t)k0);
        float *wide = s->f_rows + r * F_CHUNK_ELEMS;
        for (size_t i = 0; i < k_row_bytes(by->w->type, (uint64_t)n); i += 64)
            __builtin_prefetch(at + PACK_AHEAD + i, 0, 2);
        from[r] = by->w->type == K_F32 ? (const void *)at : wide;
        if (by->w->type == K_F16)
            isa->f16_to_f32(wide, (const uint16_t *)at, n);
        else if (by->w->type == K_BF16)
            isa->bf16_to_f32(wide, (const uint16_t *)at, n);
        else if (by->w->type != K_F32)
            k_dequantise(wide, at, by->w->type, n); /* n is whole blocks: chunks are multiples of 256 */
    }
    isa->pack((uint32_t *)s->f, from, n);
}

/* The same in pairs of BF16, as they lie; a last number without a second gets a zero. */
static void pack_pairs(const struct isa *isa, struct panel_scratch *s, const uint8_t *const *rows, int64_t k0,
                       int64_t n)
{
    const void *from[PANEL_ROWS];
    for (int r = 0; r < PANEL_ROWS; r++) {
        from[r] = rows[r] + 2 * k0;
        for (int64_t i = 0; i < 2 * n; i += 64)
            __builtin_prefetch(rows[r] + 2 * k0 + PACK_AHEAD + i, 0, 2);
    }
    isa->pack(s->pairs, from, n / 2);
    for (int r = 0; n % 2 && r < PANEL_ROWS; r++) {
        uint16_t last;
        memcpy(&last, rows[r] + 2 * (k0 + n - 1), sizeof last);
        s->pairs[n / 2 * PANEL_ROWS + r] = last;
    }
}

static void multiply_pairs(const struct isa *isa, const struct operand *by, struct panel_scratch *s,
                           const uint8_t *const *rows, int64_t first_pair, int64_t n_pairs)
{
    int64_t n = by->w->ne[0];
    const uint16_t *const *x = (const uint16_t *const *)by->act->x + first_pair;
    if (n_pairs <= by->pairs->gemv_tokens) {
        by->pairs->gemv(s->acc, rows, x, (int)n_pairs, n, STREAM_AHEAD);
        return;
    }
    for (int64_t k0 = 0; k0 < n; k0 += PAIR_CHUNK_ELEMS) {
        int64_t part = n - k0 < PAIR_CHUNK_ELEMS ? n - k0 : PAIR_CHUNK_ELEMS;
        pack_pairs(isa, s, rows, k0, part);
        by->pairs->gemm(s->acc, s->pairs, x, n_pairs, k0, part);
    }
}

/* The sums of 16 rows of w and n_pairs pairs -> s->acc. */
static void multiply_panel(const struct isa *isa, const struct operand *by, struct panel_scratch *s,
                           const uint8_t *const *rows, int64_t first_pair, int64_t n_pairs)
{
    const enum k_type type = by->w->type;
    const void *const *x = by->act->x + first_pair;
    int64_t n = by->w->ne[0], chunk = by->form ? Q_CHUNK_ELEMS : F_CHUNK_ELEMS;
    if (by->form && by->form->bits == 8)
        chunk /= isa->wide_bytes;
    /* Few tokens: keep the piece in the first-level cache between packing and use. */
    if (by->form && n_pairs <= 8)
        chunk = EXPAND_ELEMS;
    memset(s->acc, 0, (size_t)n_pairs * PANEL_ROWS * sizeof *s->acc);
    if (by->pairs) {
        multiply_pairs(isa, by, s, rows, first_pair, n_pairs);
        return;
    }
    if (by->form && n_pairs <= isa->gemv_tokens[type]) {
        isa->gemv[type](s->acc, rows, (const uint8_t *const *)x, (int)n_pairs, n, &by->act->layout, STREAM_AHEAD);
        return;
    }
    for (int64_t k0 = 0; k0 < n; k0 += chunk) {
        int64_t part = n - k0 < chunk ? n - k0 : chunk;
        if (by->form) {
            struct q_panel panel = {s->q, s->d, s->m};
            pack_quantised(isa, by, s, rows, k0, part);
            isa->gemm_q(s->acc, PANEL_ROWS, &panel, (const uint8_t *const *)x, n_pairs, k0, part, &by->act->layout,
                        by->form);
        } else {
            pack_float(isa, by, s, rows, k0, part);
            isa->gemm_f(s->acc, PANEL_ROWS, s->f, (const float *const *)x, n_pairs, k0, part);
        }
    }
}

/* One token's sums of a panel to their outputs. */
static void put_sums(float *y, const float *sums, const struct panel_rows *p, const float *bias)
{
    if (p->whole && !bias) {
        for (int r = 0; r < STREAMS; r++) {
            float *at = y + p->output[r];
            at[0] = sums[r];
            at[1] = sums[r + STREAMS];
        }
        return;
    }
    for (int r = 0; r < PANEL_ROWS; r++) {
        int64_t out = p->output[r];
        if (out >= 0)
            y[out] = bias ? sums[r] + bias[out] : sums[r];
    }
}

/* Into what is there: y = silu(y) * sum. */
static void fold_sums(const struct isa *isa, float *y, const float *sums, const struct panel_rows *p)
{
    float gated[PANEL_ROWS];
    for (int r = 0; r < PANEL_ROWS; r++)
        gated[r] = p->output[r] >= 0 ? y[p->output[r]] : 0.0f;
    isa->silu_mul(gated, gated, sums, PANEL_ROWS);
    put_sums(y, gated, p, NULL);
}

static void one_panel(const struct matmul_job *job, const struct product *product, int which, struct panel_scratch *s,
                      int64_t active, const struct panel_rows *p)
{
    for (int64_t t0 = job->first[active]; t0 < job->first[active + 1]; t0 += TOKEN_BLOCK) {
        int64_t left = job->first[active + 1] - t0, n_pairs = left < TOKEN_BLOCK ? left : TOKEN_BLOCK;
        multiply_panel(job->isa, &product->by[which], s, p->at, t0, n_pairs);
        for (int64_t t = 0; t < n_pairs; t++) {
            if (which == 0)
                put_sums(product->y[t0 + t], s->acc + t * PANEL_ROWS, p, product->bias);
            else
                fold_sums(job->isa, product->y[t0 + t], s->acc + t * PANEL_ROWS, p);
        }
    }
}

/* A run of neighbouring rows of one matrix, or of two that belong together. */
static void run_rows(const struct matmul_job *job, const struct product *product, struct panel_scratch *s, int64_t run)
{
    int64_t active = run / product->n_runs, begin = run % product->n_runs * product->run, end = begin + product->run;
    int64_t m = product->by[0].w->ne[1];
    end = end < m ? end : m;
    int64_t n_tok = job->first[active + 1] - job->first[active];
    int64_t dealt = n_tok <= STREAM_TOKENS ? product->run : PANEL_ROWS;
    for (int64_t first = begin; first < end; first += dealt) {
        int64_t n = end - first < dealt ? end - first : dealt;
        for (int which = 0; which < product->n_by; which++)
            for (int64_t i = 0; i < (n + PANEL_ROWS - 1) / PANEL_ROWS; i++) {
                struct panel_rows p;
                deal_rows(&product->by[which], &p, job->matrices[active], first, n, i);
                one_panel(job, product, which, s, active, &p);
            }
    }
}

static void run_item(void *arg, int thread, int64_t item)
{
    const struct matmul_job *job = arg;
    const struct product *product = job->products;
    for (; item >= product->n_runs * job->n_active; product++)
        item -= product->n_runs * job->n_active;
    run_rows(job, product, (void *)(job->scratch + (size_t)thread * job->scratch_bytes), item);
}

static int64_t panels_of(const struct product *product)
{
    return (product->by[0].w->ne[1] + PANEL_ROWS - 1) / PANEL_ROWS;
}

static void run_panels(struct k_ctx *c, struct matmul_job *job)
{
    int64_t panels = 0, items = 0;
    for (int i = 0; i < job->n_products; i++)
        panels += panels_of(&job->products[i]) * job->products[i].n_by;
    int64_t most = panels * job->n_active / (pool_threads(c->pool) * RUNS_PER_THREAD);
    for (int i = 0; i < job->n_products; i++) {
        struct product *product = &job->products[i];
        int64_t own = panels_of(product), run = most / product->n_by;
        run = run < 1 ? 1 : run > RUN_MAX ? RUN_MAX : run;
        product->n_runs = (own + run - 1) / run;
        product->run = (own + product->n_runs - 1) / product->n_runs * PANEL_ROWS; /* all of about one length */
        items += product->n_runs * job->n_active;
    }
    pool_run(c->pool, run_item, job, items);
}

/* A row in all forms. */
static void round_item(void *arg, int thread, int64_t row)
{
    (void)thread;
    const struct matmul_job *job = arg;
    for (int i = 0; i < job->n_forms; i++) {
        const struct activations *a = &job->forms[i];
        uint8_t *out = a->q + (size_t)row * a->layout.row_bytes;
        const float *x = job->x_in + row * job->x_in_stride;
        if (a->layout.group)
            job->isa->quantise(out, x, job->n, &a->layout);
        else if (a->layout.row_bytes)
            job->pairs->round((uint16_t *)out, x, job->n);
    }
}

static struct act_layout layout_in_pairs(size_t n)
{
    struct act_layout l = {0};
    cpu_place(&l.row_bytes, (n + PAIR_BLOCK - 1) / PAIR_BLOCK * PAIR_BLOCK * sizeof(uint16_t));
    return l;
}

static struct act_layout layout_of(const struct isa *isa, const struct quant_form *form, size_t n)
{
    struct act_layout l = {0};
    if (!form)
        return l;
    l.group = form->group;
    l.offset = form->offset;
    cpu_place(&l.row_bytes, n);
    l.d = cpu_place(&l.row_bytes, n / 32 * sizeof(float));
    l.correction = cpu_place(&l.row_bytes, n / (size_t)l.group * sizeof(int32_t));
    l.minimum = cpu_place(&l.row_bytes, n / (size_t)l.group * sizeof(float));
    l.wide = form->bits == 8 && isa->wide_bytes == 2 ? cpu_place(&l.row_bytes, n * sizeof(int16_t)) : 0;
    return l;
}

/* The operand of w; its activations are those of an operand before it where they have the same form. */
static void set_operand(struct matmul_job *job, struct operand *by, const struct k_tensor *w, enum k_precision p)
{
    by->w = w;
    by->row_bytes = k_row_bytes(w->type, (uint64_t)w->ne[0]);
    by->form = p == K_PRECISE ? NULL : k_quant_form(w->type);
    by->pairs = w->type == K_BF16 ? job->pairs : NULL;
    const struct act_layout l =
        by->pairs ? layout_in_pairs((size_t)w->ne[0]) : layout_of(job->isa, by->form, (size_t)w->ne[0]);
    int i = 0;
    while (i < job->n_forms && (job->forms[i].layout.group != l.group || job->forms[i].layout.offset != l.offset ||
                                job->forms[i].layout.row_bytes != l.row_bytes))
        i++;
    if (i == job->n_forms)
        job->forms[job->n_forms++].layout = l;
    by->act = &job->forms[i];
}

/* What the job multiplies with. K_UNSUPPORTED: this CPU does not multiply that way. */
static enum k_status set_precision(const struct k_ctx *c, struct matmul_job *job, enum k_precision p)
{
    job->isa = c->isa;
    job->pairs = p == K_FAST_BF16 ? c->pairs : NULL;
    return cpu_has_precision(c, p) ? K_OK : K_UNSUPPORTED;
}

static void add_product(struct matmul_job *job, const struct k_product *from, int64_t y_stride, enum k_precision p)
{
    struct product *to = &job->products[job->n_products++];
    *to = (struct product){.n_by = from->up ? 2 : 1, .bias = from->bias, .y_out = from->y, .y_stride = y_stride};
    job->n = from->w->ne[0];
    set_operand(job, &to->by[0], from->w, p);
    if (from->up)
        set_operand(job, &to->by[1], from->up, p);
}

/* Get memory for n_pairs pairs of n_matrices lists and the job's n_x distinct activation rows, and round these. */
static enum k_status prepare(struct k_ctx *c, struct matmul_job *job, int64_t n_pairs, int64_t n_matrices)
{
    size_t bytes = 0, at_x[FORMS_MAX] = {0}, at_q[FORMS_MAX] = {0}, at_y[K_PRODUCTS_MAX] = {0};
    for (int i = 0; i < job->n_products; i++)
        at_y[i] = cpu_place(&bytes, (size_t)n_pairs * sizeof(float *));
    for (int i = 0; i < job->n_forms; i++) {
        at_x[i] = cpu_place(&bytes, (size_t)n_pairs * sizeof(void *));
        at_q[i] = cpu_place(&bytes, (size_t)job->n_x * job->forms[i].layout.row_bytes);
    }
    size_t at_matrices = cpu_place(&bytes, (size_t)n_matrices * sizeof *job->matrices);
    size_t at_first = cpu_place(&bytes, (size_t)(n_matrices + 1) * sizeof *job->first);
    size_t at_order = cpu_place(&bytes, (size_t)n_pairs * sizeof *job->order);
    job->scratch_bytes = 0;
    cpu_place(&job->scratch_bytes, sizeof(struct panel_scratch));
    uint8_t *base = cpu_scratch(&c->shared, bytes);
    job->scratch = cpu_scratch(&c->per_thread, job->scratch_bytes * (size_t)pool_threads(c->pool));
    if (!base || !job->scratch)
        return K_NO_MEMORY;
    for (int i = 0; i < job->n_products; i++)
        job->products[i].y = (float **)(base + at_y[i]);
    for (int i = 0; i < job->n_forms; i++) {
        job->forms[i].x = (const void **)(base + at_x[i]);
        job->forms[i].q = base + at_q[i];
    }
    job->matrices = (int32_t *)(base + at_matrices);
    job->first = (int32_t *)(base + at_first);
    job->order = (int32_t *)(base + at_order);
    bool rounded = false;
    for (int i = 0; i < job->n_forms; i++)
        rounded |= job->forms[i].layout.row_bytes > 0;
    if (rounded)
        pool_run(c->pool, round_item, job, job->n_x);
    return K_OK;
}

/* Pair `at` of the list: which row of the activations, and which of the outputs. */
static void set_pair(struct matmul_job *job, int64_t at, int64_t x_row, int64_t y_row)
{
    for (int i = 0; i < job->n_forms; i++) {
        const struct activations *a = &job->forms[i];
        a->x[at] = a->layout.row_bytes ? (const void *)(a->q + (size_t)x_row * a->layout.row_bytes)
                                       : (const void *)(job->x_in + x_row * job->x_in_stride);
    }
    for (int i = 0; i < job->n_products; i++)
        job->products[i].y[at] = job->products[i].y_out + y_row * job->products[i].y_stride;
}

enum k_status cpu_matmul(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x, int64_t x_stride,
                         int32_t n_tok, enum k_precision p)
{
    enum k_status status = k_check_matmul(products, n, x, x_stride, n_tok);
    if (status != K_OK || n_tok == 0)
        return status;
    struct matmul_job job = {.x_in = x, .x_in_stride = x_stride, .n_x = n_tok, .n_active = 1};
    status = set_precision(c, &job, p);
    for (int32_t i = 0; i < n; i++)
        add_product(&job, &products[i], products[i].w->ne[1], p);
    if (status == K_OK)
        status = prepare(c, &job, n_tok, 1);
    if (status != K_OK)
        return status;
    job.matrices[0] = 0;
    job.first[0] = 0;
    job.first[1] = n_tok;
    for (int64_t t = 0; t < n_tok; t++)
        set_pair(&job, t, t, t);
    run_panels(c, &job);
    return K_OK;
}

enum k_status cpu_matmul_heads(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x, int32_t x_head_stride,
                               const struct k_tensor *w, int32_t n_tok, enum k_precision p)
{
    enum k_status status = k_check_heads(y, y_head_stride, x, x_head_stride, w, n_tok);
    if (status != K_OK || n_tok == 0)
        return status;
    int64_t n_head = w->ne[2], n_pairs = n_head * n_tok;
    if (n_pairs > INT32_MAX)
        return K_BAD_SHAPE;
    struct matmul_job job = {.x_in = x, .x_in_stride = x_head_stride, .n_x = n_pairs};
    status = set_precision(c, &job, p);
    const struct k_product product = {y, w, NULL, NULL};
    add_product(&job, &product, y_head_stride, p);
    if (status == K_OK)
        status = prepare(c, &job, n_pairs, n_head);
    if (status != K_OK)
        return status;
    job.n_active = (int32_t)n_head;
    for (int64_t h = 0; h < n_head; h++) {
        job.matrices[h] = (int32_t)h;
        job.first[h] = (int32_t)(h * n_tok);
        for (int64_t t = 0; t < n_tok; t++)
            set_pair(&job, h * n_tok + t, t * n_head + h, t * n_head + h);
    }
    job.first[n_head] = (int32_t)n_pairs;
    run_panels(c, &job);
    return K_OK;
}

/* Pairs sorted by expert (counting sort) -> order; on return the active experts come first in matrices and first. */
static void group_by_expert(struct matmul_job *job, const int32_t *ids, int32_t n_expert, int32_t n_pairs)
{
    int32_t start = 0, *matrices = job->matrices, *first = job->first;
    memset(matrices, 0, (size_t)n_expert * sizeof *matrices);
    for (int32_t i = 0; i < n_pairs; i++)
        matrices[ids[i]]++; /* counts, for now */
    for (int32_t e = 0; e < n_expert; e++) {
        first[e] = start;
        start += matrices[e];
    }
    for (int32_t i = 0; i < n_pairs; i++)
        job->order[first[ids[i]]++] = i; /* first[e] ends as the start of e + 1 */
    for (int32_t e = 0, begin = 0; e < n_expert; e++) {
        int32_t end = first[e];
        if (end > begin) {
            matrices[job->n_active] = e; /* n_active <= e: entries still to be read are untouched */
            first[job->n_active++] = begin;
        }
        begin = end;
    }
    first[job->n_active] = n_pairs;
}

enum k_status cpu_matmul_experts(struct k_ctx *c, const struct k_product *product, const float *x, bool x_per_expert,
                                 const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p)
{
    enum k_status status = k_check_experts(product, x, ids, n_used, n_tok);
    if (status != K_OK || n_tok == 0)
        return status;
    int32_t n_pairs = n_tok * n_used;
    const struct k_tensor *w = product->w;
    struct matmul_job job = {.x_in = x, .x_in_stride = w->ne[0], .n_x = x_per_expert ? n_pairs : n_tok};
    status = set_precision(c, &job, p);
    add_product(&job, product, w->ne[1], p);
    if (status == K_OK)
        status = prepare(c, &job, n_pairs, w->ne[2]);
    if (status != K_OK)
        return status;
    group_by_expert(&job, ids, (int32_t)w->ne[2], n_pairs);
    for (int32_t at = 0; at < n_pairs; at++)
        set_pair(&job, at, x_per_expert ? job.order[at] : job.order[at] / n_used, job.order[at]);
    run_panels(c, &job);
    return K_OK;
}
