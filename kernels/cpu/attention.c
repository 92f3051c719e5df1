/* Attention of the CPU backend: online softmax over pages of 64 positions (Milakov and Gimelshein, arXiv 1805.02867).
 *
 * An item is some heads of one key head for some neighbouring tokens of one sequence. For each page it packs the keys
 * as a weight panel, multiplies all its queries with it, turns scores into weights with the page's own maximum, weighs
 * the page's values, and folds the page into what it gathered before. Keys and values are read once per item.
 *
 * What one (token, head) gets depends on its query and the rows 0..pos alone: scores by the float kernel's order, sums
 * within a page in order of position, pages in order. A token never touches values past its own position, not even
 * with weight 0, since 0 * infinity is not 0. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

#define ITEM_HEADS  8
#define ITEM_TOKENS 8

/* Both operations in one shape: heads share keys in groups; offsets are in elements of a pool row. */
struct attention_shape {
    int32_t n_head, n_kv_head, d_k, d_v;
    int32_t key_at, value_at; /* of key head 0 */
    int32_t key_step, value_step;
    float scale;
};

struct attention_job {
    const struct isa *isa;
    const struct attention_shape *a;
    const struct k_kv_pool *kv;
    const struct k_token_ref *tok;
    const float *q;
    float *y;
    int64_t n_tiles;       /* head tiles per key head */
    const int32_t *blocks; /* first token of each block; one more than there are */
    uint8_t *scratch;
    size_t scratch_bytes, at[8];
};

/* One thread's buffers. n_query <= ITEM_HEADS * ITEM_TOKENS. */
struct attention_scratch {
    float *wide;      /* [64][max(d_k, d_v), rounded up to whole blocks]: keys or values as float32 */
    float *panels;    /* [4][d_k][16] */
    float *scores;    /* [n_query][64] */
    float *page_out;  /* [n_query][d_v] */
    float *out;       /* [n_query][d_v] */
    float *max, *sum; /* [n_query] */
};

struct item_view {
    int32_t kv_head, head0, n_head, token0, n_tok;
    const float *query[ITEM_HEADS * ITEM_TOKENS];
};

static void set_scratch_sizes(struct attention_job *job)
{
    const struct attention_shape *a = job->a;
    size_t n_query = ITEM_HEADS * ITEM_TOKENS, widest = (size_t)(a->d_k > a->d_v ? a->d_k : a->d_v);
    widest += 2 * (K_Q8_0_ELEMS - 1); /* a head may begin and end inside of a block */
    size_t floats[7] = {
        K_PAGE_TOKENS * widest,
        K_PAGE_TOKENS * (size_t)a->d_k,
        n_query * K_PAGE_TOKENS,
        n_query * (size_t)a->d_v,
        n_query * (size_t)a->d_v,
        n_query,
        n_query,
    };
    for (int i = 0; i < 7; i++)
        job->at[i] = cpu_place(&job->scratch_bytes, floats[i] * sizeof(float));
}

static struct attention_scratch thread_scratch(const struct attention_job *job, int thread)
{
    uint8_t *base = job->scratch + (size_t)thread * job->scratch_bytes;
    return (struct attention_scratch){
        (float *)(base + job->at[0]), (float *)(base + job->at[1]), (float *)(base + job->at[2]),
        (float *)(base + job->at[3]), (float *)(base + job->at[4]), (float *)(base + job->at[5]),
        (float *)(base + job->at[6]),
    };
}

/* The same of blocks: all those that hold any of the elements. */
static int64_t page_blocks(const struct attention_job *job, const uint8_t *page, int32_t at, int32_t n, int32_t count,
                           float *wide, const float **rows)
{
    const struct k_kv_pool *kv = job->kv;
    int32_t begin = at / K_Q8_0_ELEMS * K_Q8_0_ELEMS;
    int32_t width = (at + n - begin + K_Q8_0_ELEMS - 1) / K_Q8_0_ELEMS * K_Q8_0_ELEMS;
    int64_t row_bytes = (int64_t)k_kv_row_bytes(kv->type, kv->row_elems), offset = k_kv_offset(kv, begin);
    for (int32_t j = 0; j < count; j++)
        job->isa->q8_0_to_f32(wide + (int64_t)j * width, page + j * row_bytes + offset, width);
    *rows = wide + (at - begin);
    return width;
}

/* `count` rows of one page from element `at` on, n floats each: where they lie, or widened. Returns floats per row. */
static int64_t page_rows(const struct attention_job *job, const uint8_t *page, int32_t at, int32_t n, int32_t count,
                         float *wide, const float **rows)
{
    if (job->kv->type == K_Q8_0)
        return page_blocks(job, page, at, n, count, wide, rows);
    if (job->kv->type == K_F32) {
        *rows = (const float *)page + at;
        return job->kv->row_elems;
    }
    for (int32_t j = 0; j < count; j++)
        job->isa->f16_to_f32(wide + (int64_t)j * n, (const uint16_t *)page + (int64_t)j * job->kv->row_elems + at, n);
    *rows = wide;
    return n;
}

/* Positions of this page that a token attends to. */
static int32_t valid_rows(const struct k_token_ref *tok, int32_t page)
{
    int32_t n = tok->pos + 1 - page * K_PAGE_TOKENS;
    return n < 0 ? 0 : n > K_PAGE_TOKENS ? K_PAGE_TOKENS : n;
}

static void score_page(const struct attention_job *job, const struct item_view *v, struct attention_scratch *s,
                       const uint8_t *page, int32_t count)
{
    const struct attention_shape *a = job->a;
    int32_t n_query = v->n_tok * v->n_head;
    const float *keys;
    int64_t stride = page_rows(job, page, a->key_at + v->kv_head * a->key_step, a->d_k, count, s->wide, &keys);
    memset(s->scores, 0, (size_t)n_query * K_PAGE_TOKENS * sizeof *s->scores);
    for (int32_t j0 = 0; j0 < count; j0 += PANEL_ROWS) {
        const void *rows[PANEL_ROWS];
        for (int32_t r = 0; r < PANEL_ROWS; r++)
            rows[r] = keys + (j0 + r < count ? j0 + r : count - 1) * stride; /* rows past the end are masked later */
        job->isa->pack((uint32_t *)s->panels, rows, a->d_k);
        job->isa->gemm_f(s->scores + j0, K_PAGE_TOKENS, s->panels, v->query, n_query, 0, a->d_k);
    }
}

/* Values of one page for all queries: neighbours that see equally many rows share the loads. */
static void weigh_page(const struct attention_job *job, const struct item_view *v, struct attention_scratch *s,
                       const uint8_t *page, int32_t page_index, int32_t count)
{
    const struct attention_shape *a = job->a;
    const float *values;
    int64_t stride = page_rows(job, page, a->value_at + v->kv_head * a->value_step, a->d_v, count, s->wide, &values);
    memset(s->page_out, 0, (size_t)(v->n_tok * v->n_head) * (size_t)a->d_v * sizeof *s->page_out);
    for (int32_t t = 0, end; t < v->n_tok; t = end) {
        int32_t n = valid_rows(&job->tok[v->token0 + t], page_index);
        for (end = t + 1; end < v->n_tok && valid_rows(&job->tok[v->token0 + end], page_index) == n; end++)
            ;
        int64_t i = t * v->n_head;
        if (n)
            job->isa->weigh(s->page_out + i * a->d_v, a->d_v, s->scores + i * K_PAGE_TOKENS, (end - t) * v->n_head,
                            values, stride, 0, n, a->d_v);
    }
}

static void fold_page(const struct attention_job *job, const struct item_view *v, struct attention_scratch *s,
                      int32_t page_index)
{
    const struct attention_shape *a = job->a;
    int32_t count = 0;
    for (int32_t t = 0; t < v->n_tok; t++) {
        int32_t n = valid_rows(&job->tok[v->token0 + t], page_index);
        count = n > count ? n : count;
    }
    const uint8_t *page = k_kv_row(job->kv, job->tok[v->token0].page_ids, page_index * K_PAGE_TOKENS);
    float page_max[ITEM_HEADS * ITEM_TOKENS] = {0}, page_sum[ITEM_HEADS * ITEM_TOKENS] = {0};
    score_page(job, v, s, page, count);
    for (int32_t i = 0; i < v->n_tok * v->n_head; i++) {
        int32_t n = valid_rows(&job->tok[v->token0 + i / v->n_head], page_index);
        if (n)
            job->isa->softmax_page(s->scores + i * K_PAGE_TOKENS, n, a->scale, &page_max[i], &page_sum[i]);
    }
    weigh_page(job, v, s, page, page_index, count);
    for (int32_t i = 0; i < v->n_tok * v->n_head; i++)
        if (valid_rows(&job->tok[v->token0 + i / v->n_head], page_index))
            job->isa->merge(s->out + (int64_t)i * a->d_v, &s->max[i], &s->sum[i], s->page_out + (int64_t)i * a->d_v,
                            page_max[i], page_sum[i], a->d_v);
}

static void attention_item(void *arg, int thread, int64_t item)
{
    const struct attention_job *job = arg;
    const struct attention_shape *a = job->a;
    struct attention_scratch s = thread_scratch(job, thread);
    int32_t group = a->n_head / a->n_kv_head;
    int64_t block = item / (job->n_tiles * a->n_kv_head), rest = item % (job->n_tiles * a->n_kv_head);
    int32_t tile = (int32_t)(rest % job->n_tiles) * ITEM_HEADS;
    struct item_view v = {.kv_head = (int32_t)(rest / job->n_tiles), .token0 = job->blocks[block]};
    v.head0 = v.kv_head * group + tile;
    v.n_head = group - tile < ITEM_HEADS ? group - tile : ITEM_HEADS;
    v.n_tok = job->blocks[block + 1] - v.token0;
    int32_t n_query = v.n_tok * v.n_head, last = 0;
    for (int32_t i = 0; i < n_query; i++) {
        int64_t row = (int64_t)(v.token0 + i / v.n_head) * a->n_head + v.head0 + i % v.n_head;
        v.query[i] = job->q + row * a->d_k;
        s.max[i] = -INFINITY;
        s.sum[i] = 0.0f;
    }
    memset(s.out, 0, (size_t)n_query * (size_t)a->d_v * sizeof *s.out);
    for (int32_t t = 0; t < v.n_tok; t++)
        last = job->tok[v.token0 + t].pos > last ? job->tok[v.token0 + t].pos : last;
    for (int32_t page = 0; page <= last / K_PAGE_TOKENS; page++)
        fold_page(job, &v, &s, page);
    for (int32_t i = 0; i < n_query; i++) {
        float *y = job->y + ((int64_t)(v.token0 + i / v.n_head) * a->n_head + v.head0 + i % v.n_head) * a->d_v;
        for (int32_t j = 0; j < a->d_v; j++)
            y[j] = s.out[(int64_t)i * a->d_v + j] / s.sum[i];
    }
}

/* Cut the tokens where the sequence changes and every ITEM_TOKENS. Returns the number of blocks. */
static int32_t cut_blocks(int32_t *blocks, const struct k_token_ref *tok, int32_t n_tok)
{
    int32_t n = 0;
    for (int32_t t = 0; t < n_tok; t++)
        if (n == 0 || t - blocks[n - 1] == ITEM_TOKENS || tok[t].page_ids != tok[t - 1].page_ids)
            blocks[n++] = t;
    blocks[n] = n_tok;
    return n;
}

static enum k_status attend(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                            const struct attention_shape *a, const struct k_token_ref *tok, int32_t n_tok)
{
    struct attention_job job = {.isa = c->isa, .a = a, .kv = kv, .tok = tok, .q = q, .y = y};
    int32_t *blocks = cpu_scratch(&c->shared, ((size_t)n_tok + 1) * sizeof *blocks);
    set_scratch_sizes(&job);
    job.scratch = cpu_scratch(&c->per_thread, job.scratch_bytes * (size_t)pool_threads(c->pool));
    if (!blocks || !job.scratch)
        return K_NO_MEMORY;
    int32_t n_blocks = cut_blocks(blocks, tok, n_tok);
    job.blocks = blocks;
    job.n_tiles = (a->n_head / a->n_kv_head + ITEM_HEADS - 1) / ITEM_HEADS;
    pool_run(c->pool, attention_item, &job, n_blocks * job.n_tiles * a->n_kv_head);
    return K_OK;
}

enum k_status cpu_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status status = k_check_gqa(y, q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    struct attention_shape shape = {
        a->n_head, a->n_kv_head, a->d_k, a->d_v, 0, a->n_kv_head * a->d_k, a->d_k, a->d_v, a->scale,
    };
    return attend(c, y, q, kv, &shape, tok, n_tok);
}

enum k_status cpu_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status status = k_check_mla(y, q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    struct attention_shape shape = {a->n_head, 1, a->kv_lora + a->d_rope, a->kv_lora, 0, 0, 0, 0, a->scale};
    return attend(c, y, q, kv, &shape, tok, n_tok);
}
