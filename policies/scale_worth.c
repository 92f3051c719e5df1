/* What a miss of the SLO costs: the price at which as many requests miss it as may.
 *
 * Machines are held for demand that may come or not. For the last of them that is a bet: its price against the
 * demand that it will keep in time. What that is worth nobody can say beforehand; but what share of requests shall be
 * in time is promised, and the right price is the one that keeps the promise and no more. It is found by feedback: the
 * misses of the last half day are counted against those that were allowed; the more of them are used up, the dearer a
 * miss is. Gently, since spot that is lost makes misses that no price would have prevented; bounded on both sides, so
 * that neither a bad hour nor a quiet week drives it where it takes days to come back from.
 *
 * In units of the dearest offer's price of a token (in practice that of on-demand machines). 1.5 says: such a machine
 * is held if it is expected to be two thirds full; one that costs a fifth, if a seventh. */
#include <math.h>

#include "policies/latency.h"
#include "policies/scale_internal.h"

#define HOUR_S 3600.0
/* Where to begin. With an API to turn to, though it is late, a miss stays one and is mild; without, whoever is late
 * makes others late. */
#define WEIGHT_START     1.75
#define WEIGHT_START_API 0.4
#define WEIGHT_LEAST     0.25
#define WEIGHT_MOST      6.0
#define AIM              0.8 /* of the misses that are allowed: what is asked for is a floor */
/* Powers of ten by which the price falls while none of them is used, and rises while twice as many are. */
#define DECADES_DOWN 1.0
#define DECADES_UP   0.3

double scale_overflow(double mean, double sd, double capacity)
{
    if (sd <= 0)
        return fmax(mean - capacity, 0);
    double z = (capacity - mean) / sd;
    double loss = exp(-z * z / 2) / sqrt(2 * M_PI) - z * normal_below(-z);
    return fmax(loss, 0) * sd;
}

/* What has come since the last plan, and the past fades. */
static void count_misses(struct scale_memory *m, const struct scale_snapshot *s)
{
    const struct scale_promise *p = &s->promise;
    double left = exp(-fmax((double)(s->now_s - m->worth_s), 0) / SCALE_PROMISE_S);
    double missed = fmax((double)(p->missed - m->missed), 0), in_time = fmax((double)(p->in_time - m->in_time), 0);

    m->answered = m->answered * left + missed + in_time;
    m->late = m->late * left + missed;
    m->worth_s = s->now_s;
    m->in_time = p->in_time;
    m->missed = p->missed;
}

static double dearest_token(const struct scale_snapshot *s)
{
    double most = 0;

    for (int32_t i = 0; i < s->n_offers; i++)
        if (s->offers[i].market != SCALE_ON_PREM && s->offers[i].tokens_per_s > 0)
            most = fmax(most, scale_dollars(s->offers[i].price_hour) / s->offers[i].tokens_per_s / HOUR_S);
    return most;
}

double scale_miss_price(struct scale_memory *m, const struct scale_snapshot *s)
{
    if (!scale_misses_count(s))
        return 0;
    if (!m->counts) {
        m->counts = true;
        m->since_s = m->worth_s = s->now_s;
    }
    count_misses(m, s);
    /* Against what may be missed in a whole memory's time, at the rate so far: an hour's bad luck is no catastrophe. */
    double filled = 1 - exp(-fmax((double)(s->now_s - m->since_s), 0) / SCALE_PROMISE_S);
    double allowed = AIM * (1 - s->promise.asked) * m->answered;
    double over = allowed > 0 ? filled * (m->late / allowed - 1) : 0;
    double start = s->api.allowed && s->api.steady ? WEIGHT_START_API : WEIGHT_START;
    double weight = start * pow(10, over * (over > 0 ? DECADES_UP : DECADES_DOWN));
    return fmin(fmax(weight, WEIGHT_LEAST), WEIGHT_MOST) * dearest_token(s);
}
