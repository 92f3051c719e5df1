/* Proves that files of earlier versions are read as they are and brought up to date by their first writer, and that
 * rows have their legs again, whether these stand in the row or beside it.
 * links: spw_sched_books */
#include "tests/unit/ledger_help.h"

#include <string.h>

#include "base/alloc.h"

static void see_legs(const struct ledger_leg *leg, void *arg)
{
    struct strbuf *out = arg;
    CHECK(strbuf_printf(out, "%d:%s:%s:%lld:%s ", leg->leg, leg->node, leg->outcome, (long long)leg->tokens_output,
                        leg->numerics) == RC_OK);
}

/* One leg stands in its row, if it is the row's own; the readers see no difference. */
static void only_legs(struct strbuf *out)
{
    const struct ledger_leg own = {.leg = 1,
                                   .node = "gpu1",
                                   .provider = "static",
                                   .outcome = "ok",
                                   .tokens_output = 7,
                                   .numerics = "c",
                                   .started = {5},
                                   .ended = {6}};
    struct ledger_leg other = own;
    struct ledger *l = open_ledger(NULL);
    struct ledger_row r = row("own");
    struct error e;

    snprintf(other.node, sizeof other.node, "gpu2");
    r.legs = &own;
    r.n_legs = 1;
    CHECK_INT(ledger_append(port, &r, NULL, NULL), RC_OK);
    r.request_id = "other";
    r.legs = &other;
    CHECK_INT(ledger_append(port, &r, NULL, NULL), RC_OK);
    r.request_id = "none";
    r.n_legs = 0;
    CHECK_INT(ledger_append(port, &r, NULL, NULL), RC_OK);
    close_ledger(l);
    CHECK_INT(ledger_read_legs(path, "own", see_legs, out, &e), RC_OK);
    CHECK_INT(ledger_read_legs(path, "none", see_legs, out, &e), RC_OK);
    CHECK_INT(ledger_read_legs(path, "other", see_legs, out, &e), RC_OK);
    CHECK_STR(out->data, "1:gpu1:ok:7:c 1:gpu2:ok:7:c ");
}

/* A file of the first version is read as it is, and brought up to date by its first writer; then rows have legs. */
static void test_first_version_and_legs(void)
{
    static const char first[] =
        "CREATE TABLE ledger (request_id TEXT NOT NULL PRIMARY KEY, tenant TEXT, team TEXT, key_id TEXT, model TEXT, "
        "node "
        "TEXT, provider TEXT, streamed INTEGER NOT NULL, attempts INTEGER NOT NULL, tokens_input INTEGER NOT NULL, "
        "tokens_cached_input INTEGER NOT NULL, tokens_output INTEGER NOT NULL, usage_source TEXT, "
        "price_input_uusd_per_mtok "
        "INTEGER NOT NULL, price_cached_input_uusd_per_mtok INTEGER NOT NULL, price_output_uusd_per_mtok INTEGER NOT "
        "NULL, "
        "charge_pusd INTEGER NOT NULL, accepted_ns INTEGER NOT NULL, first_byte_ns INTEGER NOT NULL, finished_ns "
        "INTEGER "
        "NOT NULL, outcome INTEGER NOT NULL, http_status INTEGER NOT NULL, error TEXT) STRICT;"
        "INSERT INTO ledger VALUES "
        "('old',NULL,NULL,NULL,'m','n','static',1,1,2,0,3,'provider',1,1,1,5,1,2,3,0,200,NULL);"
        "PRAGMA application_id = 1399879500; PRAGMA user_version = 1;";
    struct ledger_leg legs[] = {{.leg = 1,
                                 .node = "a",
                                 .provider = "static",
                                 .outcome = "cut",
                                 .tokens_output = 5,
                                 .numerics = "0123456789abcdef0123456789abcdef"},
                                {.leg = 2, .node = "b", .provider = "process", .outcome = "ok", .tokens_output = 72}};
    struct ledger_row r = row("new");
    struct seen seen = {.last = -1};
    struct ticket ticket = {&seen, 0};
    struct strbuf out;
    struct error e;
    sqlite3 *db;

    clean();
    CHECK(sqlite3_open(path, &db) == SQLITE_OK && sqlite3_exec(db, first, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
    strbuf_init(&out, 4096);
    CHECK_INT(rows_in_file(), 1);
    CHECK_INT(ledger_read_legs(path, "old", see_legs, &out, &e), RC_OK);
    CHECK_INT(out.len, 0);
    close_ledger(open_ledger(NULL));
    CHECK_INT(rows_in_file(), 1);
    struct ledger *l = open_ledger(NULL);
    r.legs = legs;
    r.n_legs = 2;
    r.continuations = 1;
    CHECK_INT(ledger_append(port, &r, done_cb, &ticket), RC_OK);
    memset(legs, 0, sizeof legs); /* they were copied */
    wait_for(&seen, 1);
    CHECK_INT(seen.ok, 1);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 2);
    CHECK_INT(ledger_read_legs(path, "new", see_legs, &out, &e), RC_OK);
    CHECK_STR(out.data, "1:a:cut:5:0123456789abcdef0123456789abcdef 2:b:ok:72: ");
    strbuf_clear(&out);
    only_legs(&out);
    strbuf_fini(&out);
    clean();
}

static int schema_version(void)
{
    sqlite3_stmt *s = NULL;
    sqlite3 *db = NULL;
    int version = -1;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &s, NULL) == SQLITE_OK);
    if (sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return version;
}

static void second_row(const struct ledger_row *r, void *arg)
{
    ++*(int *)arg;
    CHECK_STR(r->request_id, "one");
    CHECK_INT(r->continuations, 3);
    CHECK(r->asked_model == NULL && r->service_class == NULL && r->cache == NULL && r->idempotency_key == NULL);
    CHECK(r->saved.v == 0 && r->repeat == 0);
}

/* What the seventh version brought. */
#define BACK_TO_6                                                                                                      \
    "DROP INDEX ledger_by_finished; ALTER TABLE ledger DROP COLUMN tokens_reasoning;"                                  \
    "ALTER TABLE ledger DROP COLUMN price_version; ALTER TABLE ledger DROP COLUMN reserved_pusd;"                      \
    "ALTER TABLE ledger DROP COLUMN market; ALTER TABLE ledger DROP COLUMN domain;"                                    \
    "ALTER TABLE ledger DROP COLUMN charge_max_pusd; ALTER TABLE ledger DROP COLUMN busy_us; ALTER TABLE ledger DROP " \
    "COLUMN millijoules; DROP TABLE leg_uses;"                                                                         \
    "ALTER TABLE legs DROP COLUMN market; ALTER TABLE legs DROP COLUMN domain;"                                        \
    "ALTER TABLE legs DROP COLUMN tokens_input; ALTER TABLE legs DROP COLUMN tokens_cached_input;"                     \
    "ALTER TABLE legs DROP COLUMN busy_us; ALTER TABLE legs DROP COLUMN millijoules;"                                  \
    "DROP TABLE node_meters; DROP TABLE hours; DROP TABLE node_hours; DROP TABLE allocations;"                         \
    "DROP VIEW hour_rollups; DROP TABLE hour_sums; DROP TABLE rollup_kinds;"                                           \
    "DROP TABLE hour_charges; DROP TABLE finance; DROP TABLE corrections; DROP TABLE spools;"
/* A file of the second version, which has no column of the third: made from one of today by taking them away. */
static void test_second_version(void)
{
    static const char back[] =
        "DROP VIEW legs; ALTER TABLE more_legs RENAME TO legs; ALTER TABLE ledger DROP COLUMN leg_tokens_output;"
        "ALTER TABLE ledger DROP COLUMN leg_outcome; ALTER TABLE ledger DROP COLUMN leg_started_ns;"
        "ALTER TABLE ledger DROP COLUMN leg_ended_ns; ALTER TABLE ledger DROP COLUMN leg_numerics;"
        "DROP INDEX ledger_repeats; ALTER TABLE ledger DROP COLUMN request_hash;"
        "ALTER TABLE ledger DROP COLUMN asked_model;"
        "ALTER TABLE ledger DROP COLUMN service_class; ALTER TABLE ledger DROP COLUMN cache;"
        "ALTER TABLE ledger DROP COLUMN saved_pusd; ALTER TABLE ledger DROP COLUMN idempotency_key;"
        "ALTER TABLE ledger DROP COLUMN repeat; ALTER TABLE ledger DROP COLUMN project;" BACK_TO_6
        "ALTER TABLE ledger DROP COLUMN user; ALTER TABLE ledger DROP COLUMN tags; ALTER TABLE ledger DROP COLUMN "
        "budgets;"
        "DROP TABLE budget_totals; DROP TABLE budget_holds; DROP TABLE budget_limits; DROP TABLE budget_changes;"
        "PRAGMA user_version = 2;";
    struct ledger *l = open_ledger(NULL);
    struct ledger_row r = row("one");
    struct error e;
    int n = 0;

    r.continuations = 3;
    CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    close_ledger(l);
    make_database(back);
    CHECK(ledger_read(path, 10, second_row, &n, &e) == RC_OK); /* as it is */
    CHECK_INT(n, 1);
    CHECK_INT(schema_version(), 2);
    close_ledger(open_ledger(NULL)); /* the first writer brings it up to date */
    CHECK_INT(schema_version(), 9);
    CHECK(ledger_read(path, 10, second_row, &n, &e) == RC_OK);
    CHECK_INT(n, 2);
    clean();
}

int main(void)
{
    if (ledger_setup() != 0)
        return 1;
    TEST(test_first_version_and_legs);
    TEST(test_second_version);
    return ledger_teardown(TEST_RESULT());
}
