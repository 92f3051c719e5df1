/* See shortlist.h. Blocks are laid out term by term with the eight children side by side, so that all eight are rated
 * in one go. */
#include "policies/shortlist.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define WIDTH        8
#define CACHE_LINE   64
#define WORDS        (SHORTLIST_MODELS_MAX / 64)
#define LEVELS_MAX   6 /* 8^6 > SHORTLIST_NODES_MAX */
#define VISITS_MAX   1024
#define FRONTIER_MAX 1024
#define FASTEST      2
/* The best so many are surely the best, within a thousandth; the others are the best of those that were seen. With
 * fewer, what comes is spread over fewer nodes where all are nearly equal, and waits there. */
#define EXACT      8
#define TERM_MAX   1e18f
#define NEAR_BITS  (1u << 10) /* of VALUE_BITS of a float: from 0.05% to 0.1% of its value */
#define NOTHING    1e30f      /* the least of no terms */
#define LAST_STATE 7.0f       /* behind all states that there are */
#define USUAL_IN   128.0f     /* until shortlist_usual() says else */
#define USUAL_OUT  256.0f

/* T_USUAL: time of a request of the usual size. The least of a sum is more than the sum of the leasts: with it the
 * bound of the time of any request that is not far from usual is nearly what one node comes to. */
enum {
    T_STATE,
    T_MONEY,
    T_MONEY_IN,
    T_MONEY_OUT,
    T_FIRST,
    T_FIRST_IN,
    T_NEXT,
    T_TAIL,
    T_MJ,
    T_MJ_IN,
    T_MJ_OUT,
    T_USUAL,
    TERMS
};

#define LASTING 4 /* load moves the fixed terms; these stay */
static const int lasting[LASTING] = {T_MONEY_OUT, T_MONEY_IN, T_FIRST_IN, T_MJ_OUT};

struct block { /* six cache lines, aligned to them */
    float least[TERMS][WIDTH];
};
_Static_assert(sizeof(struct block) % CACHE_LINE == 0, "blocks share no cache line");

/* By model and block, a bit per child: somebody below serves it; a local one does. 0: nobody is there. */
struct served {
    uint8_t *any, *local; /* [model * blocks + block] */
    int32_t blocks;
};

struct leaf {
    int32_t node; /* -1: none */
    struct shortlist_kind kind;
    float terms[TERMS];
};

struct shortlist {
    int32_t capacity, n, top; /* top: first leaf that was never used */
    float usual_in, usual_out;
    int levels; /* levels[0] above the leaves */
    struct block *level[LEVELS_MAX];
    struct served served[LEVELS_MAX];
    struct leaf *leaves;
    int32_t *leaf_of; /* by node; -1: not there */
    int32_t *unused;  /* stack of leaves */
    int32_t n_unused;
    int32_t *order; /* scratch of shortlist_order(), like the two that follow */
    float spread[LASTING];
    struct leaf *moved;
};

/* ---- set-up ------------------------------------------------------------------------------------------------------ */

static int32_t blocks_for(int32_t children)
{
    return (children + WIDTH - 1) / WIDTH;
}

static void clear_blocks(struct shortlist *s)
{
    int32_t children = s->capacity;
    for (int l = 0; l < s->levels; l++) {
        children = blocks_for(children);
        memset(s->served[l].any, 0, (size_t)children * SHORTLIST_MODELS_MAX);
        memset(s->served[l].local, 0, (size_t)children * SHORTLIST_MODELS_MAX);
        for (int32_t b = 0; b < children; b++) {
            for (int i = 0; i < TERMS * WIDTH; i++)
                s->level[l][b].least[i / WIDTH][i % WIDTH] = NOTHING;
        }
    }
}

static void clear_leaf(struct leaf *leaf)
{
    *leaf = (struct leaf){.node = -1};
    for (int t = 0; t < TERMS; t++)
        leaf->terms[t] = NOTHING;
}

enum rc shortlist_new(struct shortlist **out, int32_t capacity, struct error *e)
{
    if (capacity < 1 || capacity > SHORTLIST_NODES_MAX)
        return error_set(e, RC_INVALID, "a shortlist is for 1 to %d nodes, not %d", SHORTLIST_NODES_MAX, capacity);
    struct shortlist *s = spw_calloc(1, sizeof *s);
    size_t n = (size_t)capacity;
    s->capacity = capacity;
    s->usual_in = USUAL_IN;
    s->usual_out = USUAL_OUT;
    s->leaves = spw_calloc(n, sizeof *s->leaves);
    s->moved = spw_calloc(n, sizeof *s->moved);
    s->leaf_of = spw_calloc(n, sizeof *s->leaf_of);
    s->unused = spw_calloc(n, sizeof *s->unused);
    s->order = spw_calloc(n, sizeof *s->order);
    for (int32_t children = capacity; s->levels == 0 || children > 1; s->levels++) {
        children = blocks_for(children);
        s->level[s->levels] = spw_calloc_aligned((size_t)children, sizeof *s->level[0], CACHE_LINE);
        s->served[s->levels] = (struct served){.any = spw_calloc((size_t)children, SHORTLIST_MODELS_MAX),
                                               .local = spw_calloc((size_t)children, SHORTLIST_MODELS_MAX),
                                               .blocks = children};
    }
    for (int32_t i = 0; i < capacity; i++) {
        s->leaf_of[i] = -1;
        clear_leaf(&s->leaves[i]);
    }
    clear_blocks(s);
    *out = s;
    return RC_OK;
}

void shortlist_free(struct shortlist *s)
{
    if (!s)
        return;
    for (int l = 0; l < s->levels; l++) {
        free(s->level[l]);
        free(s->served[l].any);
        free(s->served[l].local);
    }
    free(s->leaves);
    free(s->moved);
    free(s->leaf_of);
    free(s->unused);
    free(s->order);
    free(s);
}

/* ---- updates ----------------------------------------------------------------------------------------------------- */

static bool serves(const struct shortlist_kind *k, int model)
{
    return k->models[model / 64] >> (model % 64) & 1;
}

static float sane(float x)
{
    return x > 0 ? (x < TERM_MAX ? x : TERM_MAX) : 0; /* what is no number compares false */
}

static float usual_time(const struct shortlist *s, const float terms[TERMS])
{
    return terms[T_FIRST] + s->usual_in * terms[T_FIRST_IN] + s->usual_out * terms[T_NEXT];
}

static void read_terms(const struct shortlist *s, float out[TERMS], const struct shortlist_terms *t)
{
    const float terms[TERMS] = {[T_STATE] = (float)t->state,
                                [T_MONEY] = t->money,
                                [T_MONEY_IN] = t->money_per_input,
                                [T_MONEY_OUT] = t->money_per_output,
                                [T_FIRST] = t->first_us,
                                [T_FIRST_IN] = t->first_us_per_input,
                                [T_NEXT] = t->next_us,
                                [T_TAIL] = t->tail > 1 ? t->tail : 1,
                                [T_MJ] = t->mj,
                                [T_MJ_IN] = t->mj_per_input,
                                [T_MJ_OUT] = t->mj_per_output};
    for (int i = 0; i < TERMS; i++)
        out[i] = sane(terms[i]);
    out[T_USUAL] = usual_time(s, out);
}

static float least_of(const float x[WIDTH])
{
    float low[WIDTH / 2];
    for (int i = 0; i < WIDTH / 2; i++)
        low[i] = x[i] < x[i + WIDTH / 2] ? x[i] : x[i + WIDTH / 2];
    const float a = low[0] < low[1] ? low[0] : low[1], b = low[2] < low[3] ? low[2] : low[3];
    return a < b ? a : b;
}

/* Of the children in the best state that one of them is in: the others are behind anything that is in it, whatever they
 * come to. A full machine is often quick, and would make the bound of all its neighbours too low. */
static float least_term(const struct block *b, int term, float state)
{
    float x[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        x[i] = b->least[T_STATE][i] <= state ? b->least[term][i] : NOTHING;
    return least_of(x);
}

/* A leaf's term has changed, and not its state: so have those above it, up to where it is not the least. */
static void raise_term(struct shortlist *s, int32_t leaf, int term)
{
    float least = s->leaves[leaf].terms[term];
    int32_t child = leaf;
    for (int l = 0; l < s->levels; l++) {
        struct block *b = &s->level[l][child / WIDTH];
        float *x = b->least[term];
        if (x[child % WIDTH] == least)
            return;
        x[child % WIDTH] = least;
        least = least_term(b, term, least_of(b->least[T_STATE]));
        child /= WIDTH;
    }
}

static void raise_all_terms(struct shortlist *s, int32_t leaf)
{
    float least[TERMS];
    int32_t child = leaf;
    memcpy(least, s->leaves[leaf].terms, sizeof(least));
    for (int l = 0; l < s->levels; l++) {
        struct block *b = &s->level[l][child / WIDTH];
        bool same = true;
        for (int t = 0; t < TERMS; t++) {
            same = same && b->least[t][child % WIDTH] == least[t];
            b->least[t][child % WIDTH] = least[t];
        }
        if (same)
            return;
        const float state = least_of(b->least[T_STATE]);
        for (int t = 0; t < TERMS; t++)
            least[t] = least_term(b, t, state);
        child /= WIDTH;
    }
}

static void raise_model(struct shortlist *s, int32_t leaf, int model)
{
    const struct leaf *from = &s->leaves[leaf];
    bool any = from->node >= 0 && serves(&from->kind, model), local = any && from->kind.local;
    int32_t child = leaf;
    for (int l = 0; l < s->levels; l++) {
        const size_t at = (size_t)model * (size_t)s->served[l].blocks + (size_t)(child / WIDTH);
        uint8_t *of_any = &s->served[l].any[at], *of_local = &s->served[l].local[at];
        const unsigned bit = 1u << child % WIDTH;
        *of_any = (uint8_t)(any ? *of_any | bit : *of_any & ~bit);
        *of_local = (uint8_t)(local ? *of_local | bit : *of_local & ~bit);
        any = *of_any != 0;
        local = *of_local != 0;
        child /= WIDTH;
    }
}

/* Those that it serves, and those that whoever was there before did. */
static void raise_kind(struct shortlist *s, int32_t leaf, const struct shortlist_kind *before)
{
    for (int w = 0; w < WORDS; w++) {
        for (uint64_t m = s->leaves[leaf].kind.models[w] | before->models[w]; m; m &= m - 1)
            raise_model(s, leaf, w * 64 + __builtin_ctzll(m));
    }
}

void shortlist_put(struct shortlist *s, int32_t node, const struct shortlist_kind *kind,
                   const struct shortlist_terms *terms)
{
    SPW_ASSERT(node >= 0 && node < s->capacity);
    int32_t leaf = s->leaf_of[node];
    if (leaf < 0) {
        leaf = s->n_unused > 0 ? s->unused[--s->n_unused] : s->top++;
        s->leaf_of[node] = leaf;
        s->n++;
    }
    const struct shortlist_kind before = s->leaves[leaf].kind;
    s->leaves[leaf].node = node;
    s->leaves[leaf].kind = *kind;
    read_terms(s, s->leaves[leaf].terms, terms);
    raise_all_terms(s, leaf);
    raise_kind(s, leaf, &before);
}

void shortlist_update(struct shortlist *s, int32_t node, const struct shortlist_terms *terms)
{
    SPW_ASSERT(node >= 0 && node < s->capacity && s->leaf_of[node] >= 0);
    const int32_t leaf = s->leaf_of[node];
    float *were = s->leaves[leaf].terms, are[TERMS];
    read_terms(s, are, terms);
    if (were[T_STATE] != are[T_STATE]) {
        memcpy(were, are, sizeof(are));
        raise_all_terms(s, leaf);
        return;
    }
    for (int t = 0; t < TERMS; t++) {
        if (were[t] != are[t]) {
            were[t] = are[t];
            raise_term(s, leaf, t);
        }
    }
}

void shortlist_drop(struct shortlist *s, int32_t node)
{
    SPW_ASSERT(node >= 0 && node < s->capacity);
    int32_t leaf = s->leaf_of[node];
    if (leaf < 0)
        return;
    s->leaf_of[node] = -1;
    s->n--;
    const struct shortlist_kind before = s->leaves[leaf].kind;
    clear_leaf(&s->leaves[leaf]);
    raise_all_terms(s, leaf);
    raise_kind(s, leaf, &before);
    s->unused[s->n_unused++] = leaf;
}

void shortlist_usual(struct shortlist *s, float input_tokens, float output_tokens)
{
    s->usual_in = sane(input_tokens);
    s->usual_out = sane(output_tokens);
    for (int32_t i = 0; i < s->top; i++) {
        if (s->leaves[i].node >= 0) {
            s->leaves[i].terms[T_USUAL] = usual_time(s, s->leaves[i].terms);
            raise_term(s, i, T_USUAL);
        }
    }
}

int32_t shortlist_count(const struct shortlist *s)
{
    return s->n;
}

/* ---- order: a k-d tree's, by the terms that say what a node is ---------------------------------------------------- */

static int compare_kinds(const struct leaf *a, const struct leaf *b)
{
    for (int w = 0; w < WORDS; w++) {
        if (a->kind.models[w] != b->kind.models[w])
            return a->kind.models[w] < b->kind.models[w] ? -1 : 1;
    }
    return (a->kind.local > b->kind.local) - (a->kind.local < b->kind.local);
}

/* term < 0: by kind. */
static bool goes_before(const struct leaf *a, const struct leaf *b, int term)
{
    int c = term < 0 ? compare_kinds(a, b) : (a->terms[term] > b->terms[term]) - (a->terms[term] < b->terms[term]);
    return c < 0 || (c == 0 && a->node < b->node);
}

static void swap(int32_t *a, int32_t *b)
{
    int32_t t = *a;
    *a = *b;
    *b = t;
}

/* order[k] becomes what it would be if order[0..n) were sorted, those before it go before it (Hoare's quickselect). */
static void select_nth(const struct leaf *leaves, int32_t *order, int32_t n, int32_t k, int term)
{
    for (int32_t lo = 0, hi = n - 1; lo < hi;) {
        swap(&order[(lo + hi) / 2], &order[hi]);
        int32_t put = lo;
        for (int32_t i = lo; i < hi; i++) {
            if (goes_before(&leaves[order[i]], &leaves[order[hi]], term))
                swap(&order[i], &order[put++]);
        }
        swap(&order[put], &order[hi]);
        if (put == k)
            return;
        if (put < k)
            lo = put + 1;
        else
            hi = put - 1;
    }
}

/* How far apart they are in a term: the logarithm of the ratio, of a thousand at most. */
static float spread(const struct leaf *leaves, const int32_t *order, int32_t n, int term)
{
    float low = NOTHING, high = 0;
    for (int32_t i = 0; i < n; i++) {
        float x = leaves[order[i]].terms[term];
        low = x < low ? x : low;
        high = x > high ? x : high;
    }
    return high > 0 ? logf(high / (low > high * 1e-3f ? low : high * 1e-3f)) : 0;
}

/* The term in which they differ most, measured by how far apart all are; -1: they differ in kind; -2: in nothing. */
static int widest(const struct shortlist *s, const int32_t *order, int32_t n)
{
    int best = -2;
    float most = 0;
    for (int32_t i = 1; i < n; i++) {
        if (compare_kinds(&s->leaves[order[0]], &s->leaves[order[i]]) != 0)
            return -1;
    }
    for (int t = 0; t < LASTING; t++) {
        float share = s->spread[t] > 0 ? spread(s->leaves, order, n, lasting[t]) / s->spread[t] : 0;
        if (share > most) {
            most = share;
            best = lasting[t];
        }
    }
    return best;
}

/* Halves that are whole blocks, and whole blocks of blocks, all the way up. */
static int32_t half(int32_t n)
{
    int32_t unit = WIDTH;
    while (unit * WIDTH < n)
        unit *= WIDTH;
    return (n / 2 + unit - 1) / unit * unit;
}

static void order_range(const struct shortlist *s, int32_t *order, int32_t n)
{
    while (n > WIDTH) {
        int term = widest(s, order, n);
        if (term == -2)
            return;
        int32_t left = half(n);
        select_nth(s->leaves, order, n, left, term);
        order_range(s, order, left); /* halves: as deep as the logarithm */
        order += left;
        n -= left;
    }
}

void shortlist_order(struct shortlist *s)
{
    int32_t n = 0;
    for (int32_t node = 0; node < s->capacity; node++) { /* by node, so that the order before does not matter */
        if (s->leaf_of[node] >= 0)
            s->order[n++] = s->leaf_of[node];
    }
    for (int t = 0; t < LASTING; t++)
        s->spread[t] = spread(s->leaves, s->order, n, lasting[t]);
    order_range(s, s->order, n);
    for (int32_t i = 0; i < n; i++)
        s->moved[i] = s->leaves[s->order[i]];
    clear_blocks(s);
    s->top = n;
    s->n_unused = 0;
    for (int32_t i = 0; i < s->capacity; i++) {
        if (i < n)
            s->leaves[i] = s->moved[i];
        else
            clear_leaf(&s->leaves[i]);
        if (i < n) {
            s->leaf_of[s->leaves[i].node] = i;
            raise_all_terms(s, i);
            raise_kind(s, i, &s->leaves[i].kind);
        }
    }
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

/* A rating is one number, less is better: the level, and below it the value's bits, which are in the order of the
 * values where none is negative (IEEE 754), but for the last three: a millionth. With the leaf below it, it also says
 * who: ties go to the lower leaf. So does what was not looked into yet: rating, level, block. */
#define LEAF_BITS  16
#define VALUE_BITS 28
#define NO_RATING  UINT64_MAX
_Static_assert(SHORTLIST_NODES_MAX <= 1 << LEAF_BITS, "a leaf's number must fit below a rating");
_Static_assert(2 * SHORTLIST_LEAVING + 1 < 15, "a level must fit above a value");

struct search {
    const struct shortlist *s;
    const struct shortlist_query *q;
    float in, out; /* tokens */
    float w_money, w_us, w_mj, first_limit, next_limit;
    float part_usual, more_first, more_in, more_next; /* time as a part of T_USUAL and what is left of its terms */
    uint64_t best[SHORTLIST_MAX];                     /* best first: rating << LEAF_BITS | leaf; NO_RATING: none yet */
    int want;
    uint64_t frontier[FRONTIER_MAX]; /* a heap of blocks: rating << 32 | level << LEAF_BITS | block */
    int n_open;
    int32_t visits;
    bool cut;
};

static void set_search(struct search *x, const struct shortlist *s, const struct shortlist_query *q)
{
    x->s = s;
    x->q = q;
    x->in = sane(q->input_tokens);
    x->out = sane(q->output_tokens);
    x->w_money = q->w_money;
    x->w_us = q->w_us;
    x->w_mj = q->w_mj;
    x->first_limit = q->first_limit_us > 0 ? q->first_limit_us : NOTHING * 1e6f;
    x->next_limit = q->next_limit_us > 0 ? q->next_limit_us : NOTHING * 1e6f;
    x->part_usual =
        fminf(1, fminf(s->usual_in > 0 ? x->in / s->usual_in : 1, s->usual_out > 0 ? x->out / s->usual_out : 1));
    x->more_first = 1 - x->part_usual;
    x->more_in = fmaxf(0, x->in - x->part_usual * s->usual_in);
    x->more_next = fmaxf(0, x->out - x->part_usual * s->usual_out);
    x->want = q->want;
    x->visits = 0;
    x->cut = false;
}

/* Of the eight children at once. Every operation grows with every term, which is what makes the least terms a bound. */
static inline void rate_children(const struct search *x, const struct block *b, int32_t level[WIDTH],
                                 float value[WIDTH], bool nodes)
{
    for (int i = 0; i < WIDTH; i++) {
        const float first = b->least[T_FIRST][i] + b->least[T_FIRST_IN][i] * x->in;
        const float next = b->least[T_NEXT][i], tail = b->least[T_TAIL][i];
        const float money = b->least[T_MONEY][i] + b->least[T_MONEY_IN][i] * x->in + b->least[T_MONEY_OUT][i] * x->out;
        const float mj = b->least[T_MJ][i] + b->least[T_MJ_IN][i] * x->in + b->least[T_MJ_OUT][i] * x->out;
        const float us = nodes ? first + next * x->out
                               : b->least[T_USUAL][i] * x->part_usual + b->least[T_FIRST][i] * x->more_first +
                                     b->least[T_FIRST_IN][i] * x->more_in + next * x->more_next;
        const int32_t late = (first * tail > x->first_limit) | (next * tail > x->next_limit);
        const float state =
            b->least[T_STATE][i] < LAST_STATE ? b->least[T_STATE][i] : LAST_STATE; /* nobody's: NOTHING */
        level[i] = (int32_t)state * 2 + late;
        value[i] = money * x->w_money + us * x->w_us + mj * x->w_mj;
    }
}

static inline void ratings_of(const struct search *x, const struct block *b, uint32_t out[WIDTH], bool nodes)
{
    int32_t level[WIDTH];
    uint32_t bits[WIDTH];
    float value[WIDTH];
    rate_children(x, b, level, value, nodes);
    memcpy(bits, value, sizeof bits);
    for (int i = 0; i < WIDTH; i++)
        out[i] = (uint32_t)level[i] << VALUE_BITS | bits[i] >> (31 - VALUE_BITS);
}

static bool is_skipped(const struct shortlist_query *q, int32_t node)
{
    for (int i = 0; i < q->n_skip; i++) {
        if (q->skip[i] == node)
            return true;
    }
    return false;
}

/* Only who is better than this is of interest, once there are as many as are wanted. By less than a thousandth is not
 * better: bounds are a little below what is there, and where many are as good as each other all of them would be opened
 * for it. */
static inline uint64_t hopeless_from(const struct search *x)
{
    if (x->best[x->want - 1] == NO_RATING)
        return NO_RATING;
    const uint32_t rating = (uint32_t)(x->best[(x->want < EXACT ? x->want : EXACT) - 1] >> LEAF_BITS);
    const uint32_t value = rating & ((1u << VALUE_BITS) - 1);
    return (uint64_t)(value > NEAR_BITS ? rating - NEAR_BITS : rating) << 32;
}

/* Into its place, those behind it one further: without a branch, since nobody could foresee it. */
static inline void keep(struct search *x, int32_t leaf, uint32_t rating)
{
    const uint64_t found = (uint64_t)rating << LEAF_BITS | (uint32_t)leaf;
    if (found >= x->best[x->want - 1] || (x->q->n_skip && is_skipped(x->q, x->s->leaves[leaf].node)))
        return;
    for (int i = x->want - 1; i > 0; i--) {
        const uint64_t before = x->best[i - 1], here = found < x->best[i] ? found : x->best[i];
        x->best[i] = found < before ? before : here;
    }
    x->best[0] = found < x->best[0] ? found : x->best[0];
}

static inline void push(struct search *x, uint64_t o)
{
    if (x->n_open == FRONTIER_MAX) {
        x->cut = true;
        return;
    }
    int i = x->n_open++;
    for (; i > 0 && o < x->frontier[(i - 1) / 2]; i = (i - 1) / 2)
        x->frontier[i] = x->frontier[(i - 1) / 2];
    x->frontier[i] = o;
}

static inline uint64_t pop(struct search *x)
{
    const uint64_t top = x->frontier[0], last = x->frontier[--x->n_open];
    int i = 0;
    for (;;) {
        int c = 2 * i + 1;
        if (c >= x->n_open)
            break;
        c += c + 1 < x->n_open && x->frontier[c + 1] < x->frontier[c];
        if (x->frontier[c] >= last)
            break;
        x->frontier[i] = x->frontier[c];
        i = c;
    }
    x->frontier[i] = last;
    return top;
}

static inline void look_into(struct search *x, int level, int32_t block)
{
    const struct served *served = &x->s->served[level];
    const size_t at = (size_t)x->q->model * (size_t)served->blocks + (size_t)block;
    uint32_t ratings[WIDTH];
    unsigned left = x->q->local_only ? served->local[at] : served->any[at];
    x->visits++;
    if (level == 0) {
        ratings_of(x, &x->s->level[0][block], ratings, true);
        for (; left; left &= left - 1)
            keep(x, block * WIDTH + __builtin_ctz(left), ratings[__builtin_ctz(left)]);
        return;
    }
    const uint64_t hopeless = hopeless_from(x);
    ratings_of(x, &x->s->level[level][block], ratings, false);
    for (; left; left &= left - 1) {
        const int i = __builtin_ctz(left);
        const uint64_t o =
            (uint64_t)ratings[i] << 32 | (uint32_t)(level - 1) << LEAF_BITS | (uint32_t)(block * WIDTH + i);
        if (o < hopeless)
            push(x, o);
    }
}

static void search(struct search *x)
{
    x->n_open = 0;
    for (int i = 0; i < x->want; i++)
        x->best[i] = NO_RATING;
    look_into(x, x->s->levels - 1, 0);
    while (x->n_open > 0) {
        const uint64_t o = pop(x);
        if (o >= hopeless_from(x))
            return;
        if (x->visits >= VISITS_MAX) {
            x->cut = true;
            return;
        }
        look_into(x, (int)((uint32_t)o >> LEAF_BITS), (int32_t)((uint32_t)o & ((1u << LEAF_BITS) - 1)));
    }
}

static bool admits(const struct shortlist *s, const struct shortlist_query *q, int32_t node)
{
    if (node < 0 || node >= s->capacity || s->leaf_of[node] < 0)
        return false;
    const struct shortlist_kind *k = &s->leaves[s->leaf_of[node]].kind;
    return serves(k, q->model) && (k->local || !q->local_only);
}

/* first: those that were listed by another search, or as hints; one search finds nobody twice. */
static void list(struct shortlist_result *out, int32_t node, int first, int want)
{
    for (int i = 0; i < first; i++) {
        if (out->nodes[i] == node)
            return;
    }
    if (out->n < want)
        out->nodes[out->n++] = node;
}

static void list_best(struct shortlist_result *out, struct search *x, int want)
{
    const int first = out->n;
    search(x);
    for (int i = 0; i < x->want && x->best[i] != NO_RATING; i++)
        list(out, x->s->leaves[x->best[i] & ((1u << LEAF_BITS) - 1)].node, first, want);
}

void shortlist_pick(const struct shortlist *s, const struct shortlist_query *q, struct shortlist_result *out)
{
    SPW_ASSERT(q->model >= 0 && q->model < SHORTLIST_MODELS_MAX && q->want >= 1 && q->want <= SHORTLIST_MAX);
    struct search x;
    set_search(&x, s, q);
    out->n = 0;
    for (int i = 0; i < q->n_hints; i++) {
        if (admits(s, q, q->hints[i]) && !is_skipped(q, q->hints[i]))
            list(out, q->hints[i], out->n, q->want);
    }
    if ((q->first_limit_us > 0 || q->next_limit_us > 0) && q->want > FASTEST) {
        x.w_money = x.w_mj = 0;
        x.w_us = 1;
        x.want = FASTEST;
        list_best(out, &x, q->want);
    }
    x.w_money = q->w_money;
    x.w_us = q->w_us;
    x.w_mj = q->w_mj;
    x.want = q->want;
    list_best(out, &x, q->want);
    out->visits = x.visits;
    out->cut = x.cut;
}

bool shortlist_rate(const struct shortlist *s, const struct shortlist_query *q, int32_t node, int *level, float *value)
{
    if (!admits(s, q, node))
        return false;
    const int32_t leaf = s->leaf_of[node];
    struct search x;
    int32_t levels[WIDTH];
    float values[WIDTH];
    set_search(&x, s, q);
    rate_children(&x, &s->level[0][leaf / WIDTH], levels, values, true);
    *level = levels[leaf % WIDTH];
    *value = values[leaf % WIDTH];
    return true;
}
