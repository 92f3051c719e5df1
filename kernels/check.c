/* What an operation refuses before it touches memory. Sizes come from model files in the end, so every check answers
 * with a status; none asserts. Pages, positions' pages and expert ids are the caller's to guarantee. */
#include "kernels/internal.h"

#define DIM_MAX (1 << 24) /* keeps every product below in int64 and every row in int32 */

static bool aligned(const void *p, size_t to)
{
    return p && (uintptr_t)p % to == 0;
}

static bool dims_ok(int64_t a, int64_t b, int64_t c)
{
    return a > 0 && b > 0 && c > 0 && a <= DIM_MAX && b <= DIM_MAX && c <= DIM_MAX;
}

static enum k_status check_tensor(const struct k_tensor *w)
{
    const struct k_type_info *info = w ? k_type_info(w->type) : NULL;
    if (!info || !info->supported)
        return w ? K_UNSUPPORTED : K_BAD_SHAPE;
    /* GGUF aligns tensors to 32 bytes; blocks are read as bytes, floats as what they are. */
    size_t align = w->type == K_F32 ? 4 : w->type == K_F16 || w->type == K_BF16 ? 2 : 1;
    bool ok = aligned(w->data, align) && dims_ok(w->ne[0], w->ne[1], w->ne[2]) && w->ne[3] == 1 &&
              w->ne[0] % info->block_elems == 0;
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_get_rows(const void *y, const struct k_tensor *w, const int32_t *ids, int32_t n_tok)
{
    enum k_status status = check_tensor(w);
    if (status != K_OK)
        return status;
    return aligned(y, 4) && aligned(ids, 4) && n_tok >= 0 && w->ne[2] == 1 ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_norm(const void *y, const void *x, const void *w, int64_t rows, int32_t dim, int32_t stride)
{
    bool ok = aligned(y, 4) && aligned(x, 4) && aligned(w, 4) && rows >= 0 && dim > 0 && stride >= dim;
    return ok ? K_OK : K_BAD_SHAPE;
}

/* But for how many matrices there are. */
static enum k_status check_product(const struct k_product *p)
{
    enum k_status status = check_tensor(p->w);
    if (status == K_OK && p->up)
        status = check_tensor(p->up);
    if (status != K_OK)
        return status;
    bool ok = aligned(p->y, 4) && (!p->bias || aligned(p->bias, 4));
    if (p->up)
        ok &= !p->bias && p->up->ne[0] == p->w->ne[0] && p->up->ne[1] == p->w->ne[1] && p->up->ne[2] == p->w->ne[2];
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_matmul(const struct k_product *products, int32_t n, const void *x, int64_t x_stride,
                             int32_t n_tok)
{
    if (!products || n < 1 || n > K_PRODUCTS_MAX || !aligned(x, 4) || n_tok < 0)
        return K_BAD_SHAPE;
    for (int32_t i = 0; i < n; i++) {
        enum k_status status = check_product(&products[i]);
        if (status != K_OK)
            return status;
        const struct k_tensor *w = products[i].w;
        if (w->ne[0] != products[0].w->ne[0] || w->ne[2] != 1 || (n_tok > 1 && x_stride < w->ne[0]))
            return K_BAD_SHAPE;
    }
    return K_OK;
}

enum k_status k_check_heads(const void *y, int32_t y_head_stride, const void *x, int32_t x_head_stride,
                            const struct k_tensor *w, int32_t n_tok)
{
    enum k_status status = check_tensor(w);
    if (status != K_OK)
        return status;
    bool ok = aligned(y, 4) && aligned(x, 4) && n_tok >= 0 && x_head_stride >= w->ne[0] && y_head_stride >= w->ne[1];
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_experts(const struct k_product *product, const void *x, const int32_t *ids, int32_t n_used,
                              int32_t n_tok)
{
    enum k_status status = product ? check_product(product) : K_BAD_SHAPE;
    if (status != K_OK)
        return status;
    bool ok = !product->bias && aligned(x, 4) && aligned(ids, 4) && n_tok >= 0 && n_used > 0 &&
              n_used <= product->w->ne[2] && (int64_t)n_tok * n_used <= INT32_MAX;
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_route(const void *ids, const void *weights, const void *logits, const struct k_router *r,
                            int32_t n_tok)
{
    if (!aligned(ids, 4) || !aligned(weights, 4) || !aligned(logits, 4) || !r || n_tok < 0)
        return K_BAD_SHAPE;
    if (r->gating != K_GATE_SOFTMAX && r->gating != K_GATE_SIGMOID)
        return K_UNSUPPORTED;
    if (r->n_expert <= 0 || r->n_expert > DIM_MAX || r->n_used <= 0 || r->n_used > r->n_expert)
        return K_BAD_SHAPE;
    if (r->n_group <= 1)
        return K_OK;
    /* The kept groups must hold enough experts to choose from. */
    bool ok = r->n_expert % r->n_group == 0 && r->n_group_used > 0 && r->n_group_used <= r->n_group &&
              r->n_group_used * (r->n_expert / r->n_group) >= r->n_used;
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_combine(const void *y, const void *x, const void *weights, int32_t n_used, int32_t dim,
                              int32_t n_tok)
{
    bool ok = aligned(y, 4) && aligned(x, 4) && aligned(weights, 4) && n_used > 0 && dim > 0 && n_tok >= 0;
    return ok ? K_OK : K_BAD_SHAPE;
}

static bool tokens_ok(const struct k_token_ref *tok, int32_t n_tok)
{
    if (!tok || n_tok < 0)
        return false;
    for (int32_t t = 0; t < n_tok; t++)
        if (tok[t].pos < 0)
            return false;
    return true;
}

enum k_status k_check_rope(const void *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                           const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r)
{
    if (!aligned(x, 4) || !r || !aligned(r->inv_freq, 4) || !tokens_ok(tok, n_tok))
        return K_BAD_SHAPE;
    if (r->style != K_ROPE_INTERLEAVED && r->style != K_ROPE_NEOX)
        return K_UNSUPPORTED;
    bool ok = r->d_rope > 0 && r->d_rope % 2 == 0 && r->offset >= 0 && n_head > 0 &&
              (int64_t)r->offset + r->d_rope <= (n_head > 1 ? head_stride : row_stride) &&
              (n_tok <= 1 || row_stride >= (int64_t)(n_head - 1) * head_stride + r->offset + r->d_rope);
    return ok ? K_OK : K_BAD_SHAPE;
}

static bool pool_ok(const struct k_kv_pool *kv)
{
    if (!kv || (kv->type != K_F32 && kv->type != K_F16 && kv->type != K_Q8_0) || kv->row_elems <= 0 ||
        kv->row_elems > DIM_MAX)
        return false;
    return aligned(kv->data, 4) && kv->page_stride % (kv->type == K_F32 ? 4 : 2) == 0 &&
           kv->page_stride >= (int64_t)(K_PAGE_TOKENS * k_kv_row_bytes(kv->type, kv->row_elems));
}

static bool pages_ok(const struct k_token_ref *tok, int32_t n_tok)
{
    if (!tokens_ok(tok, n_tok))
        return false;
    for (int32_t t = 0; t < n_tok; t++)
        if (!aligned(tok[t].page_ids, 4))
            return false;
    return true;
}

enum k_status k_check_store(const struct k_kv_pool *kv, const void *rows, int64_t stride, int32_t offset, int32_t n,
                            const struct k_token_ref *tok, int32_t n_tok)
{
    bool ok =
        pool_ok(kv) && aligned(rows, 4) && pages_ok(tok, n_tok) && offset >= 0 && n > 0 &&
        n <= kv->row_elems - offset && (n_tok <= 1 || stride >= n) &&
        (kv->type != K_Q8_0 || (offset % K_Q8_0_ELEMS == 0 && (n % K_Q8_0_ELEMS == 0 || offset + n == kv->row_elems)));
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_gqa(const void *y, const void *q, const struct k_kv_pool *kv, const struct k_gqa *a,
                          const struct k_token_ref *tok, int32_t n_tok)
{
    if (!aligned(y, 4) || !aligned(q, 4) || !pool_ok(kv) || !a || !pages_ok(tok, n_tok))
        return K_BAD_SHAPE;
    bool ok = dims_ok(a->n_head, a->n_kv_head, 1) && dims_ok(a->d_k, a->d_v, 1) && a->n_head % a->n_kv_head == 0 &&
              kv->row_elems == (int64_t)a->n_kv_head * (a->d_k + a->d_v);
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_mla(const void *y, const void *q, const struct k_kv_pool *kv, const struct k_mla *a,
                          const struct k_token_ref *tok, int32_t n_tok)
{
    if (!aligned(y, 4) || !aligned(q, 4) || !pool_ok(kv) || !a || !pages_ok(tok, n_tok))
        return K_BAD_SHAPE;
    bool ok = dims_ok(a->n_head, a->kv_lora, 1) && a->d_rope >= 0 && a->d_rope <= DIM_MAX &&
              kv->row_elems == a->kv_lora + a->d_rope;
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_place_gqa(const struct k_kv_pool *kv, const struct k_gqa_rows *rows, const struct k_gqa *a,
                                const struct k_rope *r, const struct k_token_ref *tok, int32_t n_tok)
{
    if (!rows || !r || r->offset != 0)
        return K_BAD_SHAPE;
    enum k_status status = k_check_gqa(rows->v, rows->q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    const int64_t keys = (int64_t)a->n_kv_head * a->d_k;
    status = k_check_rope(rows->q, (int64_t)a->n_head * a->d_k, a->n_head, a->d_k, tok, n_tok, r);
    if (status == K_OK)
        status = k_check_rope(rows->k, keys, a->n_kv_head, a->d_k, tok, n_tok, r);
    if (status == K_OK)
        status = k_check_store(kv, rows->k, keys, 0, (int32_t)keys, tok, n_tok);
    return status != K_OK ? status
                          : k_check_store(kv, rows->v, (int64_t)a->n_kv_head * a->d_v, (int32_t)keys,
                                          a->n_kv_head * a->d_v, tok, n_tok);
}

enum k_status k_check_place_mla(const struct k_kv_pool *kv, const struct k_mla_rows *rows, const struct k_mla *a,
                                const struct k_rope *r, const struct k_token_ref *tok, int32_t n_tok)
{
    if (!rows || !r || !a || a->d_rope != r->d_rope || rows->d_q != r->offset + r->d_rope)
        return K_BAD_SHAPE;
    enum k_status status = k_check_mla(rows->q_abs, rows->q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    const int32_t wide = a->kv_lora + a->d_rope;
    status = k_check_norm(rows->k, rows->k, rows->norm, n_tok, a->kv_lora, wide);
    if (status == K_OK)
        status = k_check_rope(rows->q, (int64_t)a->n_head * rows->d_q, a->n_head, rows->d_q, tok, n_tok, r);
    return status != K_OK ? status : k_check_store(kv, rows->k, wide, 0, wide, tok, n_tok);
}

enum k_status k_check_copy(const void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t rows, int32_t n)
{
    bool ok = aligned(y, 4) && aligned(x, 4) && rows >= 0 && n > 0 && y_stride >= n && x_stride >= n;
    return ok ? K_OK : K_BAD_SHAPE;
}

enum k_status k_check_values(const void *y, const void *a, const void *b, int64_t n)
{
    return aligned(y, 4) && aligned(a, 4) && aligned(b, 4) && n >= 0 ? K_OK : K_BAD_SHAPE;
}
