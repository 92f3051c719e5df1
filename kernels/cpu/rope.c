/* Rotary embedding of the CPU backend. Angles are reduced and their sine and cosine computed in double by a fixed
 * sequence of additions and multiplications, so that all machines agree on every bit (C libraries do not). */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* pi/2 in three parts; n * PI2_HI and n * PI2_MID are exact for n < 2^20, that is for angles up to a million and more,
 * which positions times frequencies <= 1 stay below. */
#define PI2_HI  0x1.921fb54400000p+0
#define PI2_MID 0x1.0b4611a600000p-34
#define PI2_LO  0x1.3198a2e037073p-69

/* Taylor series on [-pi/4, pi/4]; the first term left out is below 1e-16. */
static void sine_cosine(double angle, double *sine, double *cosine)
{
    double n = rint(angle * 0x1.45f306dc9c883p-1);
    double r = ((angle - n * PI2_HI) - n * PI2_MID) - n * PI2_LO, z = r * r;
    double s = 1.0 / 355687428096000.0;
    s = -1.0 / 1307674368000.0 + z * s;
    s = 1.0 / 6227020800.0 + z * s;
    s = -1.0 / 39916800.0 + z * s;
    s = 1.0 / 362880.0 + z * s;
    s = -1.0 / 5040.0 + z * s;
    s = 1.0 / 120.0 + z * s;
    s = -1.0 / 6.0 + z * s;
    s = r + r * z * s;
    double c = 1.0 / 20922789888000.0;
    c = -1.0 / 87178291200.0 + z * c;
    c = 1.0 / 479001600.0 + z * c;
    c = -1.0 / 3628800.0 + z * c;
    c = 1.0 / 40320.0 + z * c;
    c = -1.0 / 720.0 + z * c;
    c = 1.0 / 24.0 + z * c;
    c = 1.0 - 0.5 * z + z * z * c;
    switch ((int64_t)n & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}

struct rope_job {
    const struct isa *isa;
    const struct k_token_ref *tok;
    const struct k_rope *r;
    float *table; /* [n_tok][2][half] */
    float *x;
    int64_t row_stride;
    int32_t n_head, head_stride;
};

static void table_item(void *arg, int thread, int64_t t)
{
    (void)thread;
    const struct rope_job *job = arg;
    int32_t half = job->r->d_rope / 2;
    float *cosine = job->table + t * 2 * half, *sine = cosine + half;
    for (int32_t i = 0; i < half; i++) {
        double s, c;
        sine_cosine((double)job->tok[t].pos * (double)job->r->inv_freq[i], &s, &c);
        cosine[i] = (float)(c * (double)job->r->magnitude);
        sine[i] = (float)(s * (double)job->r->magnitude);
    }
}

static void rotate_item(void *arg, int thread, int64_t t)
{
    (void)thread;
    const struct rope_job *job = arg;
    int32_t half = job->r->d_rope / 2;
    const float *cosine = job->table + t * 2 * half;
    float *x = job->x + t * job->row_stride + job->r->offset;
    for (int32_t h = 0; h < job->n_head; h++)
        job->isa->rotate(x + (int64_t)h * job->head_stride, cosine, cosine + half, half, job->r->style);
}

/* Compared by content: a caller may reuse an address for other frequencies. */
static bool table_fits(const struct rope_table *table, const struct k_token_ref *tok, int32_t n_tok,
                       const struct k_rope *r)
{
    if (table->n_tok != n_tok || table->half != r->d_rope / 2 || table->magnitude != r->magnitude ||
        memcmp(table->inv_freq.data, r->inv_freq, (size_t)table->half * sizeof(float)) != 0)
        return false;
    const int32_t *positions = table->positions.data;
    for (int32_t t = 0; t < n_tok; t++)
        if (positions[t] != tok[t].pos)
            return false;
    return true;
}

static bool build_table(struct k_ctx *c, struct rope_job *job, int32_t n_tok)
{
    struct rope_table *table = &c->rope;
    int32_t half = job->r->d_rope / 2;
    table->n_tok = 0;
    job->table = cpu_scratch(&table->values, (size_t)n_tok * 2 * (size_t)half * sizeof(float));
    int32_t *positions = cpu_scratch(&table->positions, (size_t)n_tok * sizeof *positions);
    float *inv_freq = cpu_scratch(&table->inv_freq, (size_t)half * sizeof *inv_freq);
    if (!job->table || !positions || !inv_freq)
        return false;
    for (int32_t t = 0; t < n_tok; t++)
        positions[t] = job->tok[t].pos;
    memcpy(inv_freq, job->r->inv_freq, (size_t)half * sizeof *inv_freq);
    pool_run(c->pool, table_item, job, n_tok);
    table->n_tok = n_tok;
    table->half = half;
    table->magnitude = job->r->magnitude;
    return true;
}

enum k_status cpu_rope(struct k_ctx *c, float *x, int64_t row_stride, int32_t n_head, int32_t head_stride,
                       const struct k_token_ref *tok, int32_t n_tok, const struct k_rope *r)
{
    enum k_status status = k_check_rope(x, row_stride, n_head, head_stride, tok, n_tok, r);
    if (status != K_OK || n_tok == 0)
        return status;
    struct rope_job job = {c->isa, tok, r, c->rope.values.data, x, row_stride, n_head, head_stride};
    if (!table_fits(&c->rope, tok, n_tok, r) && !build_table(c, &job, n_tok))
        return K_NO_MEMORY;
    pool_run(c->pool, rotate_item, &job, n_tok);
    return K_OK;
}
