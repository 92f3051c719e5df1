/* Proves that whatever somebody without the signing key does to the chain's files is found, and located: records,
 * numbers, hashes, MACs and seals changed, records removed, inserted, copied, swapped and moved, ends cut off, segments
 * taken away, bytes flipped; by one who does not care for the hashes, by one who makes all later ones anew, and by one
 * who also numbers the records anew. Checked against the last exported head, as the operator (with the key: the record
 * itself is named) and as an auditor (with the public part: the record, or the seal under which it stands). An argument
 * --full tries 10,000.
 * links: spw_sched_audit
 * full: --full */
#include "tests/unit/test.h"

#include <inttypes.h>

#include "base/text.h"
#include "tests/unit/audit_help.h"

#define SEGMENTS  3
#define LINES_MAX 1000

struct text_line {
    char *p; /* owned by its chain */
    int64_t seq;
};
struct chain_text {
    struct text_line lines[LINES_MAX];
    int n, begin[SEGMENTS + 1]; /* lines of segment i: begin[i] .. begin[i + 1] */
    int cut;                    /* bytes that the last line lacks, and its end */
};

static struct chain_text pristine;
static struct audit_keys keys, public;
static struct audit_head last_head;
static char *paths[SEGMENTS];
static uint64_t state = 88172645463325252u;

static int pick(int n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (int)(state % (uint64_t)n);
}

/* ---- a chain, and its text ------------------------------------------------------------------------------------------- */

static void make_chain(void)
{
    struct store s;
    struct error e;
    int id = 0;

    keys = audit_key_pair();
    CHECK(audit_keys_from_public(&public, keys.public_part) == RC_OK);
    CHECK(store_open(&s, audit_dir, &keys, NULL, &e) == RC_OK);
    for (int day = 0; day < SEGMENTS; day++) {
        for (int g = 0; g < 10; g++) {
            int n = 1 + pick(12);
            CHECK(audit_group(&s, T0 + day * 86400, id, n) == RC_OK);
            id += n;
        }
    }
    last_head = s.sealed;
    store_close(&s);
}

static void read_chain(void)
{
    for (int i = 0; i < SEGMENTS; i++) {
        paths[i] = audit_segment_path(i);
        struct strbuf b = audit_read_file(paths[i]);
        pristine.begin[i] = pristine.n;
        for (char *p = b.data, *eol; (eol = strchr(p, '\n')); p = eol + 1)
            pristine.lines[pristine.n++] = (struct text_line){spw_strndup(p, (size_t)(eol - p)), strtoll(p, NULL, 10)};
        strbuf_fini(&b);
    }
    pristine.begin[SEGMENTS] = pristine.n;
}

static void copy_chain(struct chain_text *c)
{
    *c = pristine;
    for (int i = 0; i < c->n; i++)
        c->lines[i].p = spw_strdup(pristine.lines[i].p);
}

static void drop_chain(struct chain_text *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->lines[i].p);
}

static void write_chain(const struct chain_text *c)
{
    for (int i = 0; i < SEGMENTS; i++) {
        struct strbuf b;
        strbuf_init(&b, (size_t)1 << 24);
        for (int k = c->begin[i]; k < c->begin[i + 1]; k++)
            CHECK(strbuf_printf(&b, "%s\n", c->lines[k].p) == RC_OK);
        if (c->begin[i + 1] == c->n && c->begin[i] < c->n && c->cut)
            b.len -= (size_t)c->cut < b.len ? (size_t)c->cut : b.len - 1;
        if (c->begin[i] < c->begin[i + 1])
            audit_write_file(paths[i], b.data, b.len);
        else
            unlink(paths[i]);
        strbuf_fini(&b);
    }
}

static void remove_lines(struct chain_text *c, int at, int n)
{
    for (int i = at; i < at + n; i++)
        free(c->lines[i].p);
    memmove(c->lines + at, c->lines + at + n, (size_t)(c->n - at - n) * sizeof c->lines[0]);
    c->n -= n;
    for (int i = 0; i <= SEGMENTS; i++)
        if (c->begin[i] > at)
            c->begin[i] = c->begin[i] - n < at ? at : c->begin[i] - n;
}

static void insert_line(struct chain_text *c, int at, const char *text)
{
    memmove(c->lines + at + 1, c->lines + at, (size_t)(c->n - at) * sizeof c->lines[0]);
    c->lines[at] = (struct text_line){spw_strdup(text), 0};
    c->n++;
    for (int i = 0; i <= SEGMENTS; i++)
        c->begin[i] += c->begin[i] > at || i == SEGMENTS;
}

/* ---- what may be done to it ------------------------------------------------------------------------------------------ */

enum skill { CARELESS, LINKS, NUMBERS, SKILLS }; /* what is made to fit afterwards */

/* All that needs no secret is made anew, from line `at` on. */
static void make_fit(struct chain_text *c, int at, enum skill skill)
{
    struct audit_hash prev = {{0}};
    struct audit_line l;
    int64_t seq = 0;

    for (int i = 0; i < c->n && skill != CARELESS; i++) {
        if (!audit_line_parse(c->lines[i].p, strlen(c->lines[i].p), &l))
            continue; /* that can't be made to fit */
        if (i >= at) {
            struct audit_hash content;
            char *prev_at = strstr(l.json, "\"prev\":\"");
            if (prev_at && strncmp(l.json, "{\"k\":\"segment\"", 14) == 0) {
                char c64 = prev_at[8 + 64];
                text_hex(prev_at + 8, prev.b, 32);
                prev_at[8 + 64] = c64;
            }
            content = audit_content(l.json, l.n);
            l.seq = skill == NUMBERS ? seq + 1 : l.seq;
            l.hash = audit_link(&prev, l.seq, l.mac, &content);
            char hash[65], mac[33];
            text_hex(hash, l.hash.b, 32);
            text_hex(mac, l.mac, 16);
            char *anew = spw_asprintf("%" PRId64 " %s %s %.*s", l.seq, hash, mac, (int)l.n, l.json);
            free(c->lines[i].p);
            c->lines[i].p = anew;
        }
        prev = l.hash;
        seq = l.seq;
    }
}

/* Another character that belongs there. */
static void change_at(char *p)
{
    *p = *p == 'a' ? 'b' : *p == '7' ? '3' : *p >= '0' && *p <= '9' ? '7' : 'a';
}

enum deed {
    CHANGE_JSON,
    CHANGE_HASH,
    CHANGE_MAC,
    CHANGE_NUMBER,
    CHANGE_SEAL,
    REMOVE,
    REMOVE_MANY,
    INSERT_COPY,
    INSERT_FORGED,
    SWAP,
    MOVE,
    CUT,
    CUT_AT_SEAL,
    TAKE_SEGMENT,
    FLIP,
    DEEDS
};
static const char *const deed_names[] = {"change json", "change hash", "change mac",  "change number", "change seal",
                                         "remove",      "remove many", "insert copy", "insert forged", "swap",
                                         "move",        "cut",         "cut at seal", "take segment",  "flip"};

struct place { /* records, one of which must be named */
    int64_t first, last;
    int line; /* from which hashes no longer fit; -1: there is nothing to be made to fit */
};

static bool is_seal(const char *line)
{
    return strstr(line, "{\"k\":\"seal\"") != NULL;
}

static struct place change(struct chain_text *c, enum deed deed)
{
    int i = pick(c->n);
    if (deed == CHANGE_SEAL)
        while (!is_seal(c->lines[i].p))
            i = (i + 1) % c->n;
    char *p = c->lines[i].p, *json = strchr(p, '{');
    int64_t seq = c->lines[i].seq;
    switch (deed) {
    case CHANGE_HASH: change_at(strchr(p, ' ') + 1 + pick(64)); return (struct place){seq, seq, -1};
    case CHANGE_MAC: change_at(json - 2 - pick(32)); break;
    case CHANGE_NUMBER: change_at(p + pick((int)(strchr(p, ' ') - p))); break;
    case CHANGE_SEAL: change_at(strstr(json, "\"sig\":\"") + 7 + pick(86)); break;
    default: change_at(json + 1 + pick((int)strlen(json) - 2)); break;
    }
    return (struct place){seq, seq, i};
}

static struct place take_away(struct chain_text *c, enum deed deed)
{
    int n = deed == REMOVE ? 1 : 2 + pick(20), i = pick(c->n - n - 1);
    struct place where = {c->lines[i].seq, c->lines[i + n - 1].seq, i};
    if (deed == TAKE_SEGMENT) {
        int k = pick(SEGMENTS - 1);
        i = c->begin[k];
        n = c->begin[k + 1] - i;
        where = (struct place){c->lines[i].seq, c->lines[i + n - 1].seq, i};
        for (int x = i; x < i + n; x++)
            free(c->lines[x].p);
        memmove(c->lines + i, c->lines + i + n, (size_t)(c->n - i - n) * sizeof c->lines[0]);
        c->n -= n;
        for (int x = k + 1; x <= SEGMENTS; x++)
            c->begin[x] -= n;
        return where;
    }
    remove_lines(c, i, n);
    return where;
}

static struct place put_in(struct chain_text *c, enum deed deed)
{
    int i = 1 + pick(c->n - 1), from = pick(c->n);
    char *text = spw_strdup(c->lines[from].p);
    struct place where = {c->lines[i].seq, c->lines[i].seq, i};
    where.last += from == i; /* of two that are the same, either is the copy */
    if (deed == INSERT_FORGED)
        change_at(strchr(text, '{') + 3 + pick(30));
    insert_line(c, i, text);
    free(text);
    return where;
}

static struct place move(struct chain_text *c, enum deed deed)
{
    int i = pick(c->n - 40), k = deed == SWAP ? i + 1 : i + 2 + pick(36);
    struct text_line moved = c->lines[i];
    if (pick(2)) { /* down to k */
        memmove(c->lines + i, c->lines + i + 1, (size_t)(k - i) * sizeof c->lines[0]);
        c->lines[k] = moved;
    } else { /* k up to i */
        moved = c->lines[k];
        memmove(c->lines + i + 1, c->lines + i, (size_t)(k - i) * sizeof c->lines[0]);
        c->lines[i] = moved;
    }
    return (struct place){pristine.lines[i].seq, pristine.lines[k].seq, i};
}

static struct place cut(struct chain_text *c, enum deed deed)
{
    int n = 1 + pick(deed == CUT ? 20 : 100);
    while (deed == CUT_AT_SEAL && !is_seal(c->lines[c->n - n - 1].p))
        n++;
    struct place where = {c->lines[c->n - n].seq, c->lines[c->n - 1].seq, -1};
    remove_lines(c, c->n - n, n);
    if (deed == CUT) {
        c->cut = pick((int)strlen(c->lines[c->n - 1].p));
        where.first -= c->cut > 0;
    }
    return where;
}

static struct place flip(struct chain_text *c)
{
    int i = pick(c->n), k = pick((int)strlen(c->lines[i].p));
    c->lines[i].p[k] = (char)(c->lines[i].p[k] ^ (1 << pick(7)));
    if (c->lines[i].p[k] == '\0')
        c->lines[i].p[k] = '\1';
    return (struct place){c->lines[i].seq, c->lines[i].seq, -1};
}

static struct place tamper(struct chain_text *c, enum deed deed)
{
    switch (deed) {
    case REMOVE:
    case REMOVE_MANY:
    case TAKE_SEGMENT: return take_away(c, deed);
    case INSERT_COPY:
    case INSERT_FORGED: return put_in(c, deed);
    case SWAP:
    case MOVE: return move(c, deed);
    case CUT:
    case CUT_AT_SEAL: return cut(c, deed);
    case FLIP: return flip(c);
    default: return change(c, deed);
    }
}

/* ---- found, and where ------------------------------------------------------------------------------------------------ */

/* Whoever has the public part alone and to whom all hashes fit can name the seal, which tells as far back as the last. */
static int64_t group_end(int64_t seq)
{
    for (int i = 0; i < pristine.n; i++)
        if (pristine.lines[i].seq >= seq && is_seal(pristine.lines[i].p))
            return pristine.lines[i].seq;
    return pristine.lines[pristine.n - 1].seq;
}

static bool is_located(const struct verify_result *r, const struct place *where, bool exact)
{
    const struct verify_finding *f = r->findings;

    return r->n_findings > 0 && f->first <= (exact ? where->last : group_end(where->last)) && f->last >= where->first;
}

static bool is_pristine(const struct chain_text *c)
{
    bool same = c->n == pristine.n && !c->cut;

    for (int i = 0; same && i < c->n; i++)
        same = strcmp(c->lines[i].p, pristine.lines[i].p) == 0;
    return same;
}

static void try_one(enum deed deed, enum skill skill, const struct audit_keys *with, int *found, int *located)
{
    static struct chain_text c;
    struct verify_options o = {.dir = audit_dir, .keys = with, .at_rest = true, .heads = &last_head, .n_heads = 1};
    struct verify_result r;
    struct error e;

    copy_chain(&c);
    if (deed == CHANGE_NUMBER && skill == NUMBERS) /* that would undo it */
        skill = CARELESS;
    struct place where = tamper(&c, deed);
    if (where.line >= 0)
        make_fit(&c, where.line, skill);
    if (is_pristine(&c)) { /* what was changed has been made to fit */
        ++*found;
        ++*located;
        drop_chain(&c);
        return;
    }
    write_chain(&c);
    CHECK(verify_chain(&r, &o, &e) == RC_OK);
    bool good = is_located(&r, &where, with->sign || skill == CARELESS);
    *found += r.n_findings > 0;
    *located += good;
    if (!good) {
        fprintf(stderr, "%s, skill %d, %s: records %" PRId64 " to %" PRId64 "\n", deed_names[deed], (int)skill,
                with->sign ? "operator" : "auditor", where.first, where.last);
        for (int i = 0; i < r.n_findings && i < 5; i++)
            fprintf(stderr, "    %s %" PRId64 "-%" PRId64 ": %s\n", verify_what_name(r.findings[i].what),
                    r.findings[i].first, r.findings[i].last, r.findings[i].text);
    }
    verify_fini(&r);
    drop_chain(&c);
}

static void test_untouched(void)
{
    struct verify_options o = {.dir = audit_dir, .keys = &keys, .heads = &last_head, .n_heads = 1};
    struct verify_result r;
    struct error e;

    write_chain(&pristine);
    CHECK(verify_chain(&r, &o, &e) == RC_OK && r.n_findings == 0 && r.records == pristine.n);
    CHECK_INT(r.head_seq, last_head.seq);
    verify_fini(&r);
}

static int n_tries = 450;

static void test_tamperings(void)
{
    int found = 0, located = 0;

    for (int i = 0; i < n_tries; i++)
        try_one((enum deed)(i % DEEDS), (enum skill)(i / DEEDS % SKILLS), i / DEEDS / SKILLS % 3 == 2 ? &public : &keys,
                &found, &located);
    printf("%d tamperings: %d found, %d located\n", n_tries, found, located);
    CHECK_INT(found, n_tries);
    CHECK_INT(located, n_tries);
}

/* Another chain in the place of this one, whole and sound, by somebody with a key of his own. */
static void test_another_chain(void)
{
    struct verify_result r;
    struct audit_keys other;
    struct store s;
    struct error e;

    write_chain(&pristine);
    for (int i = 0; i < SEGMENTS; i++)
        unlink(paths[i]);
    char *path = spw_asprintf("%s/other.pem", audit_dir);
    CHECK(audit_keys_load(&other, path, AUDIT_KEY_MAKE, &e) == RC_OK);
    CHECK(store_open(&s, audit_dir, &other, NULL, &e) == RC_OK);
    for (int i = 0; i < 200; i++)
        CHECK(audit_group(&s, T0, i, 2) == RC_OK);
    store_close(&s);
    struct verify_options o = {.dir = audit_dir, .keys = &keys};
    CHECK(verify_chain(&r, &o, &e) == RC_OK && r.n_findings > 0 && r.findings[0].first == 1);
    verify_fini(&r);
    o = (struct verify_options){.dir = audit_dir, .keys = &other, .heads = &last_head, .n_heads = 1};
    CHECK(verify_chain(&r, &o, &e) == RC_OK && r.n_findings > 0);
    verify_fini(&r);
    audit_keys_fini(&other);
    free(path);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--full") == 0)
        n_tries = 10000;
    audit_folder();
    make_chain();
    read_chain();
    TEST(test_untouched);
    TEST(test_tamperings);
    TEST(test_another_chain);
    drop_chain(&pristine);
    for (int i = 0; i < SEGMENTS; i++)
        free(paths[i]);
    audit_keys_fini(&keys);
    audit_keys_fini(&public);
    audit_clean();
    return TEST_RESULT();
}
