#include "engine/text/vocab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/text_internal.h"

#define VOCAB_TEXT_MAX (1u << 30) /* bytes of all tokens together; offsets are 32 bits */

/* Control tokens that end a turn in the model families at large, whatever the file's eos is. */
static const char *const end_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>",
    "<|eom_id|>", "<|end|>",    "<end_of_turn>", "<｜end▁of▁sentence｜>",
    "<|EOT|>",    "<EOT>",      "</s>",
};

size_t hash_slots(size_t n)
{
    size_t slots = 16;

    while (slots / 3 * 2 < n)
        slots *= 2;
    return slots;
}

void vocab_source_init(struct vocab_source *src)
{
    *src = (struct vocab_source){
        .bos = -1, .eos = -1, .eot = -1, .unk = -1, .pad = -1, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1};
}

static bool span_is(struct text_span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.ptr, text, s.len) == 0;
}

/* ---- checks on what the file says ---- */

static enum rc check_counts(const struct vocab_source *src, struct error *e)
{
    if (src->n_tokens == 0)
        return error_set(e, RC_INVALID, "the vocabulary has no tokens");
    if (src->n_tokens > VOCAB_TOKENS_MAX)
        return error_set(e, RC_INVALID, "the vocabulary has %zu tokens; the limit is %d", src->n_tokens,
                         VOCAB_TOKENS_MAX);
    if (src->n_merges > VOCAB_MERGES_MAX)
        return error_set(e, RC_INVALID, "the vocabulary has %zu merges; the limit is %d", src->n_merges,
                         VOCAB_MERGES_MAX);
    if (src->n_types && src->n_types != src->n_tokens)
        return error_set(e, RC_INVALID, "the vocabulary has %zu token types for %zu tokens", src->n_types,
                         src->n_tokens);
    if (src->n_scores && src->n_scores != src->n_tokens)
        return error_set(e, RC_INVALID, "the vocabulary has %zu scores for %zu tokens", src->n_scores, src->n_tokens);
    return RC_OK;
}

static enum rc check_id(const char *name, int64_t id, const struct vocab_source *src, struct error *e)
{
    if (id >= -1 && id < (int64_t)src->n_tokens)
        return RC_OK;
    return error_set(e, RC_INVALID, "%s token id %lld is outside the vocabulary of %zu tokens", name, (long long)id,
                     src->n_tokens);
}

static enum rc check_ids(const struct vocab_source *src, struct error *e)
{
    const struct {
        const char *name;
        int64_t id;
    } ids[] = {{"bos", src->bos}, {"eos", src->eos}, {"eot", src->eot}, {"unknown", src->unk}, {"padding", src->pad}};

    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        if (check_id(ids[i].name, ids[i].id, src, e) != RC_OK)
            return RC_INVALID;
    return RC_OK;
}

static enum rc check_tokens(const struct vocab_source *src, struct error *e)
{
    size_t total = 0;

    for (size_t i = 0; i < src->n_tokens; i++) {
        if (src->tokens[i].len > VOCAB_TOKEN_BYTES_MAX)
            return error_set(e, RC_INVALID, "token %zu has %zu bytes; the limit is %d", i, src->tokens[i].len,
                             VOCAB_TOKEN_BYTES_MAX);
        total += src->tokens[i].len;
        if (src->n_types && (src->types[i] < TOKEN_TYPE_UNDEFINED || src->types[i] > TOKEN_TYPE_BYTE))
            return error_set(e, RC_INVALID, "token %zu has type %d; types are 1 (normal) to 6 (byte)", i,
                             src->types[i]);
        if (src->n_scores && isnan(src->scores[i]))
            return error_set(e, RC_INVALID, "the score of token %zu is not a number", i);
    }
    if (total > VOCAB_TEXT_MAX)
        return error_set(e, RC_INVALID, "the tokens have %zu bytes together; the limit is %u", total, VOCAB_TEXT_MAX);
    return RC_OK;
}

/* ---- what each token is and stands for ---- */

static bool looks_like_tag(struct text_span s)
{
    return s.len >= 3 && ((s.ptr[0] == '<' && s.ptr[s.len - 1] == '>') || (s.ptr[0] == '[' && s.ptr[s.len - 1] == ']'));
}

static bool names_an_end(struct text_span s)
{
    for (size_t i = 0; i < sizeof(end_names) / sizeof(end_names[0]); i++)
        if (span_is(s, end_names[i]))
            return true;
    return false;
}

static uint8_t token_bits(enum token_type type, struct text_span s)
{
    bool reserved = type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_UNKNOWN;
    bool tag = type == TOKEN_TYPE_USER_DEFINED && looks_like_tag(s);

    return (uint8_t)((reserved || tag ? TOKEN_MARKUP : 0) | (reserved || type == TOKEN_TYPE_UNUSED ? TOKEN_HIDDEN : 0) |
                     ((reserved || tag) && names_an_end(s) ? TOKEN_END : 0));
}

/* "<0x0A>" -> 10, or -1. */
static int byte_token_value(struct text_span s)
{
    int value = 0;

    if (s.len != 6 || memcmp(s.ptr, "<0x", 3) != 0 || s.ptr[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        char c = s.ptr[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* SentencePiece spells a space as U+2581. Writes at most s.len bytes. */
static size_t spm_decode(struct text_span s, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len;) {
        if (s.len - i >= 3 && memcmp(s.ptr + i, "\xE2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = s.ptr[i++];
        }
    }
    return n;
}

/* A byte-level vocabulary spells each byte as a printable character. A token with any other character in it stands for
 * itself. Writes at most s.len bytes. */
static size_t bpe_decode(struct text_span s, char *out)
{
    size_t n = 0;

    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        i += utf8_decode((const unsigned char *)s.ptr + i, s.len - i, &cp);
        int byte = bpe_char_byte(cp);
        if (byte < 0) {
            memcpy(out, s.ptr, s.len);
            return s.len;
        }
        out[n++] = (char)byte;
    }
    return n;
}

static enum rc token_decode(struct vocab *v, int32_t id, struct text_span s, char *out, size_t *n, struct error *e)
{
    enum token_type type = v->type[id];

    if (v->model == VOCAB_SPM && type == TOKEN_TYPE_BYTE) {
        int byte = byte_token_value(s);
        if (byte < 0)
            return error_set(e, RC_INVALID, "token %d has type byte but is not of the form <0x0A>", id);
        if (v->byte_token[byte] < 0)
            v->byte_token[byte] = id;
        *out = (char)byte;
        *n = 1;
        return RC_OK;
    }
    if (type == TOKEN_TYPE_CONTROL || type == TOKEN_TYPE_UNKNOWN || type == TOKEN_TYPE_USER_DEFINED) {
        memcpy(out, s.ptr, s.len);
        *n = s.len;
    } else {
        *n = v->model == VOCAB_SPM ? spm_decode(s, out) : bpe_decode(s, out);
    }
    return RC_OK;
}

static void string_table_init(struct string_table *t, size_t n, size_t bytes)
{
    t->data = spw_malloc(bytes + 1);
    t->at = spw_calloc(n + 1, sizeof(*t->at));
}

static enum rc load_tokens(struct vocab *v, const struct vocab_source *src, struct error *e)
{
    size_t total = 0, text_at = 0, bytes_at = 0;

    for (size_t i = 0; i < src->n_tokens; i++)
        total += src->tokens[i].len;
    string_table_init(&v->text, src->n_tokens, total);
    string_table_init(&v->bytes, src->n_tokens, total);
    v->type = spw_calloc(src->n_tokens, 1);
    v->bits = spw_calloc(src->n_tokens, 1);
    for (int32_t id = 0; id < v->n; id++) {
        struct text_span s = src->tokens[id];
        size_t n = 0;
        int32_t type = src->n_types ? src->types[id] : TOKEN_TYPE_NORMAL;
        v->type[id] = (uint8_t)(type == TOKEN_TYPE_UNDEFINED ? TOKEN_TYPE_NORMAL : type);
        v->bits[id] = token_bits(v->type[id], s);
        if (s.len)
            memcpy(v->text.data + text_at, s.ptr, s.len);
        if (token_decode(v, id, s, v->bytes.data + bytes_at, &n, e) != RC_OK)
            return RC_INVALID;
        text_at += s.len;
        bytes_at += n;
        v->text.at[id + 1] = (uint32_t)text_at;
        v->bytes.at[id + 1] = (uint32_t)bytes_at;
        if (s.len > v->text_max)
            v->text_max = s.len;
    }
    if (src->n_scores) {
        v->score = spw_malloc(src->n_tokens * sizeof(*v->score));
        memcpy(v->score, src->scores, src->n_tokens * sizeof(*v->score));
    }
    return RC_OK;
}

/* ---- text to id ---- */

static bool is_reserved(const struct vocab *v, int32_t id)
{
    return (v->bits[id] & TOKEN_MARKUP) || (v->model == VOCAB_SPM && v->type[id] == TOKEN_TYPE_BYTE);
}

/* The lowest id spelled so; with mergeable, the lowest that is not reserved. Tokens went in by rising id and probing
 * is linear, so the first that fits is the lowest. */
static int32_t find(const struct vocab *v, const char *text, size_t len, bool mergeable)
{
    if (len > v->text_max)
        return -1;
    for (size_t i = (size_t)hash_bytes(text, len) & v->slot_mask; v->slots[i]; i = (i + 1) & v->slot_mask) {
        int32_t id = (int32_t)(v->slots[i] - 1);
        struct text_span s = string_at(&v->text, id);
        if (s.len == len && memcmp(s.ptr, text, len) == 0 && !(mergeable && is_reserved(v, id)))
            return id;
    }
    return -1;
}

static void index_texts(struct vocab *v)
{
    size_t slots = hash_slots((size_t)v->n);

    v->slots = spw_calloc(slots, sizeof(*v->slots));
    v->slot_mask = slots - 1;
    for (int32_t id = 0; id < v->n; id++) {
        struct text_span s = string_at(&v->text, id);
        /* A duplicate can never be found and would only lengthen the chain (quadratically, were all tokens equal). */
        if (find(v, s.ptr, s.len, !is_reserved(v, id)) >= 0)
            continue;
        size_t i = (size_t)hash_bytes(s.ptr, s.len) & v->slot_mask;
        while (v->slots[i])
            i = (i + 1) & v->slot_mask;
        v->slots[i] = (uint32_t)id + 1;
    }
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t len)
{
    return find(v, text, len, false);
}

int32_t vocab_find_mergeable(const struct vocab *v, const char *text, size_t len)
{
    return find(v, text, len, true);
}

/* ---- putting it together ---- */

static enum rc set_model(struct vocab *v, const struct vocab_source *src, struct error *e)
{
    struct text_span pre = src->pre;

    if (span_is(src->model, "llama")) {
        v->model = VOCAB_SPM;
        if (src->n_scores == 0)
            return error_set(e, RC_INVALID, "a vocabulary of model \"llama\" needs a score for each token");
        return RC_OK;
    }
    if (!span_is(src->model, "gpt2"))
        return error_set(e, RC_UNSUPPORTED, "tokenizer model \"%.*s\" is not supported; \"gpt2\" and \"llama\" are",
                         (int)(src->model.len < 64 ? src->model.len : 64), src->model.len ? src->model.ptr : "");
    if (pre.len == 0)
        pre = (struct text_span){"default", 7};
    v->model = VOCAB_BPE;
    v->pre = pretokenizer_find(pre.ptr, pre.len);
    if (!v->pre)
        return error_set(e, RC_UNSUPPORTED, "pre-tokenizer \"%.*s\" is not supported; supported are %s",
                         (int)(pre.len < 64 ? pre.len : 64), pre.ptr, pretokenizer_names());
    return RC_OK;
}

/* SentencePiece files from before the keys existed have <unk>, <s>, </s> at 0, 1, 2. */
static int32_t id_or(int64_t id, int32_t otherwise, const struct vocab *v)
{
    return id >= 0 ? (int32_t)id : v->model == VOCAB_SPM && otherwise < v->n ? otherwise : -1;
}

static enum rc set_specials(struct vocab *v, const struct vocab_source *src, struct error *e)
{
    bool spm = v->model == VOCAB_SPM;

    v->bos = id_or(src->bos, 1, v);
    v->eos = id_or(src->eos, 2, v);
    v->unk = id_or(src->unk, 0, v);
    v->eot = (int32_t)src->eot;
    v->add_bos = src->add_bos >= 0 ? src->add_bos : spm || pretokenizer_adds_bos(v->pre);
    v->add_eos = src->add_eos > 0;
    v->add_space_prefix = spm && src->add_space_prefix != 0;
    if (v->add_bos && v->bos < 0 && src->add_bos > 0)
        return error_set(e, RC_INVALID, "the vocabulary asks for a bos token in front of texts but names none");
    if (v->add_eos && v->eos < 0)
        return error_set(e, RC_INVALID, "the vocabulary asks for an eos token behind texts but names none");
    v->add_bos = v->add_bos && v->bos >= 0;
    if (v->eos >= 0)
        v->bits[v->eos] |= TOKEN_END;
    if (v->eot >= 0)
        v->bits[v->eot] |= TOKEN_END;
    return RC_OK;
}

static enum rc build(struct vocab *v, const struct vocab_source *src, struct error *e)
{
    enum rc rc;

    if ((rc = check_counts(src, e)) != RC_OK || (rc = check_ids(src, e)) != RC_OK ||
        (rc = check_tokens(src, e)) != RC_OK || (rc = set_model(v, src, e)) != RC_OK)
        return rc;
    v->n = (int32_t)src->n_tokens;
    if ((rc = load_tokens(v, src, e)) != RC_OK || (rc = set_specials(v, src, e)) != RC_OK)
        return rc;
    index_texts(v);
    if ((rc = special_build(v, e)) != RC_OK)
        return rc;
    return v->model == VOCAB_BPE ? bpe_build(v, src, e) : RC_OK;
}

enum rc vocab_new(const struct vocab_source *src, struct vocab **vocab, struct error *e)
{
    struct vocab *v = spw_calloc(1, sizeof(*v));

    for (int i = 0; i < 256; i++)
        v->byte_token[i] = -1;
    enum rc rc = build(v, src, e);
    if (rc != RC_OK) {
        vocab_free(v);
        v = NULL;
    }
    *vocab = v;
    return rc;
}

void vocab_free(struct vocab *v)
{
    if (!v)
        return;
    free(v->text.data);
    free(v->text.at);
    free(v->bytes.data);
    free(v->bytes.at);
    free(v->type);
    free(v->bits);
    free(v->score);
    free(v->slots);
    special_fini(&v->special);
    bpe_fini(&v->bpe);
    free(v);
}

/* ---- questions ---- */

int32_t vocab_size(const struct vocab *v)
{
    return v->n;
}

struct text_span vocab_token_text(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return string_at(&v->text, id);
}

struct text_span vocab_token_bytes(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return string_at(&v->bytes, id);
}

enum token_type vocab_token_type(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return v->type[id];
}

bool vocab_is_markup(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return v->bits[id] & TOKEN_MARKUP;
}

bool vocab_is_hidden(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return v->bits[id] & TOKEN_HIDDEN;
}

bool vocab_is_end(const struct vocab *v, int32_t id)
{
    SPW_ASSERT(vocab_has(v, id));
    return v->bits[id] & TOKEN_END;
}

int32_t vocab_bos(const struct vocab *v)
{
    return v->bos;
}

int32_t vocab_eos(const struct vocab *v)
{
    return v->eos;
}

int32_t vocab_unk(const struct vocab *v)
{
    return v->unk;
}

bool vocab_adds_bos(const struct vocab *v)
{
    return v->add_bos;
}

bool vocab_adds_eos(const struct vocab *v)
{
    return v->add_eos;
}

const char *vocab_pre_name(const struct vocab *v)
{
    return v->model == VOCAB_SPM ? "spm" : pretokenizer_name(v->pre);
}

size_t vocab_bytes(const struct vocab *v)
{
    size_t n = (size_t)v->n;
    size_t strings = v->text.at[n] + v->bytes.at[n] + 2 * (n + 1) * sizeof(uint32_t);
    size_t tries = (v->special.mask + 1) * (sizeof(uint64_t) + sizeof(uint32_t)) + v->special.n_nodes * 8;

    return sizeof(*v) + strings + tries + (v->slot_mask + 1) * sizeof(*v->slots) + n * 2 +
           (v->score ? n * sizeof(*v->score) : 0) + v->merge_bytes;
}
