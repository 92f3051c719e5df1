/* The two operations of attention: one shape for both, and the kernel that can take it. */
#include "kernels/cuda/attention.cuh"

static struct attn_args args_of(const struct attn_env *env, float *y, const float *q, const struct k_kv_pool *kv)
{
    struct attn_args a = {};
    a.q = q, a.y = y;
    a.kv = (const uint8_t *)kv->data, a.page_stride = kv->page_stride, a.kv_type = kv->type;
    a.row_bytes = (int32_t)k_kv_row_bytes(kv->type, kv->row_elems);
    a.tokens = env->tokens;
    return a;
}

static enum k_status attend(const struct attn_env *env, struct attn_args *a)
{
    a->group = a->n_head / a->n_kv_head;
    enum k_status st = attention_tile_can(a) ? attention_tile(env, a) : K_UNSUPPORTED;
    return st == K_UNSUPPORTED ? attention_plain(env, a) : st;
}

enum k_status attention_gqa(const struct attn_env *env, float *y, const float *q, const struct k_kv_pool *kv,
                            const struct k_gqa *g)
{
    struct attn_args a = args_of(env, y, q, kv);
    a.n_head = g->n_head, a.n_kv_head = g->n_kv_head, a.d_k = g->d_k, a.d_v = g->d_v, a.scale = g->scale;
    a.key_step = g->d_k, a.value_at = g->n_kv_head * g->d_k, a.value_step = g->d_v;
    return attend(env, &a);
}

enum k_status attention_mla(const struct attn_env *env, float *y, const float *q, const struct k_kv_pool *kv,
                            const struct k_mla *m)
{
    struct attn_args a = args_of(env, y, q, kv);
    a.n_head = m->n_head, a.n_kv_head = 1, a.d_k = m->kv_lora + m->d_rope, a.d_v = m->kv_lora, a.scale = m->scale;
    a.latent = true;
    return attend(env, &a);
}
