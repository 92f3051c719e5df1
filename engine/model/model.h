/* A model: weights from a GGUF file, its graph, and sequences that it evaluates.
 *
 * model_open() -> immutable struct model (shared by all). engine_new() -> struct engine: one backend context, one KV
 * page pool, scratch planned for max_batch_tokens; owned by one thread. seq_* -> a sequence: a list of KV pages and
 * a length. engine_step() runs one batch of tokens from any number of sequences: decode tokens and prefill slices
 * mixed. Nothing is allocated in a step.
 *
 * The numerics law of kernels/ops.h holds end to end: the logits after token i of a sequence depend on the sequence's
 * ids 0..i alone. */
#ifndef ENGINE_MODEL_MODEL_H
#define ENGINE_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/model/gguf.h"
#include "engine/model/placement.h"
#include "kernels/ops.h"

struct model;

struct model_info {
    char arch[32];  /* "llama", "qwen2", "deepseek2" */
    char name[128]; /* general.name, or the file's stem */
    int32_t n_layer, n_embd, n_head, n_kv_head, n_vocab, n_ctx_train;
    int32_t n_expert, n_expert_used; /* 0 when dense */
    bool mla;
    uint64_t n_params, weight_bytes;
    uint64_t active_bytes; /* weight bytes read to decode one token (chosen experts only) */
    char quant[16];        /* type of most weight bytes: "Q8_0" */
    char sha256[65];       /* of the metadata and tensor table (fast identity, not of all weights) */
};

enum rc model_open(struct model **m, const char *path, enum gguf_open_mode mode, struct error *e) SPW_MUST_USE;
void model_close(struct model *m);
const struct model_info *model_info(const struct model *m);
const struct gguf *model_gguf(const struct model *m); /* vocabulary and templates are read from it */

struct engine_options {
    const struct k_ops *ops; /* NULL: k_cpu_ops */
    int threads;             /* 0: all cores */
    int device;
    enum k_precision precision; /* part of the numerics class. K_FAST_BF16: RC_UNSUPPORTED where a CPU lacks it */
    enum k_type kv_type; /* of keys and values: K_F16, K_Q8_0 (half the memory), or 0: F16, with K_PRECISE F32. Part of
                            the numerics class. Q8_0 needs a model whose keys and values are multiples of 32. */
    int32_t n_ctx;       /* longest sequence; 0: n_ctx_train capped at 8192 */
    int32_t kv_pages;    /* pool size in pages of K_PAGE_TOKENS; 0: max_seqs * ceil(n_ctx / page) */
    int32_t max_seqs;    /* 0: 1 */
    int32_t max_batch_tokens; /* tokens in one step; 0: 256 */
    /* On a device: layers, counted from the last, whose experts stay in host memory and are computed by the CPU beside
     * it; 0: as few as it takes; < 0: none. Part of the numerics class. */
    int32_t host_layers;
    bool lazy; /* on a device: weights are uploaded when a step first comes to their layer, the next one's meanwhile */
    /* Most pages kept in the host's memory when the pool is full, for sequences that come back; 0: none; < 0: on a
     * device as many as the pool has, in an eighth of the machine's memory at most, else none. */
    int32_t spill_pages;
    /* The device maker's library makes the products that it is best at: a numerics class of its own, whose results
     * depend on what is computed beside them; engine_class() then gives another class at each call, which nobody else
     * has. Where there is none: engine_library_missing(). */
    bool gemm_library;
    int32_t kept_pages; /* most pages kept of sequences that are gone; 0: none, but who runs shares; < 0: half of all */
};

struct engine;
enum rc engine_new(struct engine **en, const struct model *m, const struct engine_options *o,
                   struct error *e) SPW_MUST_USE;
void engine_free(struct engine *en);

/* Where an engine with these options has its memory on a device that has device_bytes free. Takes no device and no
 * memory to speak of; whether it fits is in the plan. */
struct engine_plan {
    struct placement_need need;
    struct placement is;
    uint64_t *experts, *others; /* owned; what need points to */
};
enum rc engine_plan(struct engine_plan *plan, const struct model *m, const struct engine_options *o,
                    uint64_t device_bytes, struct error *e) SPW_MUST_USE;
void engine_plan_fini(struct engine_plan *plan);
/* Layers whose experts the host computes, and the bytes of these. */
int32_t engine_host_layers(const struct engine *en, uint64_t *bytes);
const char *engine_numerics(const struct engine *en); /* backend, instruction set, KV type: see docs */
/* Why the library that was asked for is not used; NULL: it is, or nobody asked. */
const char *engine_library_missing(const struct engine *en);
/* The numerics class, 32 hex digits: a hash of the above, the name of the chat template (NULL: none), the files'
 * headers (metadata, so the vocabulary and the file's own template too) and blocks of every tensor. Reads those
 * blocks. */
enum rc engine_class(const struct engine *en, const char *template_name, char hex[33], struct error *e) SPW_MUST_USE;
int32_t engine_n_ctx(const struct engine *en);
int32_t engine_max_batch_tokens(const struct engine *en);
int32_t engine_pages_free(const struct engine *en); /* that a sequence could have: those that are kept, too */
int32_t engine_pages_total(const struct engine *en);
uint64_t engine_kv_bytes(const struct engine *en);      /* of all pages */
int32_t engine_pages_kept(const struct engine *en);     /* for prefixes, by no sequence in use */
uint64_t engine_pages_evicted(const struct engine *en); /* kept ones given up for others and forgotten, so far */
struct kv_spill {
    int32_t pages, pages_max; /* in the host's memory: now, and at most */
    uint64_t out, in;         /* copied there, and back, so far */
};
struct kv_spill engine_spill(const struct engine *en);

/* A sequence. Its pages are taken as it grows and given back by seq_free or seq_truncate. */
struct seq;
struct seq *seq_new(struct engine *en); /* NULL: max_seqs reached */
void seq_free(struct seq *s);
int32_t seq_len(const struct seq *s); /* tokens whose keys and values are stored */
/* Cut to at most len tokens; returns the length it has now: less than len if len lies inside of a page that others use,
 * too, which must not be written to. */
int32_t seq_truncate(struct seq *s, int32_t len);
/* Forget the last tokens, but keep the room: len is not less than what was made known by seq_share(). */
void seq_rewind(struct seq *s, int32_t len);
/* Make room for n more tokens. RC_FULL: pool exhausted or n_ctx reached; nothing taken. */
enum rc seq_reserve(struct seq *s, int32_t n, struct error *e) SPW_MUST_USE;

/* Whose prefixes are shared with whose: only equal salts. Any 16 bytes; all zeros is a salt like another. */
struct prefix_salt {
    uint8_t bytes[16];
};
/* Let a new sequence (nothing stored, nothing reserved) begin with what is known of ids[0..n): whole pages, and never
 * all n tokens, so that there is something left to compute. Returns how many tokens it has now; by the numerics law
 * what follows is the same, bit for bit, as if it had computed them. */
int32_t seq_attach(struct seq *s, const struct prefix_salt *salt, const int32_t *ids, int32_t n);
/* Make known what the sequence has stored, whole pages of it: ids are its tokens from the first on, seq_len() of them;
 * the salt is always the same. Cheap when there is no new page. They stay known for as long as nobody needs the
 * room. */
void seq_share(struct seq *s, const struct prefix_salt *salt, const int32_t *ids);

/* One contiguous slice of one sequence in a step: `n` ids follow the sequence's present length. */
struct step_slice {
    struct seq *seq;
    const int32_t *ids; /* NULL: engine_step_start(), follows */
    int32_t n;
    bool all_logits;     /* logits for each of the n tokens, else for the last only */
    bool want_logits;    /* false: a prefill slice that isn't the prompt's last */
    bool want_hidden;    /* what the model makes of each token, for embeddings; instead of logits */
    const float *logits; /* result: [all_logits ? n : 1][n_vocab], borrowed until the next step */
    const float *hidden; /* result: [n][n_embd], after the last norm, borrowed until the next step */
    /* NULL, or: choose from the slice's only row of logits where they are (row is filled in). Where the backend can and
     * does, is_chosen is set and there are no logits; else they are as without. */
    const struct k_sample *sample;
    struct k_sampled chosen; /* result */
    bool is_chosen;          /* result */
    int32_t follows;         /* with ids NULL: the slice of the step before whose choice is the one token */
};
/* Run one step. Sum of n <= max_batch_tokens; each seq appears once and has room reserved; ids in range (RC_INVALID
 * otherwise). On failure no sequence has advanced. Blocks for the computation; call from the engine's thread. */
enum rc engine_step(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e) SPW_MUST_USE;

/* A step in two halves, so that the next one is prepared, and waits at the device, while this one runs: each sequence
 * has one token and all that is wanted of it is a choice (n 1, want_logits, sample). Most sequences in such a step; 0:
 * the backend has nothing to choose with, there is engine_step() alone. */
int32_t engine_overlap_max(const struct engine *en);
/* Begins one, does not wait for it; the sequences have advanced. While one is begun, one more may be, for sequences of
 * the former: a slice whose token that one has yet to choose has no ids but `follows`. */
enum rc engine_step_start(struct engine *en, struct step_slice *slices, int32_t n_slices, struct error *e) SPW_MUST_USE;
/* Waits for the oldest that was begun, with the slices that it was begun with. A slice that is not chosen could not be: its
 * logits are gone, seq_rewind() and engine_step() compute them again, the same. What a step made of such a choice (as id
 * 0) is worthless, likewise what it made of one that ended a sequence. */
enum rc engine_step_finish(struct engine *en, struct step_slice *slices, int32_t n_slices,
                           struct error *e) SPW_MUST_USE;

#endif
