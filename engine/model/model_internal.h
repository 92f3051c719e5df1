/* Inside of a model, shared by the files of this folder: what was read from the file's keys (hparams.c, rope.c), the
 * tensors bound to their places (weights.c), an engine's buffers (engine.c), sequences and their pages (seq.c), and
 * the computation itself (graph.c). */
#ifndef ENGINE_MODEL_MODEL_INTERNAL_H
#define ENGINE_MODEL_MODEL_INTERNAL_H

#include "engine/model/model.h"
#include "engine/model/prefix.h"

#define MODEL_MAGIC  0x4c444f4du /* "MODL" */
#define ENGINE_MAGIC 0x4e474e45u /* "ENGN" */
#define SEQ_MAGIC    0x53514553u

enum arch { ARCH_LLAMA, ARCH_QWEN2, ARCH_QWEN3, ARCH_QWEN3MOE, ARCH_DEEPSEEK2 };

/* The shape of a model. All of it is bounded by hparams_read(), so that products of any two fields fit int64 with
 * room to spare and no divisor is zero. */
struct hparams {
    enum arch arch;
    char arch_name[32];
    int32_t n_layer, n_embd, n_head, n_kv_head, n_ff, n_vocab, n_ctx_train;
    int32_t d_k, d_v; /* per head, as the softmax sees them (MLA: before absorption) */
    float eps;
    float attn_scale;
    bool qk_norm; /* each head of q and k is normed before rope (qwen3) */

    bool mla;
    int32_t q_lora, kv_lora; /* q_lora 0: queries are projected directly */

    int32_t n_expert, n_used, n_shared, n_ff_exp; /* n_expert 0: dense */
    int32_t n_dense_lead;                         /* layers before the first with experts */
    struct k_router router;                       /* bias is set per layer */

    struct k_rope rope; /* inv_freq points to inv_freq_owned */
    float *inv_freq_owned;
};

/* Weights of one layer. A tensor that the architecture lacks has data NULL. */
struct layer {
    const float *attn_norm, *ffn_norm;
    struct k_tensor wq, wk, wv, wo;
    const float *bq, *bk, *bv;
    const float *q_norm, *k_norm;

    struct k_tensor wq_a, wq_b, wkv_a; /* MLA */
    const float *q_a_norm, *kv_a_norm;
    struct k_tensor wk_b; /* [d_nope, kv_lora, n_head]: absorbs a query into the latent space */
    struct k_tensor wv_b; /* [kv_lora, d_v, n_head]: expands a latent output */

    struct k_tensor gate, up, down;                /* dense; or the shared experts of a MoE layer */
    struct k_tensor router;                        /* data NULL: a dense layer */
    const float *router_bias;                      /* or NULL */
    struct k_tensor gate_exps, up_exps, down_exps; /* stacks of n_expert */
};

struct model {
    uint32_t magic;
    struct gguf *gguf; /* owned */
    char *path;        /* owned; for messages */
    struct hparams hp;
    struct model_info info;
    struct k_tensor embd, output;
    const float *output_norm;
    struct layer *layers; /* owned, n_layer */
    void **owned;         /* buffers made at load (converted vectors, split kv_b) */
    size_t n_owned;
};

/* Read and check the keys. Messages are prefixed with the path. hparams_fini() is safe on zeroed storage. */
enum rc hparams_read(struct hparams *hp, const struct gguf *g, const char *path, struct error *e) SPW_MUST_USE;
void hparams_fini(struct hparams *hp);
/* The most numbers that a token has between the two products of a feed-forward block: its chosen experts' together. */
int64_t hparams_hidden(const struct hparams *hp);

/* What the keys say about rotary embedding, before it is turned into frequencies. */
enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN };
struct rope_params {
    enum rope_scaling scaling;
    int32_t d_rope;
    double base, factor, n_ctx_orig, beta_fast, beta_slow;
    const float *divisors; /* rope_freqs.weight, d_rope/2, or NULL */
};
/* inv[d_rope / 2]. */
void rope_frequencies(float *inv, const struct rope_params *p);

enum rc weights_bind(struct model *m, struct error *e) SPW_MUST_USE;
enum rc model_set_identity(struct model *m, struct error *e) SPW_MUST_USE; /* info.sha256 */

/* What operations read, as the backend wants it: the model's own, or copies in a backend's memory (place.c). */
struct weights {
    struct k_tensor embd, output;
    const float *output_norm;
    struct layer *layers; /* [n_layer] */
    struct k_rope rope;
};

struct seq {
    uint32_t magic;
    struct engine *en; /* NULL: free */
    int32_t *pages;    /* owned by the engine: pages_max of them */
    int32_t n_pages, len;
    int32_t n_known; /* of its pages, the first: they are in the prefix tree, and may be others', too */
    bool in_step;    /* while engine_step() looks for a sequence that comes twice */
};

/* One allocation of work memory for all buffers of a step, planned for max_batch_tokens (T). Rows are tokens. */
struct scratch {
    float *x;        /* [T, n_embd] residual stream */
    float *h;        /* [T, n_embd] normed input of a block */
    float *q;        /* [T, n_head * d_k] */
    float *k, *v;    /* [T, n_kv_head * d_k], [T, n_kv_head * d_v]; MLA: k is [T, kv_lora + d_rope] */
    float *q_a;      /* [T, q_lora] */
    float *q_abs;    /* [T, n_head * (kv_lora + d_rope)] */
    float *lat;      /* [T, n_head * kv_lora] */
    float *att;      /* [T, n_head * d_v] */
    float *o;        /* [T, n_embd] a block's output */
    float *gate;     /* [T, max(n_ff, n_used * n_ff_exp, n_shared * n_ff_exp)] */
    float *shared;   /* [T, n_shared * n_ff_exp] where ops has moe(), else none */
    float *exp_out;  /* [T, n_used, n_embd] */
    float *rt_logit; /* [T, n_expert] */
    float *rt_w;     /* [T, n_used] */
    int32_t *rt_id;  /* [T, n_used] */
    float *last;     /* [T, n_embd] rows that go on to the end */
    float *logits;   /* [logit_rows, n_vocab] */
    int32_t *ids;    /* [T] tokens */
    int32_t *rows;   /* [T] which rows go on to the end */
    int32_t *counts; /* [2] tokens of this step, and rows that go on to the end */
};

/* Hands out places in one allocation, one after the other: once without a base, to add up the sizes. */
struct carver {
    uint8_t *base; /* NULL in the first pass */
    size_t used;
    bool fits;
};
void *carve(struct carver *c, int64_t rows, int64_t elems); /* elements of four bytes */

/* Pages in the host's memory (kv_store.c). */
struct kv_store {
    int32_t max, n, per_chunk, n_chunks; /* slots: most, there are; chunks of them */
    void **chunks;                       /* owned, K_BUF_HOST memory */
    uint64_t spilled, returned;
};

/* Experts that the host computes beside a device (host_experts.c). */
struct host_experts {
    int32_t wanted; /* of struct placement_need: host_layers */
    int32_t first;  /* layers from here on; n_layer: none */
    uint64_t bytes; /* of these experts */
    const struct k_ops *ops;
    struct k_ctx *ctx;
    struct host_state *state; /* owned; NULL: there are none */
};

struct engine {
    uint32_t magic;
    const struct model *m;
    const struct k_ops *ops;
    struct k_ctx *ctx;
    bool on_device; /* work memory is not the host's */
    struct host_experts host;
    enum k_precision precision;
    int32_t n_ctx, max_seqs, max_batch_tokens;
    char numerics[160];

    /* KV pages: page p of layer l starts at kv + p * page_stride + l * layer_bytes. */
    void *kv; /* work memory */
    size_t kv_bytes, layer_bytes;
    int64_t page_stride;
    enum k_type kv_type;
    int32_t kv_row; /* elements */
    int32_t n_pages, n_pages_free;
    int32_t *pages_free;   /* stack */
    struct prefix *prefix; /* owned */
    struct kv_store store;
    int32_t kept_max;
    int32_t pages_per_seq;
    struct seq *seqs;
    int32_t *seq_pages;

    struct weights w;
    struct layer *layers_owned; /* NULL: the model's are used */
    struct upload *upload;      /* owned; NULL: weights are where they belong */
    void *placed;               /* work memory of the weights; NULL likewise */
    size_t placed_bytes;

    void *scratch_mem;
    size_t scratch_bytes;
    struct scratch s;
    int32_t logit_rows; /* logits are computed for so many rows at a time */
    /* Results for the caller, host memory: the scratch itself where that is the host's, else owned and grown. */
    float *out_logits, *out_hidden;
    size_t out_logits_bytes, out_hidden_bytes;
    int32_t *ids;              /* [T] */
    struct k_token_ref *toks;  /* [T] */
    struct k_sample *requests; /* [T] choices that the backend makes in this step */
    struct k_sampled *choices;
    int32_t *follows; /* [T] the choice of the step before that is a token's id; -1: the id is known */
    int started;      /* steps begun by engine_step_start() and not finished, at most K_SLOTS */
    int slot;         /* of the last one's choices */
    char library_missing[256];
    bool library;       /* it is there, and results depend on what is computed beside them */
    int32_t *last_rows; /* [T] rows that go on to the end: first those that want logits */
    const char *op;     /* what the graph is doing, for the message when a backend refuses */
    int32_t op_layer;
};

struct k_kv_pool engine_kv_pool(const struct engine *en, int32_t layer);
/* Evaluate rows 0..n_tok-1 (en->s.ids, en->toks). What comes of the n_last rows of en->s.rows is left in en->s.last,
 * and the logits of the first n_logits of them, at most logit_rows, in en->s.logits. */
enum k_status graph_run(struct engine *en, int32_t n_tok, int32_t n_last, int32_t n_logits);
/* The logits of rows first .. first + n - 1 of en->s.last, n at most logit_rows, into en->s.logits. */
enum k_status graph_logits(struct engine *en, int32_t first, int32_t n);

/* The products of a layer's chosen experts, in the memory of `ops`. */
struct expert_job {
    const struct k_ops *ops;
    struct k_ctx *ctx;
    struct scratch *s;  /* gate is used, exp_out is the result */
    const float *x;     /* [n, n_embd] */
    const int32_t *ids; /* [n, n_used] */
    int32_t n_used, n;
    enum k_precision precision;
};
enum k_status graph_experts(const struct expert_job *job, const struct layer *l, const char **op);

/* place.c. Which experts are the host's (en->host.first); the sizes of KV pages and work buffers are known. RC_FULL:
 * weights, pages and buffers do not fit in the backend's memory; says what would. */
enum rc weights_decide(struct engine *en, struct error *e) SPW_MUST_USE;
/* en->w is what operations read, lazy: after upload_wait(); weights_unplace() is safe at any time before the backend is gone. */
enum rc weights_place(struct engine *en, bool lazy, struct error *e) SPW_MUST_USE;
void weights_unplace(struct engine *en);
void weights_plan(struct engine_plan *plan, const struct engine *en, uint64_t device_bytes);

/* upload.c. first: [n_layer + 2] the first copy of each part, which are what is of no layer and then the layers; both
 * arrays become its own. */
struct upload *upload_new(struct engine *en, struct k_copy *copies, size_t *first);
void upload_free(struct engine *en);
/* The weights of this layer are there (-1: those of none). Waits for them. */
enum k_status upload_wait(struct engine *en, int32_t layer);
void upload_step_over(struct engine *en, enum k_status s);

/* kv_store.c. pages_max 0: nothing is ever kept there. */
void kv_store_init(struct engine *en, int32_t pages_max);
int32_t kv_store_slots(int32_t pages_max);
void kv_store_fini(struct engine *en);
/* If no more than one slot is free, more of them, where there may be. */
void kv_store_grow(struct engine *en);
/* Copies, in order with the operations. Slots as the prefix tree numbers them. */
enum k_status kv_store_put(struct engine *en, int32_t slot, int32_t page);
enum k_status kv_store_get(struct engine *en, int32_t page, int32_t slot);

/* host_experts.c. Nothing where no layer's experts are the host's. */
enum rc host_experts_open(struct engine *en, int threads, struct error *e) SPW_MUST_USE;
void host_experts_close(struct engine *en);
/* The experts of en->s.rt_id, for n rows of en->s.h, weighted by en->s.rt_w: when host_end() is past, rows of n_embd in
 * en->s.exp_out. */
enum k_status host_experts_begin(struct engine *en, int32_t layer, int32_t n);
/* What became of them in steps whose results are there; a failure is told once. */
enum k_status host_experts_status(struct engine *en);

#endif
