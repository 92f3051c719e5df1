/* Choosing tokens on the device: what engine/text/sampler.c does with logits that nothing has to be done to first, and
 * bit for bit the same choice. That is possible because weights are summed as integers (units of 2^-40 of the
 * likeliest), so that no order of summing matters, and because the exponential is the sampler's own polynomial.
 *
 * A row's logits are read from L2 two to four times: greatest, weights (by band or by warp), candidates, log of the
 * sum. Nothing but the choice goes to the host: at 152,064 ids that saves 608 KB per row over the bus and 0.2 ms of a
 * core. */
#include "kernels/cuda/sample.cuh"

#define THREADS  512
#define WARPS    (THREADS / WARP)
#define BANDS    K_SAMPLE_BANDS
#define SORT_MAX 2048 /* candidates that are put in order here; more are the host's */
#define CHUNK    512  /* logits whose exponentials are summed in floats, four lanes (engine/text/softmax.c) */
#define LANES    4
#define SUMS_MAX 4096 /* lanes of chunks in shared memory: up to half a million ids */
#define AHEAD    16   /* logits that a thread asks for before it looks at one: a row is read by one block */

struct sample_shared {
    uint64_t sum[SORT_MAX]; /* of bands, then of candidates; inclusive from the front */
    uint64_t key[SORT_MAX]; /* candidates in order: logit falling, then id */
    int32_t count[BANDS];
    uint64_t warp_sum[WARPS];
    float warp_best[WARPS];
    int32_t warp_id[WARPS];
    int32_t bad, n, found;
};

KDEV uint64_t shfl_u64(uint64_t v, int from)
{
    const uint32_t lo = (uint32_t)shfl((int)(uint32_t)v, from), hi = (uint32_t)shfl((int)(uint32_t)(v >> 32), from);
    return (uint64_t)hi << 32 | lo;
}

/* Inclusive sum over the warp's lanes. */
KDEV uint64_t warp_scan(uint64_t v)
{
    for (int step = 1; step < WARP; step *= 2) {
        const uint64_t before = shfl_u64(v, lane() >= step ? lane() - step : lane());
        v += lane() >= step ? before : 0;
    }
    return v;
}

/* exp(x) for x <= 0, 0 below -87: engine/text/softmax.c, exp_lanes(), operation by operation. */
KDEV float sample_exp(float x)
{
    const float magic = 12582912.0f;
    const float shifted = x * 1.44269504f + magic, k = shifted - magic;
    const float f = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float y = f * (1.0f / 720) + 1.0f / 120;
    y = y * f + 1.0f / 24;
    y = y * f + 1.0f / 6;
    y = y * f + 0.5f;
    y = y * f + 1.0f;
    y = y * f + 1.0f;
    y *= bits_to_f32((f32_to_bits(shifted) << 23) + (127u << 23));
    return x >= -87.0f ? y : 0.0f;
}

KDEV uint64_t units_of(float weight)
{
    return (uint64_t)(weight * K_SAMPLE_UNITS);
}

/* floor(u / 2^53 * total) */
KDEV uint64_t drawn(uint64_t u53, uint64_t total)
{
    return (uint64_t)((unsigned __int128)u53 * total >> 53);
}

/* Logits i, i + step and so on, AHEAD of them below n; past that -infinity. */
KDEV void read_ahead(float v[AHEAD], const float *logits, int32_t i, int32_t step, int32_t n)
{
#pragma unroll
    for (int k = 0; k < AHEAD; k++)
        v[k] = i + k * step < n ? logits[i + k * step] : -__builtin_huge_valf();
}

/* The greatest logit and the lowest id that has it; s->bad if one is NaN or +infinity. */
KDEV void find_best(struct sample_shared *s, const float *logits, int32_t n)
{
    float best = -__builtin_huge_valf();
    int32_t id = n;
    bool bad = false;
    for (int32_t first = thread_x(); first < n; first += AHEAD * THREADS) {
        float v[AHEAD];
        read_ahead(v, logits, first, THREADS, n);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const int32_t i = first + k * THREADS;
            bad = bad || !(v[k] < __builtin_huge_valf());
            if (i < n && (v[k] > best || id == n))
                best = v[k], id = i;
        }
    }
    for (int m = WARP / 2; m > 0; m /= 2) {
        const float other = shfl_xor(best, m);
        const int32_t other_id = shfl_xor(id, m);
        if (other > best || (other == best && other_id < id))
            best = other, id = other_id;
    }
    if (bad)
        atomic_max_int(&s->bad, 1);
    if (lane() == 0)
        s->warp_best[warp_of_block()] = best, s->warp_id[warp_of_block()] = id;
    sync_block();
    if (thread_x() == 0)
        for (int w = 1; w < WARPS; w++)
            if (s->warp_best[w] > s->warp_best[0] ||
                (s->warp_best[w] == s->warp_best[0] && s->warp_id[w] < s->warp_id[0]))
                s->warp_best[0] = s->warp_best[w], s->warp_id[0] = s->warp_id[w];
    sync_block();
}

/* ---- no filter that needs an order ---- */

/* Ids as they come: each warp sums a stretch of them, the warp that the target falls into looks for it. */
KDEV void draw_unordered(struct sample_shared *s, const float *logits, int32_t n, const struct k_sample &p, float top)
{
    const float floor = (float)p.min_p;
    const int32_t stretch = (n + WARPS * WARP - 1) / (WARPS * WARP) * WARP, from = warp_of_block() * stretch;
    const int32_t to = from + stretch < n ? from + stretch : n;
    uint64_t sum = 0, total = 0, before = 0;
    for (int32_t first = from + lane(); first < to; first += AHEAD * WARP) {
        float v[AHEAD];
        read_ahead(v, logits, first, WARP, to);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const float w = sample_exp((v[k] - top) * p.scale);
            sum += first + k * WARP < to && w >= floor ? units_of(w) : 0;
        }
    }
    sum = shfl_u64(warp_scan(sum), WARP - 1);
    if (lane() == 0)
        s->warp_sum[warp_of_block()] = sum;
    sync_block();
    for (int w = 0; w < WARPS; w++)
        total += s->warp_sum[w], before += w < warp_of_block() ? s->warp_sum[w] : 0;
    const uint64_t target = drawn(p.u53, total);
    if (target < before || target >= before + sum)
        return;
    for (int32_t i = from; i < to; i += WARP) { /* all lanes: before is the same in each */
        const float w = i + lane() < to ? sample_exp((logits[i + lane()] - top) * p.scale) : 0.0f;
        const uint64_t upto = before + warp_scan(w >= floor ? units_of(w) : 0);
        const uint64_t last = shfl_u64(upto, WARP - 1);
        if (last > target) {
            const uint64_t earlier = shfl_u64(upto, lane() > 0 ? lane() - 1 : 0);
            if (upto > target && (lane() == 0 ? before : earlier) <= target)
                s->found = i + lane();
            return;
        }
        before = last;
    }
}

/* ---- candidates in order ---- */

/* x[n] becomes the sums from the front; n a multiple of THREADS, at most 4 * THREADS. */
KDEV void scan(struct sample_shared *s, uint64_t *x, int32_t n)
{
    const int32_t each = n / THREADS, from = thread_x() * each;
    uint64_t sum = 0, before = 0;
    for (int32_t i = 0; i < each; i++)
        sum += x[from + i];
    const uint64_t upto = warp_scan(sum);
    if (lane() == WARP - 1)
        s->warp_sum[warp_of_block()] = upto;
    sync_block();
    for (int w = 0; w < warp_of_block(); w++)
        before += s->warp_sum[w];
    before += upto - sum;
    for (int32_t i = 0; i < each; i++)
        x[from + i] += before, before = x[from + i];
    sync_block();
}

/* Counts ids and weights by their distance from the likeliest; the last band that top-k or top-p reaches into goes to
 * s->found, the weight of all bands is returned. */
KDEV uint64_t find_band(struct sample_shared *s, const float *logits, int32_t n, const struct k_sample &p, float top)
{
    uint64_t *count = s->key; /* as 64-bit numbers for scan() */
    for (int32_t i = thread_x(); i < BANDS; i += THREADS)
        s->sum[i] = 0, s->count[i] = 0;
    if (thread_x() == 0)
        s->found = BANDS - 1;
    sync_block();
    for (int32_t first = thread_x(); first < n; first += AHEAD * THREADS) {
        float v[AHEAD];
        read_ahead(v, logits, first, THREADS, n);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            const float at = (top - v[k]) * p.bands_per_logit;
            if (first + k * THREADS >= n || !(at < BANDS))
                continue;
            atomic_add_u64(&s->sum[(int)at], units_of(sample_exp((v[k] - top) * p.scale)));
            atomic_add_int(&s->count[(int)at], 1);
        }
    }
    sync_block();
    for (int32_t i = thread_x(); i < BANDS; i += THREADS)
        count[i] = (uint64_t)s->count[i];
    sync_block();
    scan(s, s->sum, BANDS);
    scan(s, count, BANDS);
    const uint64_t total = s->sum[BANDS - 1];
    const double most = p.top_p * (double)total;
    for (int32_t i = thread_x(); i < BANDS - 1; i += THREADS) { /* both sums rise: one band is the first */
        const bool reached = p.top_k ? count[i] >= (uint64_t)p.top_k : (double)s->sum[i] > most;
        const bool earlier = i > 0 && (p.top_k ? count[i - 1] >= (uint64_t)p.top_k : (double)s->sum[i - 1] > most);
        if (reached && !earlier)
            s->found = i;
    }
    sync_block();
    return total;
}

/* A number that rises as the logit falls, then with the id. */
KDEV uint64_t key_of(float logit, int32_t id)
{
    const uint32_t u = f32_to_bits(logit + 0.0f); /* -0 is 0 */
    return (uint64_t)(u & 0x80000000u ? u : ~(u | 0x80000000u)) << 32 | (uint32_t)id;
}

/* Collects what lies in bands up to s->found; s->n of them, in order, if not more than SORT_MAX. */
KDEV void sort_candidates(struct sample_shared *s, const float *logits, int32_t n, const struct k_sample &p, float top)
{
    const float reach = (float)(s->found + 1);
    sync_block();
    if (thread_x() == 0)
        s->n = 0;
    sync_block();
    for (int32_t first = thread_x(); first < n; first += AHEAD * THREADS) {
        float v[AHEAD];
        read_ahead(v, logits, first, THREADS, n);
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k * THREADS < n && (top - v[k]) * p.bands_per_logit < reach) {
                const int at = atomic_add_int(&s->n, 1);
                if (at < SORT_MAX)
                    s->key[at] = key_of(v[k], first + k * THREADS);
            }
    }
    sync_block();
    int32_t size = THREADS;
    while (size < s->n)
        size *= 2;
    if (s->n > SORT_MAX)
        return;
    for (int32_t i = s->n + thread_x(); i < size; i += THREADS)
        s->key[i] = UINT64_MAX;
    sync_block();
    for (int32_t run = 2; run <= size; run *= 2) /* bitonic (Batcher 1968) */
        for (int32_t step = run / 2; step > 0; step /= 2) {
            for (int32_t i = thread_x(); i < size; i += THREADS) {
                const int32_t j = i ^ step;
                if (j < i)
                    continue; /* the pair is the other thread's */
                const uint64_t a = s->key[i], b = s->key[j];
                if ((a > b) == !(i & run))
                    s->key[i] = b, s->key[j] = a;
            }
            sync_block();
        }
}

KDEV float weight_at(const struct sample_shared *s, const float *logits, const struct k_sample &p, float top, int32_t i)
{
    return sample_exp((logits[(uint32_t)s->key[i]] - top) * p.scale);
}

/* As many candidates as top-k, top-p and min-p let through, then one of those. */
KDEV void draw_filtered(struct sample_shared *s, const float *logits, int32_t n, const struct k_sample &p, float top)
{
    uint64_t total = find_band(s, logits, n, p, top);
    sort_candidates(s, logits, n, p, top);
    if (s->n > SORT_MAX)
        return;
    for (int32_t i = thread_x(); i < SORT_MAX; i += THREADS)
        s->sum[i] = i < s->n ? units_of(weight_at(s, logits, p, top, i)) : 0;
    sync_block();
    scan(s, s->sum, SORT_MAX);
    const int32_t k = p.top_k && p.top_k < s->n ? p.top_k : s->n;
    total = p.top_k ? s->sum[k - 1] : total;
    const double most = p.top_p * (double)total;
    if (thread_x() == 0)
        s->found = k;
    sync_block();
    for (int32_t i = 1 + thread_x(); i < k;
         i += THREADS) { /* weights fall, sums rise: one is the first to be left out */
        const bool out =
            (double)weight_at(s, logits, p, top, i) < p.min_p || (p.top_p < 1 && (double)s->sum[i - 1] >= most);
        const bool earlier = i > 1 && ((double)weight_at(s, logits, p, top, i - 1) < p.min_p ||
                                       (p.top_p < 1 && (double)s->sum[i - 2] >= most));
        if (out && !earlier)
            s->found = i;
    }
    sync_block();
    const int32_t kept = s->found;
    const uint64_t target = drawn(p.u53, s->sum[kept - 1]);
    sync_block();
    for (int32_t i = thread_x(); i < kept; i += THREADS)
        if (s->sum[i] > target && (i == 0 || s->sum[i - 1] <= target))
            s->found = (int32_t)(uint32_t)s->key[i];
}

/* ---- what is reported ---- */

/* sum(exp(logits - top)) in the order of engine/text/softmax.c: lanes of chunks in floats, those in a double. */
KDEV double exp_total(struct sample_shared *s, const float *logits, int32_t n, float top)
{
    float *sums = (float *)s->sum; /* SUMS_MAX of them */
    const int32_t chunks = (n + CHUNK - 1) / CHUNK;
    for (int32_t i = thread_x(); i < chunks * LANES; i += THREADS) {
        const int32_t from = i / LANES * CHUNK + i % LANES,
                      to = n < (i / LANES + 1) * CHUNK ? n : (i / LANES + 1) * CHUNK;
        float sum = 0.0f;
        for (int32_t j = from; j < to; j += LANES)
            sum += sample_exp(logits[j] - top);
        sums[i] = sum;
    }
    sync_block();
    double total = 0.0;
    for (int32_t i = 0; thread_x() == 0 && i < chunks * LANES; i++)
        total += (double)sums[i];
    return total;
}

/* Grid n rows, 512 threads. Shared: 38 KiB. Bytes: 2 to 4 times n_vocab * 4 from L2 per row; bound by how fast one
 * multiprocessor reads those, about 10 us a time. */
KERNEL_BOUNDS(sample_kernel, THREADS, 1)
(struct k_sampled *out, const float *all_logits, int32_t n, const struct k_sample *params)
{
    SHARED(struct sample_shared, shared, 1);
    struct sample_shared *s = &shared[0];
    const struct k_sample p = params[block_x()];
    const float *logits = all_logits + (int64_t)p.row * n;
    if (thread_x() == 0)
        s->bad = 0, s->n = 0;
    sync_block();
    find_best(s, logits, n);
    const float top = s->warp_best[0];
    const int32_t best = s->warp_id[0];
    struct k_sampled r = {best, K_SAMPLED, top, top, 0.0};
    if (s->bad) {
        r.state = K_SAMPLED_NOT_FINITE;
    } else if (top == -__builtin_huge_valf()) {
        r.state = K_SAMPLED_NOT_HERE; /* nothing may be chosen: the sampler has the words */
    } else if (p.scale > 0) {
        if (p.top_k == 0 && p.top_p == 1)
            draw_unordered(s, logits, n, p, top);
        else
            draw_filtered(s, logits, n, p, top);
        sync_block();
        r.id = s->found;
        if (s->n > SORT_MAX)
            r.state = K_SAMPLED_NOT_HERE;
    }
    sync_block();
    if (p.want_total && r.state == K_SAMPLED)
        r.total = exp_total(s, logits, n, top);
    if (thread_x() == 0) {
        r.logit = r.state == K_SAMPLED ? logits[r.id] : 0.0f;
        out[block_x()] = r;
    }
}

enum k_status sample_rows(stream_t st, struct k_sampled *out, const float *logits, int32_t n_vocab,
                          const struct k_sample *s, int32_t n)
{
    if (n == 0)
        return K_OK;
    if (n_vocab <= 0 || n < 0)
        return K_BAD_SHAPE;
    if ((n_vocab + CHUNK - 1) / CHUNK * LANES > SUMS_MAX)
        return K_UNSUPPORTED;
    return launch(st, sample_kernel, grid_of(n), THREADS, 0, out, logits, n_vocab, s);
}
