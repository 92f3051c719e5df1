/* The reference's attention: softmax in two passes over all positions, in double. */
#include "kernels/reference.h"

#include <math.h>
#include <string.h>

/* Where one head's keys and values lie in a row of the pool, in elements. */
struct head_view {
    int32_t key, d_k, value, d_v;
    float scale;
};

static double kv_element(const struct k_kv_pool *kv, const struct k_token_ref *tok, int32_t pos, int32_t i)
{
    const void *row = k_kv_row(kv, tok->page_ids, pos);
    if (kv->type == K_Q8_0) {
        const uint8_t *block = (const uint8_t *)row + k_kv_offset(kv, i);
        uint16_t scale;
        memcpy(&scale, block, sizeof scale);
        return (double)k_f16_to_f32(scale) * (int8_t)block[2 + i % K_Q8_0_ELEMS];
    }
    return (double)(kv->type == K_F16 ? k_f16_to_f32(((const uint16_t *)row)[i]) : ((const float *)row)[i]);
}

/* One head of one token. p: scratch for pos + 1 weights. */
static void attend(float *y, const float *q, const struct k_kv_pool *kv, const struct head_view *v,
                   const struct k_token_ref *tok, double *p)
{
    double max = -INFINITY, sum = 0.0;
    for (int32_t j = 0; j <= tok->pos; j++) {
        p[j] = 0.0;
        for (int32_t i = 0; i < v->d_k; i++)
            p[j] += (double)q[i] * kv_element(kv, tok, j, v->key + i);
        p[j] *= (double)v->scale;
        max = p[j] > max ? p[j] : max;
    }
    for (int32_t j = 0; j <= tok->pos; j++)
        sum += p[j] = exp(p[j] - max);
    for (int32_t i = 0; i < v->d_v; i++) {
        double out = 0.0;
        for (int32_t j = 0; j <= tok->pos; j++)
            out += p[j] * kv_element(kv, tok, j, v->value + i);
        y[i] = (float)(out / sum);
    }
}

static double *weights_scratch(struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok)
{
    int32_t pos_max = 0;
    for (int32_t t = 0; t < n_tok; t++)
        pos_max = tok[t].pos > pos_max ? tok[t].pos : pos_max;
    return reference_scratch(c, ((size_t)pos_max + 1) * sizeof(double));
}

enum k_status reference_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                      const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status status = k_check_gqa(y, q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    double *p = weights_scratch(c, tok, n_tok);
    if (!p)
        return K_NO_MEMORY;
    int32_t group = a->n_head / a->n_kv_head;
    for (int32_t t = 0; t < n_tok; t++)
        for (int32_t h = 0; h < a->n_head; h++) {
            struct head_view v = {h / group * a->d_k, a->d_k, a->n_kv_head * a->d_k + h / group * a->d_v, a->d_v,
                                  a->scale};
            int64_t i = (int64_t)t * a->n_head + h;
            attend(y + i * a->d_v, q + i * a->d_k, kv, &v, &tok[t], p);
        }
    return K_OK;
}

enum k_status reference_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                      const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status status = k_check_mla(y, q, kv, a, tok, n_tok);
    if (status != K_OK)
        return status;
    double *p = weights_scratch(c, tok, n_tok);
    if (!p)
        return K_NO_MEMORY;
    struct head_view v = {0, a->kv_lora + a->d_rope, 0, a->kv_lora, a->scale};
    for (int64_t i = 0; i < (int64_t)n_tok * a->n_head; i++)
        attend(y + i * v.d_v, q + i * v.d_k, kv, &v, &tok[i / a->n_head], p);
    return K_OK;
}
