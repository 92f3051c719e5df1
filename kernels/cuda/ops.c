/* The table. */
#include "kernels/cuda/attention.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul.h"

const struct k_ops k_cuda_ops = {
    .name = "cuda",
    .ctx_new = cuda_ctx_new,
    .ctx_free = cuda_ctx_free,
    .numerics = cuda_numerics,
    .buf_new = cuda_buf_new,
    .buf_free = cuda_buf_free,
    .put = cuda_put,
    .get = cuda_get,
    .send = cuda_send,
    .fetch = cuda_fetch,
    .copy_rows = cuda_copy_rows,
    .put_many = cuda_put_many,
    .memory = cuda_memory,
    .device_text = cuda_device_text,
    .error_text = cuda_error_text,
    .step_begin = cuda_step_begin,
    .step_end = cuda_step_end,
    .host_begin = cuda_host_begin,
    .host_end = cuda_host_end,
    .get_rows = cuda_get_rows,
    .rms_norm = cuda_rms_norm,
    .matmul = cuda_matmul,
    .matmul_heads = cuda_matmul_heads,
    .matmul_experts = cuda_matmul_experts,
    .route = cuda_route,
    .combine_experts = cuda_combine_experts,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .attention_gqa = cuda_attention_gqa,
    .attention_mla = cuda_attention_mla,
    .silu_mul = cuda_silu_mul,
    .add = cuda_add,
    .sample = cuda_sample,
};
