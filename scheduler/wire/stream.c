#include "scheduler/wire/stream.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "scheduler/wire/usage.h"

#define HELD_BYTES_MAX  ((size_t)8 << 20)
#define USAGE_BYTES_MAX ((size_t)64 << 10)
#define NAME_BYTES_MAX  8192 /* of a model, whatever has to be escaped in it */

void stream_init(struct stream *s, const char *model, bool usage_asked)
{
    memset(s, 0, sizeof(*s));
    strbuf_init(&s->held, HELD_BYTES_MAX);
    strbuf_init(&s->like, STREAM_FRAME_BYTES_MAX);
    strbuf_init(&s->usage, USAGE_BYTES_MAX);
    strbuf_init(&s->name, NAME_BYTES_MAX);
    pattern_init(&s->pattern);
    if (model) {
        enum rc rc = json_append_string(&s->name, model, strlen(model));
        SPW_ASSERT(rc == RC_OK);
    }
    s->usage_asked = usage_asked;
}

void stream_say_tier(struct stream *s, const char *tier)
{
    s->tier = tier;
}

void stream_follow(struct stream *s, struct trail *trail, struct whole *whole)
{
    s->trail = trail;
    s->whole = whole;
    s->later = trail->begun;
}

void stream_tap(struct stream *s, void (*tap)(struct span chunk, struct span plain, void *arg), void *arg)
{
    s->tap = tap;
    s->tap_arg = arg;
}

/* Frames as write_frame() makes them: there is no line break inside. */
void stream_tap_held(const struct stream *s)
{
    const char *p = s->held.data, *end = p ? p + s->held.len : NULL;
    while (s->tap && p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        s->tap((struct span){p + 6, (size_t)(stop - p) - 6}, (struct span){0}, s->tap_arg); /* behind "data: " */
        p = stop + 2;
    }
}

void stream_fini(struct stream *s)
{
    sse_free(s->frames);
    s->frames = NULL;
    strbuf_fini(&s->held);
    strbuf_fini(&s->like);
    strbuf_fini(&s->usage);
    strbuf_fini(&s->name);
    pattern_fini(&s->pattern);
}

/* What one chunk holds, as places in its text. */
struct chunk {
    struct span text, choices, usage, model, tier, error, id, created;
    struct span leaving;
    struct span use, use_member; /* spillway_use, likewise */
    struct span ids, ids_member; /* ids_member: from the opening quote of its key to the end of its value */
    struct span plain;           /* the literal of the newest plain text */
    int n_choices, n_content, n_finish;
    bool only_plain; /* nothing but plain text, in one choice */
    bool role, logprobs;
};

static bool filled_array(struct span v)
{
    struct span element;
    struct scan s = scan_array(v);
    return scan_element(&s, &element);
}

static void take_plain(struct chunk *c, struct span literal)
{
    c->only_plain = c->only_plain && !c->plain.n;
    c->plain = literal;
}

static bool delta_has_content(struct chunk *c, struct span delta)
{
    static const char *const thoughts[] = {"reasoning_content", "reasoning", "refusal"};
    struct span key, value;
    struct scan s = scan_object(delta);
    bool content = false, other = false;
    while (scan_member(&s, &key, &value)) {
        if (span_is(key, "content") && span_is_filled_string(value)) {
            content = true;
            take_plain(c, value);
        }
        for (size_t i = 0; i < sizeof thoughts / sizeof thoughts[0]; i++)
            other = other || (span_is(key, thoughts[i]) && span_is_filled_string(value));
        other = other || (span_is(key, "tool_calls") && filled_array(value));
        c->role = c->role || (span_is(key, "role") && !span_is_null(value));
    }
    c->only_plain = c->only_plain && !other;
    return content || other;
}

static bool text_has_content(struct chunk *c, struct span text)
{
    bool filled = span_is_filled_string(text);
    if (filled)
        take_plain(c, text);
    return filled;
}

static bool read_choices(struct chunk *c)
{
    struct span choice, key, value;
    struct scan list = scan_array(c->choices);
    while (scan_element(&list, &choice)) {
        struct scan s = scan_object(choice);
        bool content = false, finish = false;
        while (scan_member(&s, &key, &value)) {
            if (span_is(key, "delta"))
                content = delta_has_content(c, value) || content;
            else if (span_is(key, "text"))
                content = text_has_content(c, value) || content;
            c->logprobs = c->logprobs || (span_is(key, "logprobs") && !span_is_null(value));
            finish = finish || (span_is(key, "finish_reason") && !span_is_null(value));
        }
        if (s.failed)
            return false;
        c->n_choices++;
        c->n_content += content;
        c->n_finish += finish;
    }
    return !list.failed;
}

static bool read_chunk(struct chunk *c, struct span text)
{
    struct span key, value;
    struct scan s = scan_object(text);
    *c = (struct chunk){.text = text, .only_plain = true};
    while (scan_member(&s, &key, &value)) {
        if (span_is(key, "choices"))
            c->choices = value;
        else if (span_is(key, "usage"))
            c->usage = value;
        else if (span_is(key, "model"))
            c->model = value;
        else if (span_is(key, "service_tier"))
            c->tier = value;
        else if (span_is(key, "error"))
            c->error = value;
        else if (span_is(key, "id"))
            c->id = value;
        else if (span_is(key, "created"))
            c->created = value;
        else if (span_is(key, "spillway_leaving_ms"))
            c->leaving = value;
        else if (span_is(key, "spillway_use")) {
            c->use = value;
            c->use_member = (struct span){key.p - 1, (size_t)(value.p + value.n - (key.p - 1))};
        } else if (span_is(key, "spillway_ids")) {
            c->ids = value;
            c->ids_member = (struct span){key.p - 1, (size_t)(value.p + value.n - (key.p - 1))};
        }
    }
    if (c->ids.n && c->use.n) /* never of ours: the one stands in chunks with text, the other in the usage chunk */
        return false;
    return !s.failed && (span_is_null(c->choices) || read_choices(c));
}

static struct edit edit_of(struct span place, const struct strbuf *put)
{
    return (struct edit){place.p, place.n, put->data, put->len};
}

/* One frame: data, the edited text, a blank line. A line break between JSON tokens would end the frame early and is as
 * good as a blank. */
static enum rc write_frame(struct span text, struct edit *edits, int n_edits, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "data: ", 6);
    size_t from = out->len;
    if (rc == RC_OK)
        rc = edits_apply(text, edits, n_edits, out);
    for (char *p = out->data + from; rc == RC_OK && (p = memchr(p, '\n', (size_t)(out->data + out->len - p)));)
        *p = ' ';
    return rc == RC_OK ? strbuf_append(out, "\n\n", 2) : rc;
}

static void model_edit(const struct stream *s, struct span place, struct edit *edits, int *n)
{
    if (s->name.len && span_is_string(place))
        edits[(*n)++] = edit_of(place, &s->name);
}

/* Without that member, and without one of the commas beside it. */
static struct edit member_edit(const struct chunk *c, struct span member)
{
    const char *from = member.p, *to = from + member.n, *end = c->text.p + c->text.n;
    while (to < end && *to != ',' && *to != '}')
        to++;
    if (to < end && *to == ',')
        return (struct edit){from, (size_t)(to + 1 - from), "", 0};
    to = member.p + member.n;
    while (from > c->text.p && *from != ',' && *from != '{')
        from--;
    from += *from == '{';
    return (struct edit){from, (size_t)(to - from), "", 0};
}

/* The first leg's id and created. */
static void identity_edits(const struct stream *s, const struct chunk *c, struct edit *edits, int *n)
{
    if (!s->later)
        return;
    if (c->id.n && s->trail->id.len)
        edits[(*n)++] = edit_of(c->id, &s->trail->id);
    if (c->created.n && s->trail->created.len)
        edits[(*n)++] = edit_of(c->created, &s->trail->created);
}

/* What the client has no use for: the role, said once more, and tokens whose text is still held back on the node. */
static bool is_silent(const struct stream *s, const struct chunk *c)
{
    if (c->n_content || c->n_finish)
        return false;
    return (s->later && c->role) || (c->ids.n && !c->role && !c->logprobs);
}

/* A chunk as the client shall see it: our model name, the answer's own id, and no usage but in the chunk of its own at
 * the end. */
static enum rc write_chunk(const struct stream *s, const struct chunk *c, struct strbuf *out)
{
    char tier[TIER_EDIT_BYTES];
    struct edit edits[7];
    int n = 0;
    model_edit(s, c->model, edits, &n);
    n += tier_edit(s->tier, c->model, c->tier, tier, &edits[n]); /* before the ids, which may begin where this is put */
    if (!span_is_null(c->usage))
        edits[n++] = (struct edit){c->usage.p, c->usage.n, "null", 4};
    if (c->ids.n)
        edits[n++] = member_edit(c, c->ids_member);
    if (c->use.n)
        edits[n++] = member_edit(c, c->use_member);
    identity_edits(s, c, edits, &n);
    return write_frame(c->text, edits, n, out);
}

/* It has been passed on, and will not be said again. */
static void note_taken(struct stream *s, const struct chunk *c)
{
    struct trail_chunk t = {
        .id = c->id, .created = c->created, .ids = c->ids, .contents = c->n_content, .text = c->plain};
    if (!c->only_plain || c->n_content > 1 || c->logprobs)
        t.text.n = 0;
    if (s->held.len) /* out of order: only with several choices, where neither says anything */
        t.ids.n = t.text.n = 0;
    trail_take(s->trail, &t);
}

/* Nothing but one piece of text in one choice: what all but a few chunks of a stream are. */
static bool is_plain(const struct chunk *c)
{
    return c->only_plain && c->n_choices == 1 && c->n_content == 1 && !c->n_finish && !c->role && !c->logprobs &&
           !c->ids.n && !c->use.n && span_is_null(c->usage) && c->plain.n;
}

/* It was just written as out[from..]. The edits of a plain chunk keep off its text, so that is found from whichever end
 * is written as it came. */
static void learn(struct stream *s, const struct chunk *c, const struct strbuf *out, size_t from)
{
    struct span put = {out->data + from, out->len - from};
    const char *at = memmem(put.p, put.n, c->plain.p, c->plain.n);
    /* A text that stands there twice ("1" may be the id as well) is not the one to learn from. */
    if (at && !memmem(at + 1, put.n - (size_t)(at + 1 - put.p), c->plain.p, c->plain.n))
        pattern_learn(&s->pattern, c->text, c->plain, put, (size_t)(at - put.p));
}

/* The same as take_chunk() of a chunk that is_plain(). */
static enum rc take_like_the_last(struct stream *s, struct span text, struct span literal, struct strbuf *out)
{
    struct trail_chunk t = {.contents = 1, .text = literal};
    enum rc rc = pattern_write(&s->pattern, literal, out);
    s->content_chunks++;
    s->pieces++;
    if (rc == RC_OK && s->trail)
        trail_take(s->trail, &t);
    if (rc == RC_OK && s->tap)
        s->tap(text, literal, s->tap_arg);
    return rc;
}

static int count_ids(struct span ids)
{
    struct span id;
    struct scan s = scan_array(ids);
    int n = 0;
    while (scan_element(&s, &id))
        n++;
    return n;
}

static enum rc forward(struct stream *s, const struct chunk *c, struct strbuf *out)
{
    /* Order is kept behind a held finish frame, but for text: that never waits. */
    bool hold = c->n_finish > 0 || (s->held.len > 0 && c->n_content == 0);
    enum rc rc = RC_OK;
    size_t from = out->len;
    s->pieces += c->n_content > 0 || c->n_finish > 0 || c->ids.n > 0;
    s->tokens += c->ids.n ? count_ids(c->ids) : 0;
    if (s->whole && hold)
        rc = s->held.len ? RC_OK : strbuf_append(&s->held, c->text.p, c->text.n);
    else if (s->whole)
        rc = whole_take(s->whole, c->text);
    else if (!is_silent(s, c))
        rc = write_chunk(s, c, hold ? &s->held : out);
    if (rc == RC_OK && !s->whole && !s->held.len && is_plain(c) && pattern_wanted(&s->pattern))
        learn(s, c, out, from);
    if (rc == RC_OK && s->trail && !hold)
        note_taken(s, c);
    if (rc == RC_OK && s->tap && !hold)
        s->tap(c->text, (struct span){0}, s->tap_arg);
    return rc;
}

enum rc stream_gather_held(struct stream *s)
{
    return s->held.len ? whole_take(s->whole, (struct span){s->held.data, s->held.len}) : RC_OK;
}

static enum rc keep(struct strbuf *b, struct span text)
{
    strbuf_clear(b);
    return strbuf_append(b, text.p, text.n);
}

static bool read_number(struct span text, int64_t *v)
{
    const bool below = text.n && text.p[0] == '-';
    char digits[24];
    if (!text.n || text.n >= sizeof digits)
        return false;
    memcpy(digits, text.p, text.n);
    digits[text.n] = '\0';
    return text_parse_int(digits, below ? -1 : 0, INT64_C(1) << 53, v) == RC_OK;
}

void stream_take_use(struct stream *s, struct span list)
{
    struct span hour, figure;
    struct scan hours = scan_array(list);
    int n = 0;
    while (n < STREAM_USES && scan_element(&hours, &hour)) {
        struct scan figures = scan_array(hour);
        int64_t v[3];
        int k = 0;
        while (k < 3 && scan_element(&figures, &figure) && read_number(figure, &v[k]))
            k++;
        if (k != 3)
            return;
        s->uses[n++] = (struct stream_use){v[0], v[1] > 0 ? v[1] : 0, v[2]};
    }
    s->n_uses = n;
}

static enum rc take_chunk(struct stream *s, const struct chunk *c, struct strbuf *out)
{
    bool usage = !span_is_null(c->usage), only_usage = usage && c->n_choices == 0;
    enum rc rc = RC_OK;
    if (s->like.len == 0 || only_usage)
        rc = keep(&s->like, c->text);
    if (rc == RC_OK && usage && usage_parse(c->usage, &s->counts) == RC_OK) {
        s->usage_known = true;
        s->reasoning = usage_reasoning(c->usage);
        rc = keep(&s->usage, c->usage);
    }
    if (c->use.n)
        stream_take_use(s, c->use);
    s->content_chunks += c->n_content;
    s->finished = s->finished || c->n_finish > 0;
    return rc == RC_OK && !only_usage ? forward(s, c, out) : rc;
}

struct feeding {
    struct stream *s;
    struct strbuf *out;
    enum stream_status status;
};

static enum stream_status take_frame(struct stream *s, struct span text, struct strbuf *out)
{
    struct chunk c;
    struct span literal;
    if (!s->held.len && pattern_match(&s->pattern, text, &literal))
        return take_like_the_last(s, text, literal, out) == RC_OK ? STREAM_MORE : STREAM_BROKEN;
    if (span_is(text, "[DONE]")) {
        s->done = true;
        return s->like.len ? STREAM_DONE : STREAM_BROKEN;
    }
    if (!read_chunk(&c, text))
        return STREAM_BROKEN;
    if (!span_is_null(c.error))
        return STREAM_ERROR;
    if (c.leaving.n && !c.choices.n) { /* between the node and us */
        s->leaving = true;
        return STREAM_MORE;
    }
    return take_chunk(s, &c, out) == RC_OK ? STREAM_MORE : STREAM_BROKEN;
}

static enum rc on_frame(const struct sse_frame *f, void *arg)
{
    struct feeding *feeding = arg;
    if (f->has_data)
        feeding->status = take_frame(feeding->s, (struct span){f->data, f->data_len}, feeding->out);
    return feeding->status == STREAM_MORE ? RC_OK : RC_CANCELLED; /* whatever follows is nobody's business */
}

enum stream_status stream_feed(struct stream *s, const char *data, size_t n, struct strbuf *out)
{
    struct feeding feeding = {.s = s, .out = out, .status = STREAM_MORE};
    if (s->done)
        return STREAM_DONE;
    if (!s->frames)
        s->frames = sse_new(STREAM_FRAME_BYTES_MAX);
    enum rc rc = sse_feed(s->frames, data, n, on_frame, &feeding);
    return rc == RC_OK || rc == RC_CANCELLED ? feeding.status : STREAM_BROKEN;
}

enum stream_status stream_eof(struct stream *s, struct strbuf *out)
{
    struct feeding feeding = {.s = s, .out = out, .status = STREAM_MORE};
    if (s->frames && !s->done && sse_finish(s->frames, on_frame, &feeding) == RC_IO)
        return STREAM_BROKEN;
    if (feeding.status == STREAM_MORE && (s->done || s->finished) && s->like.len)
        return STREAM_DONE;
    return feeding.status == STREAM_MORE ? STREAM_BROKEN : feeding.status;
}

#define CUT_BYTES_MAX ((size_t)64 << 10)

static enum rc put_cut_choices(bool chat, int64_t choices, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, "[");
    for (int64_t i = 0; i < choices && rc == RC_OK; i++)
        rc = strbuf_printf(out, "%s{\"index\":%" PRId64 ",%s,\"finish_reason\":\"length\"}", i ? "," : "", i,
                           chat ? "\"delta\":{}" : "\"text\":\"\"");
    return rc == RC_OK ? strbuf_puts(out, "]") : rc;
}

enum rc stream_cut(struct stream *s, bool chat, int64_t choices)
{
    struct span text = {s->like.data, s->like.len};
    char tier[TIER_EDIT_BYTES];
    struct edit edits[8];
    struct strbuf put;
    struct chunk c;
    int n = 0;
    if (!text.n || !read_chunk(&c, text) || !c.choices.n)
        return RC_INVALID;
    strbuf_init(&put, CUT_BYTES_MAX);
    enum rc rc = put_cut_choices(chat, choices, &put);
    edits[n++] = edit_of(c.choices, &put);
    model_edit(s, c.model, edits, &n);
    n += tier_edit(s->tier, c.model, c.tier, tier, &edits[n]);
    if (!span_is_null(c.usage))
        edits[n++] = (struct edit){c.usage.p, c.usage.n, "null", 4};
    if (c.ids.n)
        edits[n++] = member_edit(&c, c.ids_member);
    if (c.use.n)
        edits[n++] = member_edit(&c, c.use_member);
    identity_edits(s, &c, edits, &n);
    strbuf_clear(&s->held);
    if (rc == RC_OK)
        rc = s->whole ? edits_apply(text, edits, n, &s->held) : write_frame(text, edits, n, &s->held);
    s->finished = rc == RC_OK;
    strbuf_fini(&put);
    return rc;
}

/* The usage chunk is one of the stream's own chunks with other choices and usage: id, created and whatever else the
 * node puts beside them stay right. */
static enum rc final_usage(const struct stream *s, struct strbuf *usage, struct strbuf *extra, struct strbuf *out)
{
    struct span text = {s->like.data, s->like.len};
    char tier[TIER_EDIT_BYTES];
    struct edit edits[10];
    struct chunk c;
    int n = 0;
    bool readable = read_chunk(&c, text); /* it was, when it came */
    if (readable)
        model_edit(s, c.model, edits, &n);
    n += readable && tier_edit(s->tier, c.model, c.tier, tier, &edits[n]);
    while (text.n && text.p[text.n - 1] != '}')
        text.n--;
    const char *end = text.p + text.n - 1;
    if (c.choices.n)
        edits[n++] = (struct edit){c.choices.p, c.choices.n, "[]", 2};
    else
        edits[n++] = (struct edit){end, 0, ",\"choices\":[]", 13};
    if (c.usage.n) {
        edits[n++] = edit_of(c.usage, usage);
    } else {
        edits[n++] = (struct edit){end, 0, ",\"usage\":", 9};
        edits[n++] = (struct edit){end, 0, usage->data, usage->len};
    }
    edits[n++] = (struct edit){end, 0, extra->data, extra->len};
    if (readable && c.use.n)
        edits[n++] = member_edit(&c, c.use_member);
    if (readable && c.ids.n)
        edits[n++] = member_edit(&c, c.ids_member);
    if (readable)
        identity_edits(s, &c, edits, &n);
    return readable ? write_frame(text, edits, n, out) : RC_INTERNAL;
}

enum rc stream_usage(const struct stream *s, const struct token_counts *counts, struct strbuf *b)
{
    if (s->usage_known)
        return strbuf_append(b, s->usage.data, s->usage.len);
    return strbuf_printf(
        b, "{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64 "}",
        counts->input, counts->output, counts->input + counts->output);
}

static enum rc bill_text(const struct stream_bill *bill, struct strbuf *b)
{
    enum rc rc = strbuf_puts(b, ",\"spillway\":{\"node\":");
    if (rc == RC_OK)
        rc = json_append_string(b, bill->node, strlen(bill->node));
    if (rc == RC_OK)
        rc = strbuf_printf(b, ",\"charge_usd\":\"%s\"", bill->charge_usd);
    if (rc == RC_OK && bill->millijoules >= 0)
        rc = strbuf_printf(b, ",\"joules_%s\":%" PRId64 ".%03d", bill->joules_measured ? "measured" : "estimated",
                           bill->millijoules / 1000, (int)(bill->millijoules % 1000));
    if (rc == RC_OK && bill->stopped) {
        rc = strbuf_puts(b, ",\"stopped\":");
        if (rc == RC_OK)
            rc = json_append_string(b, bill->stopped, strlen(bill->stopped));
    }
    return rc == RC_OK ? strbuf_puts(b, "}") : rc;
}

enum rc stream_final(const struct stream *s, const struct stream_bill *bill, const struct token_counts *counts,
                     struct strbuf *out)
{
    struct strbuf usage, extra;
    strbuf_init(&usage, USAGE_BYTES_MAX);
    strbuf_init(&extra, 8192);
    enum rc rc = strbuf_append(out, s->held.data, s->held.len);
    if (rc == RC_OK && (s->usage_asked || bill->stopped)) {
        rc = s->usage_asked ? stream_usage(s, counts, &usage) : strbuf_puts(&usage, "null");
        if (rc == RC_OK)
            rc = bill_text(bill, &extra);
        if (rc == RC_OK)
            rc = final_usage(s, &usage, &extra, out);
    }
    strbuf_fini(&usage);
    strbuf_fini(&extra);
    return rc == RC_OK ? strbuf_puts(out, "data: [DONE]\n\n") : rc;
}
