/* Who a model is: a digest of its files' headers, cheap enough for every opening, and the numerics class, which says
 * that two engines give the same logits for the same ids, bit for bit (docs/NODE_API.md). */
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "engine/model/model_internal.h"

/* Raise it when anything outside the kernels changes what an answer is: graphs, rotary tables, tokenizer, templates,
 * sampler, stop strings, reasoning. The kernels have a number of their own, in their `numerics`. */
#define ENGINE_CLASS_VERSION 2

/* Of a tensor's bytes: all when there are few, else so many blocks at even distances, first and last bytes included.
 * Weights that differ from others' in a few values only are told apart by luck; a fine-tuning, another quantisation or
 * a merge changes every block. A few MiB of a model of any size are read that way. */
#define SAMPLE_WHOLE_BYTES 65536u
#define SAMPLE_BLOCK_BYTES 4096u
#define SAMPLE_BLOCKS      8u

struct hasher {
    EVP_MD_CTX *md;
    bool ok;
};

static void hash_begin(struct hasher *h)
{
    h->md = EVP_MD_CTX_new();
    h->ok = h->md && EVP_DigestInit_ex(h->md, EVP_sha256(), NULL) == 1;
}

static void hash(struct hasher *h, const void *data, size_t n)
{
    h->ok = h->ok && EVP_DigestUpdate(h->md, data, n) == 1;
}

/* A text with its end, so that no two lists of texts look alike. */
static void hash_text(struct hasher *h, const char *s)
{
    hash(h, s, strlen(s) + 1);
}

static enum rc hash_end(struct hasher *h, const char *path, char *hex, unsigned digits, struct error *e)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    h->ok = h->ok && EVP_DigestFinal_ex(h->md, digest, &n) == 1 && n >= digits / 2;
    EVP_MD_CTX_free(h->md);
    if (!h->ok)
        return error_set(e, RC_INTERNAL, "%s: SHA-256 is not available", path);
    text_hex(hex, digest, digits / 2);
    return RC_OK;
}

static void hash_headers(struct hasher *h, const struct gguf *g)
{
    for (uint32_t f = 0; f < gguf_n_files(g); f++) {
        size_t bytes;
        const uint8_t *header = gguf_header(g, f, &bytes);
        hash(h, header, bytes);
    }
}

static void hash_tensor(struct hasher *h, const struct k_tensor *t)
{
    uint64_t bytes = gguf_tensor_bytes(t);
    const uint8_t *data = t->data;
    if (bytes <= SAMPLE_WHOLE_BYTES) {
        hash(h, data, bytes);
        return;
    }
    uint64_t stride = (bytes - SAMPLE_BLOCK_BYTES) / (SAMPLE_BLOCKS - 1);
    for (uint64_t i = 0; i + 1 < SAMPLE_BLOCKS; i++)
        hash(h, data + i * stride, SAMPLE_BLOCK_BYTES);
    hash(h, data + bytes - SAMPLE_BLOCK_BYTES, SAMPLE_BLOCK_BYTES);
}

enum rc model_set_identity(struct model *m, struct error *e)
{
    struct hasher h;
    hash_begin(&h);
    hash_headers(&h, m->gguf);
    return hash_end(&h, m->path, m->info.sha256, 64, e);
}

enum rc engine_class(const struct engine *en, const char *template_name, char hex[33], struct error *e)
{
    const struct gguf *g = en->m->gguf;
    const struct k_rope *rope = &en->m->hp.rope;
    char version[32];
    struct hasher h;
    hash_begin(&h);
    snprintf(version, sizeof version, "spillway-class-%d", ENGINE_CLASS_VERSION);
    hash_text(&h, version);
    hash_text(&h, en->numerics);
    if (en->library) { /* which keeps no law, so that there is nobody who would go on bit for bit: a class of one */
        unsigned char nobody_else[16];
        h.ok = h.ok && RAND_bytes(nobody_else, sizeof nobody_else) == 1;
        hash(&h, nobody_else, sizeof nobody_else);
    }
    hash_text(&h, template_name ? template_name : "");
    /* The one thing that comes from the system's libm: where that differs in a bit, the class does. */
    hash(&h, rope->inv_freq, (size_t)rope->d_rope / 2 * sizeof *rope->inv_freq);
    hash_headers(&h, g);
    for (uint64_t i = 0; i < gguf_n_tensors(g); i++)
        hash_tensor(&h, gguf_tensor(g, i, NULL));
    return hash_end(&h, en->m->path, hex, 32, e);
}
