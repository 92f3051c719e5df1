/* The reference backend: every operation in its plainest form, in double, one thread. It defines what is right; nothing
 * here is meant to be fast. Attention is in reference_attention.c. */
#include "kernels/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct k_ctx *reference_ctx_new(int threads, int device)
{
    (void)threads, (void)device;
    return calloc(1, sizeof(struct k_ctx));
}

static void reference_ctx_free(struct k_ctx *c)
{
    if (!c)
        return;
    free(c->scratch);
    free(c);
}

static const char *reference_numerics(const struct k_ctx *c)
{
    (void)c;
    return "reference-f64-1";
}

void *reference_scratch(struct k_ctx *c, size_t bytes)
{
    if (bytes > c->scratch_bytes) {
        free(c->scratch);
        c->scratch = malloc(bytes);
        c->scratch_bytes = c->scratch ? bytes : 0;
    }
    return c->scratch;
}

static const uint8_t *weight_row(const struct k_tensor *w, int64_t matrix, int64_t row)
{
    return (const uint8_t *)w->data + (size_t)(matrix * w->ne[1] + row) * k_row_bytes(w->type, (uint64_t)w->ne[0]);
}

/* w[:, :, matrix] . x -> y[ne1], with row as scratch for ne0 floats. */
static void matvec(float *y, const float *x, const struct k_tensor *w, int64_t matrix, const float *bias, float *row)
{
    for (int64_t r = 0; r < w->ne[1]; r++) {
        k_dequantise(row, weight_row(w, matrix, r), w->type, w->ne[0]);
        double sum = 0.0;
        for (int64_t i = 0; i < w->ne[0]; i++)
            sum += (double)row[i] * (double)x[i];
        y[r] = (float)(bias ? sum + (double)bias[r] : sum);
    }
}

static enum k_status reference_get_rows(struct k_ctx *c, float *y, const struct k_tensor *w, const int32_t *ids,
                                        int32_t n_tok)
{
    (void)c;
    enum k_status status = k_check_get_rows(y, w, ids, n_tok);
    for (int32_t t = 0; status == K_OK && t < n_tok; t++)
        status = k_dequantise(y + t * w->ne[0], weight_row(w, 0, ids[t]), w->type, w->ne[0]);
    return status;
}

static enum k_status reference_rms_norm(struct k_ctx *c, float *y, const float *x, const float *w, int64_t rows,
                                        int32_t dim, int32_t stride, float eps)
{
    (void)c;
    enum k_status status = k_check_norm(y, x, w, rows, dim, stride);
    for (int64_t r = 0; status == K_OK && r < rows; r++) {
        double sum = 0.0;
        for (int32_t i = 0; i < dim; i++)
            sum += (double)x[r * stride + i] * (double)x[r * stride + i];
        double scale = 1.0 / sqrt(sum / dim + (double)eps);
        for (int32_t i = 0; i < dim; i++)
            y[r * stride + i] = (float)((double)x[r * stride + i] * scale * (double)w[i]);
    }
    return status;
}

static float silu_times(float gate, float up)
{
    return (float)((double)gate / (1.0 + exp(-(double)gate)) * (double)up);
}

/* One row of a product, with room for ne0 and (gated) ne1 floats more. */
static void product_row(const struct k_product *p, int64_t y_row, const float *x, int64_t matrix, float *room)
{
    const int64_t m = p->w->ne[1];
    float *y = p->y + y_row * m, *up = room + p->w->ne[0];
    matvec(y, x, p->w, matrix, p->bias, room);
    if (!p->up)
        return;
    matvec(up, x, p->up, matrix, NULL, room);
    for (int64_t i = 0; i < m; i++)
        y[i] = silu_times(y[i], up[i]);
}

static float *product_room(struct k_ctx *c, const struct k_product *p)
{
    return reference_scratch(c, (size_t)(p->w->ne[0] + (p->up ? p->w->ne[1] : 0)) * sizeof(float));
}

static enum k_status reference_matmul(struct k_ctx *c, const struct k_product *products, int32_t n, const float *x,
                                      int64_t x_stride, int32_t n_tok, enum k_precision p)
{
    (void)p; /* the reference is always precise */
    enum k_status status = k_check_matmul(products, n, x, x_stride, n_tok);
    for (int32_t i = 0; status == K_OK && i < n; i++) {
        float *room = product_room(c, &products[i]);
        if (!room)
            return K_NO_MEMORY;
        for (int32_t t = 0; t < n_tok; t++)
            product_row(&products[i], t, x + t * x_stride, 0, room);
    }
    return status;
}

static enum k_status reference_matmul_heads(struct k_ctx *c, float *y, int32_t y_head_stride, const float *x,
                                            int32_t x_head_stride, const struct k_tensor *w, int32_t n_tok,
                                            enum k_precision p)
{
    (void)p;
    enum k_status status = k_check_heads(y, y_head_stride, x, x_head_stride, w, n_tok);
    if (status != K_OK)
        return status;
    float *row = reference_scratch(c, (size_t)w->ne[0] * sizeof *row);
    if (!row)
        return K_NO_MEMORY;
    for (int32_t t = 0; t < n_tok; t++)
        for (int64_t h = 0; h < w->ne[2]; h++) {
            int64_t i = t * w->ne[2] + h;
            matvec(y + i * y_head_stride, x + i * x_head_stride, w, h, NULL, row);
        }
    return K_OK;
}

static enum k_status reference_matmul_experts(struct k_ctx *c, const struct k_product *product, const float *x,
                                              bool x_per_expert, const int32_t *ids, int32_t n_used, int32_t n_tok,
                                              enum k_precision p)
{
    (void)p;
    enum k_status status = k_check_experts(product, x, ids, n_used, n_tok);
    if (status != K_OK)
        return status;
    float *room = product_room(c, product);
    if (!room)
        return K_NO_MEMORY;
    for (int32_t i = 0; i < n_tok * n_used; i++)
        product_row(product, i, x + (x_per_expert ? i : i / n_used) * product->w->ne[0], ids[i], room);
    return K_OK;
}

static enum k_status reference_route(struct k_ctx *c, int32_t *ids, float *weights, const float *logits,
                                     const struct k_router *r, int32_t n_tok)
{
    enum k_status status = k_check_route(ids, weights, logits, r, n_tok);
    if (status != K_OK)
        return status;
    float *scores = reference_scratch(c, 2 * (size_t)r->n_expert * sizeof *scores);
    if (!scores)
        return K_NO_MEMORY;
    for (int64_t t = 0; t < n_tok; t++)
        k_route_token(ids + t * r->n_used, weights + t * r->n_used, logits + t * r->n_expert, r, scores);
    return K_OK;
}

static enum k_status reference_combine_experts(struct k_ctx *c, float *y, const float *x, const float *weights,
                                               int32_t n_used, int32_t dim, int32_t n_tok)
{
    (void)c;
    enum k_status status = k_check_combine(y, x, weights, n_used, dim, n_tok);
    for (int64_t t = 0; status == K_OK && t < n_tok; t++)
        for (int32_t i = 0; i < dim; i++) {
            double sum = (double)y[t * dim + i];
            for (int64_t j = t * n_used; j < (t + 1) * n_used; j++)
                sum += (double)weights[j] * (double)x[j * dim + i];
            y[t * dim + i] = (float)sum;
        }
    return status;
}

static void rotate_head(float *x, int32_t pos, const struct k_rope *r)
{
    int32_t half = r->d_rope / 2;
    for (int32_t i = 0; i < half; i++) {
        double angle = (double)pos * (double)r->inv_freq[i];
        double cosine = cos(angle) * (double)r->magnitude, sine = sin(angle) * (double)r->magnitude;
        float *a = r->style == K_ROPE_NEOX ? &x[i] : &x[2 * i];
        float *b = r->style == K_ROPE_NEOX ? &x[i + half] : &x[2 * i + 1];
        double va = (double)*a, vb = (double)*b;
        *a = (float)(va * cosine - vb * sine);
        *b = (float)(va * sine + vb * cosine);
    }
}

static enum k_status reference_rope(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                                    const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r)
{
    (void)c;
    enum k_status status = k_check_rope(x, row_stride, n_head, head_stride, tok, n_tok, r);
    for (int32_t t = 0; status == K_OK && t < n_tok; t++)
        for (int32_t h = 0; h < n_head; h++)
            rotate_head(x + t * row_stride + (int64_t)h * head_stride + r->offset, tok[t].pos, r);
    return status;
}

static enum k_status reference_kv_store(struct k_ctx *c, const struct k_kv_pool *kv, const float *rows, int64_t stride,
                                        int32_t offset, int32_t n, const struct k_token_ref *tok, int32_t n_tok)
{
    (void)c;
    enum k_status status = k_check_store(kv, rows, stride, offset, n, tok, n_tok);
    for (int32_t t = 0; status == K_OK && t < n_tok; t++) {
        const float *row = rows + t * stride;
        void *out = k_kv_row(kv, tok[t].page_ids, tok[t].pos);
        if (kv->type == K_Q8_0)
            k_kv_quantise((uint8_t *)out + k_kv_offset(kv, offset), row, n);
        else if (kv->type == K_F32)
            memcpy((float *)out + offset, row, (size_t)n * sizeof *row);
        else
            for (int32_t i = 0; i < n; i++)
                ((uint16_t *)out)[offset + i] = k_f32_to_f16(row[i]);
    }
    return status;
}

static enum k_status reference_silu_mul(struct k_ctx *c, float *y, const float *gate, const float *up, int64_t n)
{
    (void)c;
    enum k_status status = k_check_values(y, gate, up, n);
    for (int64_t i = 0; status == K_OK && i < n; i++)
        y[i] = silu_times(gate[i], up[i]);
    return status;
}

static enum k_status reference_add(struct k_ctx *c, float *y, const float *x, int64_t n)
{
    (void)c;
    enum k_status status = k_check_values(y, x, x, n);
    for (int64_t i = 0; status == K_OK && i < n; i++)
        y[i] += x[i];
    return status;
}

const struct k_ops k_reference_ops = {
    .name = "reference",
    .ctx_new = reference_ctx_new,
    .ctx_free = reference_ctx_free,
    .numerics = reference_numerics,
    .buf_new = k_host_buf_new,
    .buf_free = k_host_buf_free,
    .put = k_host_put,
    .get = k_host_put,
    .send = k_host_put,
    .fetch = k_host_put,
    .copy_rows = k_host_copy_rows,
    .step_begin = k_host_step_begin,
    .step_end = k_host_step_end,
    .get_rows = reference_get_rows,
    .rms_norm = reference_rms_norm,
    .matmul = reference_matmul,
    .matmul_heads = reference_matmul_heads,
    .matmul_experts = reference_matmul_experts,
    .route = reference_route,
    .combine_experts = reference_combine_experts,
    .rope = reference_rope,
    .kv_store = reference_kv_store,
    .attention_gqa = reference_attention_gqa,
    .attention_mla = reference_attention_mla,
    .silu_mul = reference_silu_mul,
    .add = reference_add,
};
