#include "engine/text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/text/unicode.h"

enum {
    L = UNICODE_LETTER,
    M = UNICODE_MARK,
    N = UNICODE_NUMBER,
    P = UNICODE_PUNCT,
    S = UNICODE_SYMBOL,
    Z = UNICODE_SPACE
};

/* A text as code points. */
struct chars {
    uint32_t *cp;    /* owned */
    uint8_t *class;  /* owned */
    uint32_t *where; /* owned; n + 1 byte offsets */
    size_t n;
};

/* Where the match that starts at pos ends; pos when there is none. The piece is [start, end): nothing outside it is
 * looked at, so that "end of text" means end of piece, as it does for the published chains of splits. */
typedef size_t (*scanner)(const struct chars *t, size_t start, size_t pos, size_t end);

#define STAGES_MAX 6
struct pretokenizer {
    const char *names[4]; /* the first is ours, the rest are aliases */
    scanner stages[STAGES_MAX];
    bool ignore_merges, add_bos;
};

/* ---- small parts of patterns ---- */

static inline uint32_t cp_at(const struct chars *t, size_t pos, size_t end)
{
    return pos < end ? t->cp[pos] : UINT32_MAX;
}
static inline bool in(const struct chars *t, size_t pos, size_t end, unsigned set)
{
    return pos < end && (t->class[pos] & set);
}
static inline bool not_in(const struct chars *t, size_t pos, size_t end, unsigned set)
{
    return pos < end && !(t->class[pos] & set);
}
static inline bool newline_at(const struct chars *t, size_t pos, size_t end)
{
    return pos < end && (t->cp[pos] == '\n' || t->cp[pos] == '\r');
}
static inline bool ascii_letter(uint32_t cp)
{
    return (cp | 32) >= 'a' && (cp | 32) <= 'z';
}
static size_t run(const struct chars *t, size_t pos, size_t end, unsigned set)
{
    while (in(t, pos, end, set))
        pos++;
    return pos;
}
static size_t run_not(const struct chars *t, size_t pos, size_t end, unsigned set)
{
    while (not_in(t, pos, end, set))
        pos++;
    return pos;
}

/* 's|'t|'re|'ve|'m|'ll|'d, in either case when fold is 32. */
static size_t contraction(const struct chars *t, size_t pos, size_t end, uint32_t fold)
{
    if (cp_at(t, pos, end) != '\'')
        return pos;
    uint32_t a = cp_at(t, pos + 1, end), b = cp_at(t, pos + 2, end);
    if (fold && a < 0x80)
        a |= fold;
    if (fold && b < 0x80)
        b |= fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return pos + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return pos + 3;
    return pos;
}

/* \s+(?!\S)|\s+ : white space, less its last character when something else follows and more than one is there. */
static size_t spaces(const struct chars *t, size_t pos, size_t end)
{
    size_t q = run(t, pos, end, Z);

    return q < end && q > pos + 1 ? q - 1 : q;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : up to the last newline of the white space, if it has one. */
static size_t newlines_or_spaces(const struct chars *t, size_t pos, size_t end)
{
    size_t q = run(t, pos, end, Z);

    for (size_t i = q; i > pos; i--)
        if (newline_at(t, i - 1, end))
            return i;
    return spaces(t, pos, end);
}

/* ---- scanners ---- */

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t scan_gpt2(const struct chars *t, size_t start, size_t pos, size_t end)
{
    size_t q = contraction(t, pos, end, 0);
    size_t body = pos + (t->cp[pos] == ' ');

    (void)start;
    if (q > pos)
        return q;
    if (in(t, body, end, L))
        return run(t, body, end, L);
    if (in(t, body, end, N))
        return run(t, body, end, N);
    if (not_in(t, body, end, Z | L | N))
        return run_not(t, body, end, Z | L | N);
    return spaces(t, pos, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t scan_words(const struct chars *t, size_t pos, size_t end, size_t digits)
{
    size_t q = contraction(t, pos, end, 32);
    size_t letters = pos + (not_in(t, pos, end, L | N) && !newline_at(t, pos, end));
    size_t others = pos + (t->cp[pos] == ' ');

    if (q > pos)
        return q;
    if (in(t, letters, end, L))
        return run(t, letters, end, L);
    if (in(t, pos, end, N))
        return run(t, pos, end - pos > digits ? pos + digits : end, N);
    if (not_in(t, others, end, Z | L | N)) {
        q = run_not(t, others, end, Z | L | N);
        while (newline_at(t, q, end))
            q++;
        return q;
    }
    return newlines_or_spaces(t, pos, end);
}
static size_t scan_llama3(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return scan_words(t, pos, end, 3);
}
static size_t scan_qwen2(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return scan_words(t, pos, end, 1);
}

/* [\r\n] */
static size_t scan_newline(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return pos + newline_at(t, pos, end);
}

/* \s?\p{L}+ and \s?\p{P}+ */
static size_t scan_spaced(const struct chars *t, size_t pos, size_t end, unsigned set)
{
    size_t body = pos + in(t, pos, end, Z);

    return in(t, body, end, set) ? run(t, body, end, set) : pos;
}
static size_t scan_spaced_letters(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return scan_spaced(t, pos, end, L);
}
static size_t scan_spaced_punct(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return scan_spaced(t, pos, end, P);
}

/* \s?[A-Za-z...]+ with the long list of letters of deepseek-llm */
static size_t scan_llm_letters(const struct chars *t, size_t start, size_t pos, size_t end)
{
    size_t q = pos + in(t, pos, end, Z), body = q;

    (void)start;
    while (q < end && unicode_is_deepseek_llm_letter(t->cp[q]))
        q++;
    return q > body ? q : pos;
}

/* [!-/:-~！-／：-～‘-‟　-。]; its U+3000 is white space too */
static bool llm_punct(uint32_t cp)
{
    return (cp >= '!' && cp <= '/') || (cp >= ':' && cp <= '~') || (cp >= 0xFF01 && cp <= 0xFF0F) ||
           (cp >= 0xFF1A && cp <= 0xFF5E) || (cp >= 0x2018 && cp <= 0x201F) || (cp >= 0x3000 && cp <= 0x3002);
}
/* \s?[!-/...]+ : when the space was the only character of the class (U+3000), the match starts without it. */
static size_t scan_llm_punct(const struct chars *t, size_t start, size_t pos, size_t end)
{
    size_t body = pos + in(t, pos, end, Z);

    (void)start;
    if (body == end || !llm_punct(t->cp[body]))
        body = pos;
    size_t q = body;
    while (q < end && llm_punct(t->cp[q]))
        q++;
    return q > body ? q : pos;
}

/* \s+$ : a piece has one such match, and it starts where white space starts; asking only there keeps this linear. */
static size_t scan_trailing_spaces(const struct chars *t, size_t start, size_t pos, size_t end)
{
    if (pos > start && in(t, pos - 1, end, Z))
        return pos;
    return run(t, pos, end, Z) == end ? end : pos;
}

/* [一-龥ࠀ-一가-퟿]+ */
static size_t scan_cjk(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    while (pos < end &&
           ((t->cp[pos] >= 0x0800 && t->cp[pos] <= 0x9FA5) || (t->cp[pos] >= 0xAC00 && t->cp[pos] <= 0xD7FF)))
        pos++;
    return pos;
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static size_t scan_cjk_kana(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    while (pos < end &&
           ((t->cp[pos] >= 0x4E00 && t->cp[pos] <= 0x9FA5) || (t->cp[pos] >= 0x3040 && t->cp[pos] <= 0x30FF)))
        pos++;
    return pos;
}

/* \p{N}, \p{N}{1,3}, \p{N}+, [0-9][0-9][0-9] */
static size_t scan_number(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return pos + in(t, pos, end, N);
}
static size_t scan_numbers3(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return run(t, pos, end - pos > 3 ? pos + 3 : end, N);
}
static size_t scan_numbers(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    return run(t, pos, end, N);
}
static size_t scan_digits3(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    if (end - pos < 3)
        return pos;
    for (size_t i = pos; i < pos + 3; i++)
        if (t->cp[i] < '0' || t->cp[i] > '9')
            return pos;
    return pos + 3;
}

/* [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ ; numbers were cut out by the stage before */
static size_t scan_deepseek3(const struct chars *t, size_t start, size_t pos, size_t end)
{
    uint32_t cp = t->cp[pos];

    (void)start;
    if (cp < 0x80 && in(t, pos, end, P | S) && ascii_letter(cp_at(t, pos + 1, end))) {
        do
            pos++;
        while (ascii_letter(cp_at(t, pos, end)));
        return pos;
    }
    size_t letters = pos + (not_in(t, pos, end, L | P | S) && !newline_at(t, pos, end));
    if (in(t, letters, end, L | M))
        return run(t, letters, end, L | M);
    if (in(t, pos, end, L | M)) /* a mark alone: the optional character gives it back */
        return run(t, pos, end, L | M);
    size_t others = pos + (cp == ' ');
    if (in(t, others, end, P | S)) {
        pos = run(t, others, end, P | S);
        while (newline_at(t, pos, end))
            pos++;
        return pos;
    }
    return newlines_or_spaces(t, pos, end);
}

/* [\p{P}\$\+<=>\^~\|]+ */
static size_t scan_default_punct(const struct chars *t, size_t start, size_t pos, size_t end)
{
    (void)start;
    while (in(t, pos, end, P) ||
           (pos < end && t->cp[pos] != 0 && t->cp[pos] < 0x80 && strchr("$+<=>^~|", (int)t->cp[pos])))
        pos++;
    return pos;
}

/* ---- the table ---- */

static const struct pretokenizer pretokenizers[] = {
    {.names = {"gpt-2", "gpt2"}, .stages = {scan_gpt2}},
    {.names = {"llama-bpe", "llama3", "llama-v3"}, .stages = {scan_llama3}, .ignore_merges = true, .add_bos = true},
    {.names = {"qwen2", "deepseek-r1-qwen"}, .stages = {scan_qwen2}},
    {.names = {"deepseek-llm"},
     .stages = {scan_newline, scan_llm_letters, scan_llm_punct, scan_trailing_spaces, scan_cjk, scan_numbers}},
    {.names = {"deepseek-coder"},
     .stages = {scan_newline, scan_spaced_letters, scan_spaced_punct, scan_cjk, scan_number}},
    {.names = {"deepseek-v3"}, .stages = {scan_numbers3, scan_cjk_kana, scan_deepseek3}},
    {.names = {"default"}, .stages = {scan_default_punct, scan_gpt2, scan_numbers, scan_digits3}},
};
#define N_PRETOKENIZERS (sizeof(pretokenizers) / sizeof(pretokenizers[0]))

const struct pretokenizer *pretokenizer_find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_PRETOKENIZERS; i++)
        for (size_t k = 0; k < 4 && pretokenizers[i].names[k]; k++)
            if (strlen(pretokenizers[i].names[k]) == len && memcmp(pretokenizers[i].names[k], name, len) == 0)
                return &pretokenizers[i];
    return NULL;
}

const char *pretokenizer_name(const struct pretokenizer *p)
{
    return p->names[0];
}

const char *pretokenizer_names(void)
{
    return "gpt-2, llama-bpe (llama3), qwen2 (deepseek-r1-qwen), deepseek-llm, deepseek-coder, deepseek-v3, default";
}

bool pretokenizer_ignores_merges(const struct pretokenizer *p)
{
    return p->ignore_merges;
}

bool pretokenizer_adds_bos(const struct pretokenizer *p)
{
    return p->add_bos;
}

/* ---- running the stages ---- */

static void chars_init(struct chars *t, const char *text, size_t n)
{
    size_t at = 0;

    t->cp = spw_malloc((n + 1) * sizeof(*t->cp));
    t->class = spw_malloc(n + 1);
    t->where = spw_malloc((n + 1) * sizeof(*t->where));
    t->n = 0;
    while (at < n) {
        uint32_t cp;
        size_t len = utf8_decode((const unsigned char *)text + at, n - at, &cp);
        t->cp[t->n] = cp;
        t->class[t->n] = (uint8_t)(cp < 0x80 && ascii_letter(cp) ? (unsigned)L : unicode_class(cp));
        t->where[t->n++] = (uint32_t)at;
        at += len;
    }
    t->where[t->n] = (uint32_t)n;
}

static void chars_fini(struct chars *t)
{
    free(t->cp);
    free(t->class);
    free(t->where);
}

struct cut {
    const struct pretokenizer *p;
    const char *text;
    struct chars chars;
    pretokenize_word word;
    void *arg;
};

/* Recursion is as deep as there are stages. */
static enum rc cut_piece(const struct cut *c, size_t stage, size_t start, size_t end)
{
    const struct chars *t = &c->chars;
    size_t gap = start, pos = start;
    enum rc rc;

    if (start == end)
        return RC_OK;
    if (stage == STAGES_MAX || !c->p->stages[stage])
        return c->word(c->arg, c->text + t->where[start], t->where[end] - t->where[start]);
    while (pos < end) {
        size_t q = c->p->stages[stage](t, start, pos, end);
        if (q == pos) {
            pos++;
            continue;
        }
        if ((rc = cut_piece(c, stage + 1, gap, pos)) != RC_OK || (rc = cut_piece(c, stage + 1, pos, q)) != RC_OK)
            return rc;
        gap = pos = q;
    }
    return cut_piece(c, stage + 1, gap, end);
}

enum rc pretokenize(const struct pretokenizer *p, const char *text, size_t n, pretokenize_word word, void *arg)
{
    struct cut c = {.p = p, .text = text, .word = word, .arg = arg};

    SPW_ASSERT(n < UINT32_MAX);
    chars_init(&c.chars, text, n);
    enum rc rc = cut_piece(&c, 0, 0, c.chars.n);
    chars_fini(&c.chars);
    return rc;
}
