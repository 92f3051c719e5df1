/* Attention as operations of the table: checks, the step's tokens, the memory for partial results. */
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attention.cuh"

static enum k_status env_of(struct attn_env *env, struct k_ctx *c, const struct k_token_ref *tok, int32_t n_tok)
{
    enum k_status st;
    *env = {};
    env->stream = c->stream, env->n_sm = c->facts.n_sm, env->shared_max = c->facts.shared_max;
    env->part_bytes = ATTN_PART_BYTES, env->fold_bytes = ATTN_FOLD_BYTES, env->early = c->early;
    env->part = (float *)cuda_scratch(c, CUDA_SCRATCH_ATTENTION, env->part_bytes, &st);
    if (st == K_OK)
        env->arrived = cuda_arrived(c, &st);
    return st == K_OK ? cuda_tokens(c, &env->tokens, tok, n_tok) : st;
}

enum k_status cuda_attention_gqa(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                 const struct k_gqa *a, const struct k_token_ref *tok, int32_t n_tok)
{
    struct attn_env env;
    enum k_status st = k_check_gqa(y, q, kv, a, tok, n_tok);
    if (st == K_OK && n_tok > 0)
        st = env_of(&env, c, tok, n_tok);
    return st != K_OK || n_tok == 0 ? st : attention_gqa(&env, y, q, kv, a);
}

enum k_status cuda_attention_mla(struct k_ctx *c, float *y, const float *q, const struct k_kv_pool *kv,
                                 const struct k_mla *a, const struct k_token_ref *tok, int32_t n_tok)
{
    struct attn_env env;
    enum k_status st = k_check_mla(y, q, kv, a, tok, n_tok);
    if (st == K_OK && n_tok > 0)
        st = env_of(&env, c, tok, n_tok);
    return st != K_OK || n_tok == 0 ? st : attention_mla(&env, y, q, kv, a);
}
