/* Trace context: what is believed of a client's headers, ids, who is recorded, what a node is told; spans within
 * bounds.
 * links: spw_sched_observe */
#include "scheduler/observe/span.h"
#include "test.h"

static const uint8_t seed[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
#define ID     "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN   "00f067aa0ba902b7"
#define PARENT "00-" ID "-" SPAN "-01"

static enum rc parse(const char *text, struct trace_parent *p)
{
    return trace_parent_parse(text, strlen(text), p);
}

static void reads_a_traceparent(void)
{
    struct trace_parent p;
    char text[33];
    CHECK_INT(parse(PARENT, &p), RC_OK);
    CHECK_STR(trace_id_text(p.id, text), ID);
    CHECK_STR(span_id_text(p.span, text), SPAN);
    CHECK_INT(p.flags, TRACE_SAMPLED);
    CHECK_INT(parse("00-" ID "-" SPAN "-00", &p), RC_OK);
    CHECK_INT(p.flags, 0);
    CHECK_INT(parse("00-" ID "-" SPAN "-ff", &p), RC_OK); /* unknown flags are not passed on */
    CHECK_INT(p.flags, TRACE_SAMPLED | TRACE_RANDOM);
    CHECK_INT(parse("cc-" ID "-" SPAN "-03", &p), RC_OK); /* a later version, as long as this one or longer */
    CHECK_INT(p.flags, TRACE_SAMPLED);
    CHECK_INT(parse("01-" ID "-" SPAN "-01-what.ever", &p), RC_OK);
}

static void refuses_malformed_ones(void)
{
    static const char *const bad[] = {
        "",
        "00",
        "00-" ID "-" SPAN,
        "00-" ID "-" SPAN "-0",
        "00-" ID "-" SPAN "-0g",
        PARENT "0",
        PARENT "-",
        PARENT "-01",
        " " PARENT,
        "ff-" ID "-" SPAN "-01",
        "0g-" ID "-" SPAN "-01",
        "01-" ID "-" SPAN "-01.x",
        "00_" ID "-" SPAN "-01",
        "00-" ID "_" SPAN "-01",
        "00-" ID "-" SPAN "_01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
        "00-" ID "-00F067AA0BA902B7-01",
        "00-" ID "-" SPAN "-0A",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" ID "-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-0" SPAN "-01",
    };
    struct trace_parent p;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(parse(bad[i], &p), RC_INVALID);
        CHECK_INT(p.id.b[0], 0);
    }
    CHECK_INT(trace_parent_parse("00-" ID "-" SPAN "-\0001", 55, &p), RC_INVALID);
}

static enum rc add(char *state, const char *list)
{
    return trace_state_add(state, list, strlen(list));
}

static void carries_tracestate(void)
{
    char state[TRACE_STATE_MAX + 1] = "";
    CHECK_INT(add(state, " congo=t61rcWkgMzE ,\trojo=00f067aa0ba902b7 ,, "), RC_OK);
    CHECK_STR(state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    CHECK_INT(add(state, ""), RC_OK);
    CHECK_INT(add(state, "fw529a3039@dt=FfD 1,0x/y*z_-=!"), RC_OK); /* a second header continues the list */
    CHECK_STR(state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,fw529a3039@dt=FfD 1,0x/y*z_-=!");
    static const char *const bad[] = {"a", "=b", "a=", "A=b", "a=b=c", "a=b,@c=d", "a=\x01", "a=\x80", "a b=c", "-a=b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(state, "x=y", 4);
        CHECK_INT(add(state, bad[i]), RC_INVALID);
        CHECK_STR(state, "");
    }
}

static void bounds_tracestate(void)
{
    char state[TRACE_STATE_MAX + 1] = "", list[4000] = "", key[16];
    size_t n = 0;
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%d=v,", i);
        memcpy(list + n, key, strlen(key) + 1);
        n += strlen(key);
    }
    CHECK_INT(add(state, list), RC_OK);
    CHECK(strstr(state, "k31=v") && !strstr(state, "k32=v")); /* 32 members */

    /* 200 + 300 + 100 bytes: the long ones give way to the short one. */
    snprintf(list, sizeof list, "a=%0198d,b=%0254d,c=%098d", 1, 2, 3);
    state[0] = '\0';
    CHECK_INT(add(state, list), RC_OK);
    CHECK_INT(strlen(state), 100);
    CHECK_INT(strncmp(state, "c=00", 4), 0);
    /* Short ones are kept from the left, whole. */
    snprintf(list, sizeof list, "a=%0118d,b=%0118d,c=%0118d,d=%0118d,e=%0118d", 1, 2, 3, 4, 5);
    state[0] = '\0';
    CHECK_INT(add(state, list), RC_OK);
    CHECK_INT(strlen(state), 4 * 120 + 3);
    CHECK(!strstr(state, "e="));
    /* Exactly 512. */
    snprintf(list, sizeof list, "a=%0253d,b=%0254d", 1, 2);
    state[0] = '\0';
    CHECK_INT(add(state, list), RC_OK);
    CHECK_INT(strlen(state), TRACE_STATE_MAX);
    CHECK_INT(add(state, "c=1"), RC_OK);
    CHECK_INT(strlen(state), TRACE_STATE_MAX);
    snprintf(list, sizeof list, "a=%0257d", 1); /* a value over 256 */
    CHECK_INT(add(state, list), RC_INVALID);
}

static void ids_are_of_the_seed_and_differ(void)
{
    struct tracer a, b, other;
    tracer_init(&a, seed, TRACE_RATIO, 1);
    tracer_init(&b, seed, TRACE_RATIO, 1);
    uint8_t seed2[16] = {0};
    memcpy(seed2, seed, sizeof seed2);
    seed2[15]++;
    tracer_init(&other, seed2, TRACE_RATIO, 1);
    static struct span_id ids[4096];
    int equal = 0, zero = 0, across = 0;
    for (int i = 0; i < 4096; i++) {
        struct span_id x = tracer_span_id(&b), y = tracer_span_id(&other);
        static const struct span_id none;
        ids[i] = tracer_span_id(&a);
        CHECK(memcmp(&ids[i], &x, sizeof x) == 0);
        across += memcmp(&ids[i], &y, sizeof y) == 0;
        zero += memcmp(&ids[i], &none, sizeof none) == 0;
        for (int j = 0; j < i; j++)
            equal += memcmp(&ids[i], &ids[j], sizeof ids[i]) == 0;
    }
    CHECK_INT(equal + zero + across, 0);
}

/* The reference vector of the SipHash paper is for 15 bytes; the authors' table gives this one for 8: key 00..0f,
 * message 00..07. Our words are big-endian on the wire, SipHash's little-endian. */
static void ids_are_siphash(void)
{
    struct tracer t = {.key = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)},
                       .counter = UINT64_C(0x0706050403020100)};
    char text[17];
    CHECK_STR(span_id_text(tracer_span_id(&t), text), "93f5f5799a932462");
}

static struct trace begin(struct tracer *t, const struct http_header *headers, int n)
{
    struct trace trace;
    memset(&trace, 0xaa, sizeof trace);
    trace_begin(t, &(struct http_head){.headers = headers, .n_headers = n}, &trace);
    return trace;
}

static int recorded_of(struct tracer *t, int n)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        struct trace x = begin(t, NULL, 0);
        count += trace_recorded(&x);
    }
    return count;
}

static void the_ratio_decides(void)
{
    struct tracer t;
    tracer_init(&t, seed, TRACE_PARENT, 0);
    CHECK_INT(recorded_of(&t, 1000), 0);
    tracer_init(&t, seed, TRACE_PARENT, 1);
    CHECK_INT(recorded_of(&t, 1000), 1000);
    tracer_init(&t, seed, TRACE_PARENT, 0.01);
    int n = recorded_of(&t, 100000);
    CHECK(n > 850 && n < 1150); /* five standard deviations */
    /* The same trace gets the same answer everywhere: it depends on the last 56 bits of its id alone. */
    const struct http_header low = {"traceparent", "00-ffffffffffffffffff00000000000001-" SPAN "-00"},
                             high = {"traceparent", "00-0000000000000000ffffffffffffffff-" SPAN "-01"};
    tracer_init(&t, seed, TRACE_RATIO, 0.01);
    struct trace a = begin(&t, &low, 1), b = begin(&t, &high, 1);
    CHECK(trace_recorded(&a));
    CHECK(!trace_recorded(&b));
}

static void the_client_decides_where_it_may(void)
{
    const struct http_header yes = {"TraceParent", PARENT}, no = {"traceparent", "00-" ID "-" SPAN "-00"};
    struct tracer t;
    struct trace x;
    tracer_init(&t, seed, TRACE_PARENT, 0);
    x = begin(&t, &yes, 1);
    CHECK(trace_recorded(&x));
    tracer_init(&t, seed, TRACE_PARENT, 1);
    x = begin(&t, &no, 1);
    CHECK(!trace_recorded(&x));
    tracer_init(&t, seed, TRACE_RATIO, 0);
    x = begin(&t, &yes, 1);
    CHECK(!trace_recorded(&x));
    tracer_init(&t, seed, TRACE_OFF, 1);
    x = begin(&t, &yes, 1);
    CHECK(!trace_recorded(&x));
}

static void a_recorded_trace_goes_on_under_the_leg(void)
{
    const struct http_header headers[] = {
        {"traceparent", "00-" ID "-" SPAN "-03"}, {"tracestate", "a=1"}, {"Tracestate", "b=2"}};
    struct tracer t;
    char buf[TRACE_PARENT_SIZE], leg_text[17], want[64];
    tracer_init(&t, seed, TRACE_PARENT, 0);
    struct trace x = begin(&t, headers, 3);
    struct span_id leg = tracer_span_id(&t);
    CHECK_STR(x.state, "a=1,b=2");
    CHECK(trace_has_parent(&x));
    CHECK(memcmp(&x.span, &leg, sizeof leg) != 0 && memcmp(&x.span, &x.parent, sizeof leg) != 0);
    CHECK(trace_outgoing(&x, leg, buf));
    snprintf(want, sizeof want, "00-" ID "-%s-03", span_id_text(leg, leg_text));
    CHECK_STR(buf, want);
    struct trace_parent p;
    CHECK_INT(parse(buf, &p), RC_OK);
}

static void who_does_not_record_is_not_seen(void)
{
    const struct http_header yes[] = {{"traceparent", PARENT}, {"tracestate", "a=1"}};
    char buf[TRACE_PARENT_SIZE];
    struct tracer t;
    for (int mode = TRACE_OFF; mode <= TRACE_RATIO; mode++) {
        tracer_init(&t, seed, (enum trace_mode)mode, 0);
        struct trace x = begin(&t, yes, 2);
        CHECK(trace_outgoing(&x, tracer_span_id(&t), buf));
        CHECK_STR(buf, PARENT);
        CHECK_STR(x.state, "a=1");
    }
    tracer_init(&t, seed, TRACE_OFF, 0); /* nothing came, nothing goes */
    struct trace x = begin(&t, NULL, 0);
    CHECK(!trace_outgoing(&x, tracer_span_id(&t), buf));
    tracer_init(&t, seed, TRACE_RATIO, 0); /* our decision, so that the node does not take another one */
    x = begin(&t, NULL, 0);
    CHECK(trace_outgoing(&x, tracer_span_id(&t), buf));
    CHECK_STR(buf + 52, "-02");
}

static void doubtful_headers_start_anew(void)
{
    const struct http_header twice[] = {{"traceparent", PARENT}, {"traceparent", PARENT}, {"tracestate", "a=1"}},
                             broken[] = {{"traceparent", PARENT "x"}, {"tracestate", "a=1"}},
                             half[] = {{"traceparent", PARENT}, {"tracestate", "a=1"}, {"tracestate", "no"}},
                             half2[] = {{"traceparent", PARENT}, {"tracestate", "no"}, {"tracestate", "a=1"}};
    struct tracer t;
    tracer_init(&t, seed, TRACE_PARENT, 1);
    struct trace x = begin(&t, twice, 3);
    CHECK(!trace_has_parent(&x));
    CHECK_STR(x.state, "");
    x = begin(&t, broken, 2);
    CHECK(!trace_has_parent(&x));
    CHECK_STR(x.state, "");
    x = begin(&t, half, 3);
    CHECK(trace_has_parent(&x));
    CHECK_STR(x.state, "");
    x = begin(&t, half2, 3);
    CHECK_STR(x.state, "");
    trace_begin(&t, NULL, &x);
    CHECK(!trace_has_parent(&x) && trace_recorded(&x));
}

static const char *text_of(const struct trace_span *s, const char *key)
{
    for (int i = 0; i < s->n_attrs; i++)
        if (strcmp(s->attrs[i].key, key) == 0)
            return s->text + s->attrs[i].text;
    return NULL;
}

static void spans_stay_within_bounds(void)
{
    struct tracer t;
    struct trace x;
    struct trace_span s;
    char big[400];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    tracer_init(&t, seed, TRACE_RATIO, 1);
    trace_begin(&t, NULL, &x);
    span_init_server(&s, &x, "name");
    CHECK(!s.has_parent && !s.parent_is_remote);
    for (int i = 0; i < 12; i++)
        span_set_string(&s, SPAN_TENANT, big);
    CHECK_INT(s.n_attrs, 7); /* 7 x 257 + 6 bytes are within 2048 */
    CHECK_INT(s.attrs_dropped, 5);
    CHECK_INT(strlen(text_of(&s, SPAN_TENANT)), SPAN_VALUE_MAX);
    for (int i = 0; i < 40; i++)
        span_set_int(&s, SPAN_ATTEMPT, i);
    CHECK_INT(s.n_attrs, SPAN_ATTRS_MAX);
    CHECK_INT(s.attrs_dropped, 5 + 15);

    span_init_child(&s, &x, tracer_span_id(&t), SPAN_CLIENT, "leg");
    CHECK(s.has_parent && !s.parent_is_remote);
    CHECK(memcmp(&s.parent, &x.span, sizeof s.parent) == 0);
    memset(big, 'x', 255);
    memcpy(big + 255, "\xc3\xa9", 3); /* cut before the character, not inside it */
    span_set_string(&s, SPAN_TENANT, big);
    CHECK_INT(strlen(text_of(&s, SPAN_TENANT)), 255);
    span_set_double(&s, SPAN_GENAI_FIRST, 1.0 / 0.0);
    span_set_string(&s, SPAN_NODE, NULL);
    CHECK_INT(s.n_attrs, 1);
    span_set_string(&s, SPAN_NODE, "");
    CHECK_STR(text_of(&s, SPAN_NODE), "");
}

int main(void)
{
    TEST(reads_a_traceparent);
    TEST(refuses_malformed_ones);
    TEST(carries_tracestate);
    TEST(bounds_tracestate);
    TEST(ids_are_of_the_seed_and_differ);
    TEST(ids_are_siphash);
    TEST(the_ratio_decides);
    TEST(the_client_decides_where_it_may);
    TEST(a_recorded_trace_goes_on_under_the_leg);
    TEST(who_does_not_record_is_not_seen);
    TEST(doubtful_headers_start_anew);
    TEST(spans_stay_within_bounds);
    return TEST_RESULT();
}
