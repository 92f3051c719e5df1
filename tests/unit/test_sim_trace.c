/* Proves that traces of every kind are read as they are written, that bad rows are named by file and line, and that
 * cutting,
 * copying, tiling and thinning give the requests that they promise, the same ones for the same seed.
 * links: spw_sched_simulate spw_sched_books */
#include "tests/unit/test.h"

#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "scheduler/simulate/trace.h"

static char folder[] = "/tmp/spw-trace-XXXXXX";
static char path_buf[8][256];
static int path_at;

static const char *path_of(const char *name)
{
    char *p = path_buf[path_at++ % 8];
    snprintf(p, sizeof path_buf[0], "%s/%s", folder, name);
    return p;
}

static const char *write_file(const char *name, const char *text)
{
    const char *path = path_of(name);
    FILE *f = fopen(path, "w");
    SPW_ASSERT(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

static const char *write_gz(const char *name, const char *text)
{
    const char *path = path_of(name);
    gzFile f = gzopen(path, "wb");
    SPW_ASSERT(f && gzputs(f, text) >= 0 && gzclose(f) == Z_OK);
    return path;
}

static struct error err;

static struct trace *open_file(const struct trace_file *f, const struct trace_options *o)
{
    struct trace *t = NULL;

    err.message[0] = '\0';
    return trace_open(&t, f, 1, o, &err) == RC_OK ? t : NULL;
}

static struct trace *open_path(const char *path)
{
    return open_file(&(struct trace_file){.path = path}, &(struct trace_options){.seed = 1});
}

/* Reads to the end, or the error in `err`. Returns the last code. */
static enum rc read_all(struct trace *t, struct sim_request *all, int cap, int *n)
{
    struct sim_request r;
    enum rc rc;

    for (*n = 0; (rc = trace_next(t, &r, &err)) == RC_OK; ++*n)
        if (*n < cap)
            all[*n] = r;
    return rc;
}

#define AZURE                                                                                                          \
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"                                                                      \
    "2023-11-16 18:17:03.9799600,4808,10\r\n"                                                                          \
    "2023-11-16 18:17:04.0319600,3180,8\r\n"                                                                           \
    "\r\n"                                                                                                             \
    "2023-11-16 18:18:00.0000000,110,27"

static void reads_azure(void)
{
    struct sim_request r[8];
    int n;

    for (int gz = 0; gz < 2; gz++) {
        struct trace *t = open_path(gz ? write_gz("azure.gz", AZURE) : write_file("azure.csv", AZURE));
        CHECK(t != NULL);
        if (!t)
            return;
        CHECK_INT(read_all(t, r, 8, &n), RC_NOT_FOUND);
        CHECK_INT(n, 3);
        CHECK_INT(r[0].at_us, 0);
        CHECK_INT(r[1].at_us, 52000);
        CHECK_INT(r[2].at_us, 56020040);
        CHECK_INT(r[0].prompt, 4808);
        CHECK_INT(r[2].output, 27);
        CHECK_STR(trace_name(t, TRACE_MODELS, r[0].model), "default");
        CHECK_INT(trace_stats(t).start_unix_us, INT64_C(1700158623979960));
        CHECK_INT(trace_stats(t).tokens_prompt, 4808 + 3180 + 110);
        CHECK_INT(trace_next(t, &r[0], &err), RC_NOT_FOUND);
        CHECK_INT(trace_rewind(t, &err), RC_OK);
        CHECK_INT(read_all(t, r, 8, &n), RC_NOT_FOUND);
        CHECK_INT(n, 3);
        trace_close(t);
    }
}

static void reads_our_own_columns(void)
{
    struct sim_request r[4];
    int n;
    struct trace *t =
        open_path(write_file("own.csv", "at_s,prompt_tokens,output_tokens,model,team,class,deadline_s,local_only\n"
                                        "0.5,10,2,big,\"a, b\",interactive,,true\n"
                                        "1,11,3,small,ops,batch,3600,false\n"
                                        "1,12,4,,,,,\n"));
    CHECK(t != NULL);
    if (!t)
        return;
    CHECK_INT(read_all(t, r, 4, &n), RC_NOT_FOUND);
    CHECK_INT(n, 3);
    CHECK_STR(trace_name(t, TRACE_TEAMS, r[0].team), "a, b");
    CHECK_STR(trace_name(t, TRACE_MODELS, r[1].model), "small");
    CHECK_STR(trace_name(t, TRACE_MODELS, r[2].model), "default");
    CHECK(r[0].local_only && !r[1].local_only && r[1].batch && !r[0].batch);
    CHECK_INT(r[1].deadline_us, 3600000000);
    CHECK_INT(r[1].at_us, 500000);
    CHECK(trace_name(t, TRACE_TEAMS, 99) == NULL);
    trace_close(t);
}

static void reads_mooncake(void)
{
    struct sim_request r;
    struct trace *t = open_path(write_file(
        "m.jsonl", "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [0, 1, 2]}\n"
                   "{\"timestamp\": 3000, \"input_length\": 700, \"output_length\": 6, \"hash_ids\": [0, 7]}\n"));
    CHECK(t != NULL);
    if (!t)
        return;
    CHECK_INT(trace_next(t, &r, &err), RC_OK);
    CHECK_INT(r.n_blocks, 3);
    uint64_t first = r.blocks[0], second = r.blocks[1];
    CHECK_INT(trace_next(t, &r, &err), RC_OK);
    CHECK_INT(r.at_us, 3000000);
    CHECK_INT(r.n_blocks, 2);
    CHECK(r.blocks[0] == first && r.blocks[1] != second);
    trace_close(t);
}

static void reads_a_ledger(void)
{
    const char *path = path_of("ledger.db");
    struct sim_request r[4];
    sqlite3 *db;
    int n;

    SPW_ASSERT(sqlite3_open(path, &db) == SQLITE_OK);
    SPW_ASSERT(
        sqlite3_exec(db,
                     "CREATE TABLE ledger (request_id TEXT, tenant TEXT, team TEXT, model TEXT, asked_model TEXT,"
                     " service_class TEXT, cache TEXT, tokens_input INTEGER, tokens_cached_input INTEGER,"
                     " tokens_output INTEGER, accepted_ns INTEGER);"
                     "INSERT INTO ledger VALUES ('b','acme','ops','m',NULL,'flex',NULL,50,20,7,1700000002000000000),"
                     "('a','acme',NULL,'m','alias',NULL,NULL,40,0,6,1700000001000000000),"
                     "('c','acme',NULL,'m',NULL,NULL,'hit',40,0,6,1700000003000000000),"
                     "('d','acme',NULL,'m',NULL,NULL,NULL,0,0,0,1700000004000000000)",
                     NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
    struct trace *t = open_path(path);
    CHECK(t != NULL);
    if (!t)
        return;
    CHECK_INT(read_all(t, r, 4, &n), RC_NOT_FOUND);
    CHECK_INT(n, 2);
    CHECK_STR(trace_name(t, TRACE_MODELS, r[0].model), "alias");
    CHECK_STR(trace_name(t, TRACE_TEAMS, r[0].team), "acme");
    CHECK_STR(trace_name(t, TRACE_TEAMS, r[1].team), "ops");
    CHECK(r[1].batch && r[1].cached == 20 && r[1].at_us == 1000000);
    CHECK_INT(trace_stats(t).left_out, 2);
    CHECK_INT(trace_stats(t).start_unix_us, INT64_C(1700000001000000));
    trace_close(t);
}

/* --- mistakes ------------------------------------------------------------------------------------------------------
 * */

static void says_what_is_wrong_and_where(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "is empty"},
        {"a,b\n1,2\n", "there is no column of arrival times"},
        {"at_s,prompt_tokens\n1,2\n", ":1: this is no trace that we know: there is no column of output tokens"},
        {"at_s,prompt_tokens,output_tokens\n1,2,3\n2,x,3\n", ":3: prompt_tokens: \"x\" is not a whole number"},
        {"at_s,prompt_tokens,output_tokens\n1,2,3\n2,3\n", ":3: has 2 fields, the head line has 3"},
        {"at_s,prompt_tokens,output_tokens\n1,2,0\n", ":2: output_tokens: 0 is out of bounds; 1 to"},
        {"at_s,prompt_tokens,output_tokens\n1,99999999999999999999,1\n",
         ":2: prompt_tokens: 99999999999999999999 is out"},
        {"at_s,prompt_tokens,output_tokens\n5,2,3\n4,2,3\n", "sort the file by time"},
        {"at_s,prompt_tokens,output_tokens\nnan,2,3\n", ":2: at_s: \"nan\" is not a number"},
        {"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-16 18:17:03,1,1\n",
         ":2: TIMESTAMP: \"2023-13-16 18:17:03\""},
        {"at_s,prompt_tokens,output_tokens\n\"1,2,3\n", ":2: field 1: the quotes are not closed"},
        {"at_s,prompt_tokens,output_tokens,class\n1,2,3,idle\n", ":2: class: \"idle\" is none"},
        {"{\"timestamp\": 1, \"input_length\": 5}\n", ":1: output_length is missing"},
        {"{\"timestamp\": 1, \"input_length\": 5,\n", ":1: "},
        {"{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": [-1]}\n", ":1: hash_ids: item 1"},
    };
    struct sim_request r;
    int n;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_file("bad", cases[i].text);
        struct trace *t = open_path(path);
        if (t)
            CHECK(read_all(t, &r, 1, &n) == RC_INVALID);
        if (!strstr(err.message, cases[i].says) || !strstr(err.message, path))
            fprintf(stderr, "case %zu: %s\n", i, err.message);
        CHECK(strstr(err.message, cases[i].says) && strstr(err.message, path));
        trace_close(t);
    }
    CHECK(!open_path("/nonexistent/trace.csv") && strstr(err.message, "/nonexistent/trace.csv: No such file"));
}

static void count_bad(const struct error *e, void *arg)
{
    CHECK(strstr(e->message, "bad2:3: ") || strstr(e->message, "bad2:4: "));
    ++*(int *)arg;
}

static void leaves_bad_rows_out_where_that_is_allowed(void)
{
    struct sim_request r[8];
    int n, seen = 0;
    const char *path = write_file("bad2", "at_s,prompt_tokens,output_tokens\n1,1,1\n2,x,1\n3,1,-1\n4,1,1\n");

    for (int allowed = 1; allowed <= 2; allowed++) {
        struct trace *t =
            open_file(&(struct trace_file){.path = path},
                      &(struct trace_options){.bad_rows_max = allowed, .bad_row = count_bad, .arg = &seen});
        CHECK_INT(read_all(t, r, 8, &n), allowed == 2 ? RC_NOT_FOUND : RC_INVALID);
        CHECK_INT(trace_stats(t).bad_rows, allowed);
        trace_close(t);
    }
    CHECK_INT(n, 2);
    CHECK_INT(seen, 3);
}

static void a_gzip_that_was_cut_off_is_no_shorter_trace(void)
{
    struct strbuf text;
    struct sim_request r;
    int n;

    strbuf_init(&text, 1 << 24);
    (void)strbuf_puts(&text, "at_s,prompt_tokens,output_tokens\n");
    for (int i = 0; i < 20000; i++)
        (void)strbuf_printf(&text, "%d,%d,%d\n", i, i * 7919 % 1000 + 1, i * 104729 % 500 + 1);
    const char *path = write_gz("cut.gz", text.data);
    strbuf_fini(&text);
    SPW_ASSERT(truncate(path, 30000) == 0);
    struct trace *t = open_path(path);
    enum rc rc = t ? read_all(t, &r, 1, &n) : err.code;
    CHECK(rc == RC_IO && strstr(err.message, "can't be read on"));
    trace_close(t);
}

/* --- what is done to a file ------------------------------------------------------------------------------------------
 * */

static const char *steady(int n) /* one request each second; prompts count up */
{
    struct strbuf text;

    strbuf_init(&text, 1 << 24);
    (void)strbuf_puts(&text, "at_s,prompt_tokens,output_tokens\n");
    for (int i = 0; i < n; i++)
        (void)strbuf_printf(&text, "%d,%d,2\n", 100 + i, i + 1);
    const char *path = write_file("steady.csv", text.data);
    strbuf_fini(&text);
    return path;
}

static void cuts_a_span_out(void)
{
    static struct sim_request r[100];
    int n;
    struct trace *t = open_file(&(struct trace_file){.path = steady(100), .from_us = 10000000, .until_us = 20000000},
                                &(struct trace_options){0});

    CHECK_INT(read_all(t, r, 100, &n), RC_NOT_FOUND);
    CHECK_INT(n, 10);
    CHECK(r[0].prompt == 11 && r[0].at_us == 0 && r[9].prompt == 20);
    trace_close(t);
}

static bool in_order(const struct sim_request *r, int n)
{
    for (int i = 1; i < n; i++)
        if (r[i].at_us < r[i - 1].at_us)
            return false;
    return true;
}

/* Member by member: between them there may be anything. */
static bool equal(const struct sim_request *a, const struct sim_request *b, int n)
{
    bool same = true;
    for (int i = 0; i < n; i++, a++, b++) {
        same = same && a->at_us == b->at_us && a->prompt == b->prompt && a->output == b->output;
        same = same && a->cached == b->cached && a->model == b->model && a->team == b->team && a->file == b->file;
        same = same && a->copy == b->copy && a->batch == b->batch && a->local_only == b->local_only;
        same = same && a->deadline_us == b->deadline_us && a->n_blocks == b->n_blocks;
    }
    return same;
}

static void copies_hold_every_request_once_each(void)
{
    enum { ROWS = 500, COPIES = 7 };
    static struct sim_request r[2][ROWS * COPIES], other[ROWS * COPIES];
    static int seen[COPIES][ROWS];
    struct trace_file f = {.path = steady(ROWS), .copies = COPIES, .shift_us = 60000000};
    int n;

    for (int i = 0; i < 2; i++) {
        struct trace *t = open_file(&f, &(struct trace_options){.seed = 3});
        CHECK_INT(read_all(t, r[i], ROWS * COPIES, &n), RC_NOT_FOUND);
        CHECK_INT(n, ROWS * COPIES);
        CHECK_INT(trace_rewind(t, &err), RC_OK);
        CHECK_INT(read_all(t, other, ROWS * COPIES, &n), RC_NOT_FOUND);
        CHECK(equal(other, r[i], ROWS * COPIES));
        trace_close(t);
    }
    CHECK(equal(r[0], r[1], ROWS * COPIES));
    CHECK(in_order(r[0], n));
    int64_t shift[COPIES];
    bool same_shift = true;
    for (int i = 0; i < n; i++) {
        const struct sim_request *q = &r[0][i];
        int64_t by = q->at_us - (q->prompt - 1) * INT64_C(1000000);
        if (!seen[q->copy][q->prompt - 1]++ && q->prompt == 1)
            shift[q->copy] = by;
        same_shift = same_shift && by == shift[q->copy] && by >= 0 && by < 60000000;
    }
    CHECK(same_shift && shift[0] == 0 && shift[1] != shift[2]);
    for (int c = 0; c < COPIES; c++)
        for (int i = 0; i < ROWS; i++)
            SPW_ASSERT(seen[c][i] == 1);
    struct trace *t = open_file(&f, &(struct trace_options){.seed = 4});
    CHECK_INT(read_all(t, other, ROWS * COPIES, &n), RC_NOT_FOUND);
    CHECK(memcmp(other, r[0], sizeof other) != 0);
    trace_close(t);
}

static void copies_are_other_conversations(void)
{
    struct sim_request r;
    uint64_t blocks[3];
    const char *path =
        write_file("m2.jsonl", "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [4]}\n");
    struct trace *t =
        open_file(&(struct trace_file){.path = path, .copies = 3, .shift_us = 1000}, &(struct trace_options){0});

    for (int i = 0; i < 3; i++) {
        CHECK_INT(trace_next(t, &r, &err), RC_OK);
        CHECK_INT(r.n_blocks, 1);
        blocks[i] = r.blocks[0];
    }
    CHECK(blocks[0] != blocks[1] && blocks[1] != blocks[2] && blocks[0] != blocks[2]);
    trace_close(t);
}

static void tiles_under_a_curve(void)
{
    static struct sim_request r[400000];
    struct rate_curve curve;
    int n, by_step[4] = {0};
    const char *path = write_file("curve.csv", "timestamp_s,other,rate\n0,9,2\n600,9,10\n1200,9,0\n1800,9,40\n");

    CHECK_INT(rate_curve_read(&curve, path, "rate", &err), RC_OK);
    struct trace *t = open_file(&(struct trace_file){.path = steady(300), .tile = true, .curve = &curve, .factor = 2},
                                &(struct trace_options){.seed = 5, .span_us = INT64_C(4800000000)});
    CHECK(t != NULL);
    if (!t)
        return;
    CHECK_INT(read_all(t, r, 400000, &n), RC_NOT_FOUND);
    CHECK(in_order(r, n));
    for (int i = 0; i < n; i++)
        by_step[r[i].at_us / 600000000 % 4]++;
    const double expect[4] = {2 * 2 * 1200, 10 * 2 * 1200, 0, 40 * 2 * 1200};
    for (int i = 0; i < 4; i++)
        CHECK(fabs(by_step[i] - expect[i]) <= 4 * sqrt(expect[i]));
    CHECK(r[n - 1].at_us < INT64_C(4800000000));
    trace_close(t);
    CHECK(!open_file(&(struct trace_file){.path = steady(300), .tile = true, .curve = &curve, .copies = 3},
                     &(struct trace_options){.span_us = 1000}) &&
          strstr(err.message, "3 copies of 1.000 requests/s can't reach the curve's 40.000; 40 are needed"));
    rate_curve_fini(&curve);
    CHECK(!open_file(&(struct trace_file){.path = steady(300), .tile = true}, &(struct trace_options){0}) &&
          strstr(err.message, "say how long"));
    CHECK(rate_curve_read(&curve, path, "speed", &err) == RC_INVALID && strstr(err.message, "there are: timestamp_s"));
    rate_curve_fini(&curve);
}

static void merges_files_in_time_order(void)
{
    static struct sim_request r[300];
    struct trace_file f[2] = {{.path = steady(100), .model = "a", .team = "x"},
                              {.path = write_file("half.csv", "at_s,prompt_tokens,output_tokens\n0.5,1,1\n9.25,1,1\n"),
                               .model = "b",
                               .batch = true}};
    struct trace *t = NULL;
    int n;

    CHECK_INT(trace_open(&t, f, 2, &(struct trace_options){.span_us = 50000000}, &err), RC_OK);
    CHECK_INT(read_all(t, r, 300, &n), RC_NOT_FOUND);
    CHECK_INT(n, 52);
    CHECK(in_order(r, n) && r[1].file == 1 && r[1].batch && !r[0].batch);
    CHECK_STR(trace_name(t, TRACE_MODELS, r[1].model), "b");
    trace_close(t);
}

static void published_traces_are_read_whole(void)
{
    static const struct {
        const char *file;
        int rows;
    } files[] = {{"AzureLLMInferenceTrace_code.csv", 8819},
                 {"AzureLLMInferenceTrace_conv.csv", 19366},
                 {"mooncake_conversation.jsonl", 12031},
                 {"deepseek-r1_sampled_24h_tenth.csv.gz", 138332}};
    struct sim_request r;
    int n;

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "../shared/data/traces/%s", files[i].file);
        if (access(path, R_OK) != 0) {
            printf("skipped: no %s\n", path);
            continue;
        }
        struct trace *t = open_path(path);
        enum rc rc = t ? read_all(t, &r, 1, &n) : err.code;
        if (rc != RC_NOT_FOUND)
            fprintf(stderr, "%s\n", err.message);
        CHECK_INT(rc, RC_NOT_FOUND);
        CHECK_INT(n, files[i].rows);
        trace_close(t);
    }
}

int main(void)
{
    SPW_ASSERT(mkdtemp(folder));
    TEST(reads_azure);
    TEST(reads_our_own_columns);
    TEST(reads_mooncake);
    TEST(reads_a_ledger);
    TEST(says_what_is_wrong_and_where);
    TEST(leaves_bad_rows_out_where_that_is_allowed);
    TEST(a_gzip_that_was_cut_off_is_no_shorter_trace);
    TEST(cuts_a_span_out);
    TEST(copies_hold_every_request_once_each);
    TEST(copies_are_other_conversations);
    TEST(tiles_under_a_curve);
    TEST(merges_files_in_time_order);
    TEST(published_traces_are_read_whole);
    static const char *const files[] = {"azure.gz", "azure.csv", "own.csv",    "m.jsonl",  "ledger.db", "bad",
                                        "bad2",     "cut.gz",    "steady.csv", "m2.jsonl", "curve.csv", "half.csv"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        unlink(path_of(files[i]));
    rmdir(folder);
    return TEST_RESULT();
}
