/* Matrix products of the CPU backend. All three operations are one job: a list of (x, y) row pairs per weight matrix.
 *
 *   1. Activations are brought to 8 bits once per distinct row (FAST, quantised weights), spread over the threads.
 *   2. Work is cut into runs of panels (16 weight rows of one matrix). A panel is packed piece by piece, and each piece
 *      multiplied with all tokens, so weights are read from memory once, and packing is shared by tokens. With few
 *      tokens memory sets the pace, and it is fastest when asked for at several places at once: the rows of a run are
 *      then dealt out as eight streams, each read from its begin to its end.
 *
 * Every (row, token) sum runs along the row in one fixed order (isa.h), whatever the tiling: neither the number of
 * tokens nor that of threads can change it. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#define TOKEN_BLOCK     256  /* tokens whose sums are kept beside the panel: 16 KiB */
#define RUNS_PER_THREAD 8    /* enough items to even out threads that run at different speeds */
#define RUN_MAX         16   /* panels */
#define STREAMS         8    /* rows that a panel takes from places apart */
#define STREAM_TOKENS   16   /* with more of them, sums are better kept together than weights apart */
#define STREAM_AHEAD    384  /* bytes of a row that are asked for before they are multiplied */
#define PACK_AHEAD      1024 /* the same of what is packed: other things are done meanwhile */

struct matmul_job {
    const struct isa *isa;
    const struct k_tensor *w;
    const struct quant_form *form; /* NULL: float activations */
    struct act_layout layout;
    const float *bias;
    size_t row_bytes;                /* of w */
    int64_t n_runs;                  /* per matrix */
    int64_t run;                     /* rows of a matrix per item; a multiple of PANEL_ROWS */
    int32_t n_active;                /* matrices with rows to multiply */
    const int32_t *matrices, *first; /* per active matrix: its number, and its first pair; first[n_active] = n_pairs */
    const void **x;                  /* per pair */
    float **y;
    /* Step 1 */
    const float *x_in;
    int64_t x_in_stride;
    uint8_t *x_q;
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
static void deal_rows(const struct matmul_job *job, struct panel_rows *p, int32_t matrix, int64_t first, int64_t n,
                      int64_t i)
{
    const size_t row_bytes = job->row_bytes;
    const uint8_t *base = (const uint8_t *)job->w->data + (size_t)(matrix * job->w->ne[1] + first) * row_bytes;
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
static void pack_quantised(const struct matmul_job *job, struct panel_scratch *s, const uint8_t *const *rows,
                           int64_t k0, int64_t n)
{
    const void *q[PANEL_ROWS], *d[PANEL_ROWS], *m[PANEL_ROWS];
    if (job->isa->panel[job->w->type]) {
        const struct q_panel panel = {s->q, s->d, s->m};
        const uint8_t *at[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++)
            at[r] = rows[r] + k_row_bytes(job->w->type, (uint64_t)k0);
        job->isa->panel[job->w->type](&panel, at, n, PACK_AHEAD);
        return;
    }
    for (int r = 0; r < PANEL_ROWS; r++) {
        q[r] = s->q_rows + r * EXPAND_ELEMS;
        d[r] = s->d_rows + r * EXPAND_GROUPS;
        m[r] = s->m_rows + r * EXPAND_GROUPS;
    }
    for (int64_t k = 0; k < n; k += EXPAND_ELEMS) {
        int64_t part = n - k < EXPAND_ELEMS ? n - k : EXPAND_ELEMS, groups = part / job->form->group;
        int64_t group_at = k / job->form->group * PANEL_ROWS;
        size_t bytes_at = k_row_bytes(job->w->type, (uint64_t)(k0 + k));
        const uint8_t *at[PANEL_ROWS];
        for (int r = 0; r < PANEL_ROWS; r++)
            at[r] = rows[r] + bytes_at;
        job->isa->expand[job->w->type](s->q_rows, s->d_rows, s->m_rows, at, part, PACK_AHEAD);
        job->isa->pack((uint32_t *)(s->q + k * PANEL_ROWS), q, part / 4);
        job->isa->pack((uint32_t *)(s->d + group_at), d, groups);
        if (job->form->has_min)
            job->isa->pack((uint32_t *)(s->m + group_at), m, groups);
    }
}

/* The same in float; float32 weights are packed where they lie. */
static void pack_float(const struct matmul_job *job, struct panel_scratch *s, const uint8_t *const *rows, int64_t k0,
                       int64_t n)
{
    const void *from[PANEL_ROWS];
    for (int r = 0; r < PANEL_ROWS; r++) {
        const uint8_t *at = rows[r] + k_row_bytes(job->w->type, (uint64_t)k0);
        float *wide = s->f_rows + r * F_CHUNK_ELEMS;
        for (size_t i = 0; i < k_row_bytes(job->w->type, (uint64_t)n); i += 64)
            __builtin_prefetch(at + PACK_AHEAD + i, 0, 2);
        from[r] = job->w->type == K_F32 ? (const void *)at : wide;
        if (job->w->type == K_F16)
            job->isa->f16_to_f32(wide, (const uint16_t *)at, n);
        else if (job->w->type == K_BF16)
            job->isa->bf16_to_f32(wide, (const uint16_t *)at, n);
        else if (job->w->type != K_F32)
            k_dequantise(wide, at, job->w->type, n); /* n is whole blocks: chunks are multiples of 256 */
    }
    job->isa->pack((uint32_t *)s->f, from, n);
}

static void multiply_panel(const struct matmul_job *job, struct panel_scratch *s, const uint8_t *const *rows,
                           int64_t first_pair, int64_t n_pairs)
{
    int64_t n = job->w->ne[0], chunk = job->form ? Q_CHUNK_ELEMS : F_CHUNK_ELEMS;
    if (job->form && job->form->bits == 8)
        chunk /= job->isa->wide_bytes;
    /* Few tokens: keep the piece in the first-level cache between packing and use. */
    if (job->form && n_pairs <= 8)
        chunk = EXPAND_ELEMS;
    memset(s->acc, 0, (size_t)n_pairs * PANEL_ROWS * sizeof *s->acc);
    if (job->form && n_pairs <= job->isa->gemv_tokens[job->w->type]) {
        job->isa->gemv[job->w->type](s->acc, rows, (const uint8_t *const *)job->x + first_pair, (int)n_pairs, n,
                                     &job->layout, STREAM_AHEAD);
        return;
    }
    for (int64_t k0 = 0; k0 < n; k0 += chunk) {
        int64_t part = n - k0 < chunk ? n - k0 : chunk;
        if (job->form) {
            struct q_panel panel = {s->q, s->d, s->m};
            pack_quantised(job, s, rows, k0, part);
            job->isa->gemm_q(s->acc, PANEL_ROWS, &panel, (const uint8_t *const *)job->x + first_pair, n_pairs, k0, part,
                             &job->layout, job->form);
        } else {
            pack_float(job, s, rows, k0, part);
            job->isa->gemm_f(s->acc, PANEL_ROWS, s->f, (const float *const *)job->x + first_pair, n_pairs, k0, part);
        }
    }
}

/* One token's sums of a panel to their outputs. */
static void put_sums(const struct matmul_job *job, float *y, const float *sums, const struct panel_rows *p)
{
    if (p->whole && !job->bias) {
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
            y[out] = job->bias ? sums[r] + job->bias[out] : sums[r];
    }
}

static void one_panel(const struct matmul_job *job, struct panel_scratch *s, int64_t active, const struct panel_rows *p)
{
    for (int64_t t0 = job->first[active]; t0 < job->first[active + 1]; t0 += TOKEN_BLOCK) {
        int64_t left = job->first[active + 1] - t0, n_pairs = left < TOKEN_BLOCK ? left : TOKEN_BLOCK;
        multiply_panel(job, s, p->at, t0, n_pairs);
        for (int64_t t = 0; t < n_pairs; t++)
            put_sums(job, job->y[t0 + t], s->acc + t * PANEL_ROWS, p);
    }
}

/* A run of neighbouring rows of one matrix. */
static void run_item(void *arg, int thread, int64_t item)
{
    const struct matmul_job *job = arg;
    struct panel_scratch *s = (void *)(job->scratch + (size_t)thread * job->scratch_bytes);
    int64_t active = item / job->n_runs, begin = item % job->n_runs * job->run, end = begin + job->run;
    end = end < job->w->ne[1] ? end : job->w->ne[1];
    int64_t n_tok = job->first[active + 1] - job->first[active], dealt = n_tok <= STREAM_TOKENS ? job->run : PANEL_ROWS;
    for (int64_t first = begin; first < end; first += dealt) {
        int64_t n = end - first < dealt ? end - first : dealt;
        for (int64_t i = 0; i < (n + PANEL_ROWS - 1) / PANEL_ROWS; i++) {
            struct panel_rows p;
            deal_rows(job, &p, job->matrices[active], first, n, i);
            one_panel(job, s, active, &p);
        }
    }
}

static void run_panels(struct k_ctx *c, struct matmul_job *job)
{
    job->row_bytes = k_row_bytes(job->w->type, (uint64_t)job->w->ne[0]);
    int64_t panels = (job->w->ne[1] + PANEL_ROWS - 1) / PANEL_ROWS;
    int64_t run = panels * job->n_active / (pool_threads(c->pool) * RUNS_PER_THREAD);
    run = run < 1 ? 1 : run > RUN_MAX ? RUN_MAX : run;
    job->n_runs = (panels + run - 1) / run;
    job->run = (panels + job->n_runs - 1) / job->n_runs * PANEL_ROWS; /* all of about one length */
    pool_run(c->pool, run_item, job, job->n_runs * job->n_active);
}

static void quantise_item(void *arg, int thread, int64_t item)
{
    (void)thread;
    const struct matmul_job *job = arg;
    job->isa->quantise(job->x_q + (size_t)item * job->layout.row_bytes, job->x_in + item * job->x_in_stride,
                       job->w->ne[0], &job->layout);
}

static void set_layout(struct matmul_job *job, enum k_precision p)
{
    job->form = p == K_FAST ? k_quant_form(job->w->type) : NULL;
    if (!job->form)
        return;
    struct act_layout *l = &job->layout;
    size_t n = (size_t)job->w->ne[0];
    l->group = job->form->group;
    l->offset = job->form->offset;
    cpu_place(&l->row_bytes, n);
    l->d = cpu_place(&l->row_bytes, n / 32 * sizeof(float));
    l->correction = cpu_place(&l->row_bytes, n / (size_t)l->group * sizeof(int32_t));
    l->minimum = cpu_place(&l->row_bytes, n / (size_t)l->group * sizeof(float));
    l->wide = job->form->bits == 8 && job->isa->wide_bytes == 2 ? cpu_place(&l->row_bytes, n * sizeof(int16_t)) : 0;
}

/* Get memory for n_pairs pairs, n_matrices lists and n_x distinct activation rows, and quantise these. */
static enum k_status prepare(struct k_ctx *c, struct matmul_job *job, int64_t n_pairs, int64_t n_matrices, int64_t n_x,
                             int32_t **matrices, int32_t **first)
{
    size_t bytes = 0, at_x = cpu_place(&bytes, (size_t)n_pairs * sizeof *job->x);
    size_t at_y = cpu_place(&bytes, (size_t)n_pairs * sizeof *job->y);
    size_t at_matrices = cpu_place(&bytes, (size_t)n_matrices * sizeof **matrices);
    size_t at_first = cpu_place(&bytes, (size_t)(n_matrices + 1) * sizeof **first);
    size_t at_q = cpu_place(&bytes, job->form ? (size_t)n_x * job->layout.row_bytes : 0);
    job->scratch_bytes = 0;
    cpu_place(&job->scratch_bytes, sizeof(struct panel_scratch));
    uint8_t *base = cpu_scratch(&c->shared, bytes);
    job->scratch = cpu_scratch(&c->per_thread, job->scratch_bytes * (size_t)pool_threads(c->pool));
    if (!base || !job->scratch)
        return K_NO_MEMORY;
    job->x = (const void **)(base + at_x);
    job->y = (float **)(base + at_y);
    job->matrices = *matrices = (int32_t *)(base + at_matrices);
    job->first = *first = (int32_t *)(base + at_first);
    job->x_q = base + at_q;
    if (job->form)
        pool_run(c->pool, quantise_item, job, n_x);
    return K_OK;
}

/* Row i of the activations as the kernels want it. */
static const void *x_row(const struct matmul_job *job, int64_t i)
{
    return job->form ? (const void *)(job->x_q + (size_t)i * job->layout.row_bytes)
                     : (const void *)(job->x_in + i * job->x_in_stride);
}

enum k_status cpu_matmul(struct k_ctx *c, float *y, const float *x, int64_t x_stride, const struct k_tensor *w,
                         const float *bias, int32_t n_tok, enum k_precision p)
{
    enum k_status status = k_check_matmul(y, x, x_stride, w, n_tok);
    if (status != K_OK || n_tok == 0)
        return status;
    struct matmul_job job = {.isa = c->isa, .w = w, .bias = bias, .x_in = x, .x_in_stride = x_stride, .n_active = 1};
    int32_t *matrices, *first;
    set_layout(&job, p);
    status = prepare(c, &job, n_tok, 1, n_tok, &matrices, &first);
    if (status != K_OK)
        return status;
    matrices[0] = 0;
    first[0] = 0;
    first[1] = n_tok;
    for (int64_t t = 0; t < n_tok; t++) {
        job.x[t] = x_row(&job, t);
        job.y[t] = y + t * w->ne[1];
    }
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
    struct matmul_job job = {.isa = c->isa, .w = w, .x_in = x, .x_in_stride = x_head_stride};
    int32_t *matrices, *first;
    set_layout(&job, p);
    status = prepare(c, &job, n_pairs, n_head, n_pairs, &matrices, &first);
    if (status != K_OK)
        return status;
    job.n_active = (int32_t)n_head;
    for (int64_t h = 0; h < n_head; h++) {
        matrices[h] = (int32_t)h;
        first[h] = (int32_t)(h * n_tok);
        for (int64_t t = 0; t < n_tok; t++) {
            job.x[h * n_tok + t] = x_row(&job, t * n_head + h);
            job.y[h * n_tok + t] = y + (t * n_head + h) * y_head_stride;
        }
    }
    first[n_head] = (int32_t)n_pairs;
    run_panels(c, &job);
    return K_OK;
}

/* Pairs sorted by expert (counting sort). first: n_expert + 1 entries; on return the active experts come first. */
static void group_by_expert(struct matmul_job *job, int32_t *matrices, int32_t *first, float *y, bool x_per_expert,
                            const int32_t *ids, int32_t n_used, int32_t n_pairs)
{
    int32_t n_expert = (int32_t)job->w->ne[2], start = 0;
    memset(matrices, 0, (size_t)n_expert * sizeof *matrices);
    for (int32_t i = 0; i < n_pairs; i++)
        matrices[ids[i]]++; /* counts, for now */
    for (int32_t e = 0; e < n_expert; e++) {
        first[e] = start;
        start += matrices[e];
    }
    for (int32_t i = 0; i < n_pairs; i++) {
        int32_t at = first[ids[i]]++; /* first[e] ends as the start of e + 1 */
        job->x[at] = x_row(job, x_per_expert ? i : i / n_used);
        job->y[at] = y + i * job->w->ne[1];
    }
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

enum k_status cpu_matmul_experts(struct k_ctx *c, float *y, const float *x, bool x_per_expert, const struct k_tensor *w,
                                 const int32_t *ids, int32_t n_used, int32_t n_tok, enum k_precision p)
{
    enum k_status status = k_check_experts(y, x, w, ids, n_used, n_tok);
    if (status != K_OK || n_tok == 0)
        return status;
    struct matmul_job job = {.isa = c->isa, .w = w, .x_in = x, .x_in_stride = w->ne[0]};
    int32_t *matrices, *first, n_pairs = n_tok * n_used;
    set_layout(&job, p);
    status = prepare(c, &job, n_pairs, w->ne[2], x_per_expert ? n_pairs : n_tok, &matrices, &first);
    if (status != K_OK)
        return status;
    group_by_expert(&job, matrices, first, y, x_per_expert, ids, n_used, n_pairs);
    run_panels(c, &job);
    return K_OK;
}
