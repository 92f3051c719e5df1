/* Open and close a model file, and say what it is. */
#include "engine/model/model.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/model/model_internal.h"

/* general.name, or the file's stem; control characters become '?' because this is printed. */
static void set_name(struct model *m)
{
    struct gguf_str s = {0};
    char *out = m->info.name;
    size_t max = sizeof m->info.name - 1;
    if (gguf_get_str(m->gguf, "general.name", &s, NULL) != RC_OK || s.n == 0) {
        const char *slash = strrchr(m->path, '/');
        s.s = slash ? slash + 1 : m->path;
        s.n = strlen(s.s);
        if (s.n > 5 && strcmp(s.s + s.n - 5, ".gguf") == 0)
            s.n -= 5;
    }
    size_t n = s.n < max ? s.n : max;
    for (size_t i = 0; i < n; i++)
        out[i] = (unsigned char)s.s[i] < 32 || s.s[i] == 127 ? '?' : s.s[i];
    out[n] = '\0';
}

/* Share of a tensor that decoding one token reads: chosen experts only, and one row of an embedding that is not also
 * the output matrix. */
static uint64_t active_bytes(const struct model *m, const struct k_tensor *t)
{
    uint64_t bytes = gguf_tensor_bytes(t);
    if (m->hp.n_expert > 0 && t->ne[2] == m->hp.n_expert && t->ne[1] > 1)
        return bytes / (uint64_t)m->hp.n_expert * (uint64_t)m->hp.n_used;
    if (t->data == m->embd.data && m->embd.data != m->output.data)
        return bytes / (uint64_t)m->hp.n_vocab;
    return bytes;
}

static void count_weights(struct model *m)
{
    uint64_t by_type[K_TYPE_COUNT] = {0};
    for (uint64_t i = 0; i < gguf_n_tensors(m->gguf); i++) {
        const struct k_tensor *t = gguf_tensor(m->gguf, i, NULL);
        uint64_t bytes = gguf_tensor_bytes(t);
        m->info.n_params += (uint64_t)(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
        m->info.weight_bytes += bytes;
        m->info.active_bytes += active_bytes(m, t);
        by_type[t->type] += bytes;
    }
    int best = K_F32;
    for (int t = 0; t < K_TYPE_COUNT; t++)
        if (by_type[t] > by_type[best])
            best = t;
    snprintf(m->info.quant, sizeof m->info.quant, "%s", k_type_info((uint32_t)best)->name);
    for (char *c = m->info.quant; *c; c++)
        *c = (char)toupper((unsigned char)*c);
}

enum rc model_open(struct model **out, const char *path, enum gguf_open_mode mode, struct error *e)
{
    struct model *m = spw_calloc(1, sizeof *m);
    m->magic = MODEL_MAGIC;
    m->path = spw_strdup(path);
    enum rc rc = gguf_open(&m->gguf, path, mode, e);
    if (!rc)
        rc = hparams_read(&m->hp, m->gguf, path, e);
    if (!rc)
        rc = weights_bind(m, e);
    if (!rc)
        rc = model_set_identity(m, e);
    if (rc) {
        model_close(m);
        return rc;
    }
    const struct hparams *hp = &m->hp;
    struct model_info *info = &m->info;
    snprintf(info->arch, sizeof info->arch, "%s", hp->arch_name);
    info->n_layer = hp->n_layer;
    info->n_embd = hp->n_embd;
    info->n_head = hp->n_head;
    info->n_kv_head = hp->n_kv_head;
    info->n_vocab = hp->n_vocab;
    info->n_ctx_train = hp->n_ctx_train;
    info->n_expert = hp->n_expert;
    info->n_expert_used = hp->n_used;
    info->mla = hp->mla;
    set_name(m);
    count_weights(m);
    *out = m;
    return RC_OK;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    SPW_ASSERT(m->magic == MODEL_MAGIC);
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m->owned);
    free(m->layers);
    hparams_fini(&m->hp);
    gguf_close(m->gguf);
    free(m->path);
    m->magic = 0;
    free(m);
}

const struct model_info *model_info(const struct model *m)
{
    return &m->info;
}

const struct gguf *model_gguf(const struct model *m)
{
    return m->gguf;
}
