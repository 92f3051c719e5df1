/* The seventh version of the ledger's file: what a row says of the machine's work, and the tables of bills, hours and
 * of what finance edits; and the ninth, which keeps roll-ups apart from what they are of. Headers say what they mean:
 * ledger.h (rows, legs), meter.h (node_meters), rollup.h (node_hours, allocations, hours, hour_rollups, hour_charges),
 * finance.h (finance, corrections). */
#include "scheduler/books/ledger_internal.h"

const char ledger_books_schema[] =
    "ALTER TABLE ledger ADD COLUMN tokens_reasoning INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE ledger ADD COLUMN price_version INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE ledger ADD COLUMN reserved_pusd INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE ledger ADD COLUMN market TEXT;"
    "ALTER TABLE ledger ADD COLUMN domain TEXT;"
    "ALTER TABLE ledger ADD COLUMN busy_us INTEGER;"
    "ALTER TABLE ledger ADD COLUMN millijoules INTEGER;"
    "ALTER TABLE ledger ADD COLUMN charge_max_pusd INTEGER;"
    /* Rows come nearly in this order, so that the index grows at its end. */
    "CREATE INDEX ledger_by_finished ON ledger (finished_ns);"
    "ALTER TABLE more_legs ADD COLUMN market TEXT;"
    "ALTER TABLE more_legs ADD COLUMN domain TEXT;"
    "ALTER TABLE more_legs ADD COLUMN tokens_input INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE more_legs ADD COLUMN tokens_cached_input INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE more_legs ADD COLUMN busy_us INTEGER;"
    "ALTER TABLE more_legs ADD COLUMN millijoules INTEGER;"
    "DROP VIEW legs;"
    "CREATE VIEW legs AS"
    " SELECT request_id, leg, node, provider, tokens_output, outcome, started_ns, ended_ns, numerics, market, domain,"
    " tokens_input, tokens_cached_input, busy_us, millijoules FROM more_legs"
    " UNION ALL SELECT request_id, 1, node, provider, leg_tokens_output, leg_outcome, leg_started_ns, leg_ended_ns,"
    " leg_numerics, market, domain, tokens_input, tokens_cached_input, busy_us, millijoules"
    " FROM ledger WHERE leg_outcome IS NOT NULL;"
    "CREATE TABLE leg_uses ("
    " request_id TEXT NOT NULL, leg INTEGER NOT NULL, hour_s INTEGER NOT NULL, busy_us INTEGER NOT NULL,"
    " millijoules INTEGER NOT NULL, PRIMARY KEY (request_id, leg, hour_s)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX leg_uses_by_hour ON leg_uses (hour_s);"

    "CREATE TABLE node_meters ("
    " node TEXT NOT NULL, quarter_s INTEGER NOT NULL, pool TEXT, provider TEXT, market TEXT, domain TEXT,"
    " up_us INTEGER NOT NULL DEFAULT 0, boot_us INTEGER NOT NULL DEFAULT 0, idle_us INTEGER NOT NULL DEFAULT 0,"
    " asleep_us INTEGER NOT NULL DEFAULT 0, busy_us INTEGER NOT NULL DEFAULT 0,"
    " energy_mj INTEGER NOT NULL DEFAULT 0, boot_mj INTEGER NOT NULL DEFAULT 0, idle_mj INTEGER NOT NULL DEFAULT 0,"
    " energy_is INTEGER NOT NULL DEFAULT 0,"
    " tokens_input INTEGER NOT NULL DEFAULT 0, tokens_cached_input INTEGER NOT NULL DEFAULT 0,"
    " tokens_output INTEGER NOT NULL DEFAULT 0, counted INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (quarter_s, node)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE hours ("
    " hour_s INTEGER NOT NULL PRIMARY KEY, closed_ns INTEGER NOT NULL, requests INTEGER NOT NULL,"
    " tokens_input INTEGER NOT NULL, tokens_cached_input INTEGER NOT NULL, tokens_output INTEGER NOT NULL,"
    " charge_pusd INTEGER NOT NULL, saved_pusd INTEGER NOT NULL, bill_pusd INTEGER NOT NULL,"
    " allocated_pusd INTEGER NOT NULL, idle_pusd INTEGER NOT NULL, boot_pusd INTEGER NOT NULL,"
    " waste_pusd INTEGER NOT NULL, variance_pusd INTEGER NOT NULL, problems TEXT"
    ") STRICT;"
    "CREATE TABLE node_hours ("
    " hour_s INTEGER NOT NULL, node TEXT NOT NULL, pool TEXT, provider TEXT, market TEXT, domain TEXT,"
    " bill_pusd INTEGER NOT NULL, fixed_pusd INTEGER NOT NULL, energy_pusd INTEGER NOT NULL,"
    " tokens_pusd INTEGER NOT NULL,"
    " allocated_pusd INTEGER NOT NULL, idle_pusd INTEGER NOT NULL, boot_pusd INTEGER NOT NULL,"
    " waste_pusd INTEGER NOT NULL, variance_pusd INTEGER NOT NULL, why TEXT,"
    " paid_us INTEGER NOT NULL, busy_us INTEGER NOT NULL, waste_us INTEGER NOT NULL, idle_us INTEGER NOT NULL,"
    " boot_us INTEGER NOT NULL, asleep_us INTEGER NOT NULL,"
    " energy_mj INTEGER NOT NULL, busy_mj INTEGER NOT NULL, idle_mj INTEGER NOT NULL, boot_mj INTEGER NOT NULL,"
    " energy_is INTEGER NOT NULL, legs INTEGER NOT NULL, preempted INTEGER NOT NULL,"
    " PRIMARY KEY (hour_s, node)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE allocations ("
    " hour_s INTEGER NOT NULL, node TEXT NOT NULL, request_id TEXT NOT NULL, leg INTEGER NOT NULL,"
    " waste INTEGER NOT NULL, share_pusd INTEGER NOT NULL, busy_us INTEGER NOT NULL, millijoules INTEGER NOT NULL,"
    " PRIMARY KEY (hour_s, node, request_id, leg)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE hour_rollups ("
    " hour_s INTEGER NOT NULL, tenant TEXT, team TEXT, project TEXT, key_id TEXT, tags TEXT, model TEXT, pool TEXT,"
    " node TEXT, provider TEXT, market TEXT, domain TEXT, service_class TEXT, cache TEXT,"
    " price_input_uusd_per_mtok INTEGER NOT NULL, price_cached_input_uusd_per_mtok INTEGER NOT NULL,"
    " price_output_uusd_per_mtok INTEGER NOT NULL, price_version INTEGER NOT NULL,"
    " requests INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL, streamed INTEGER NOT NULL,"
    " continuations INTEGER NOT NULL, tokens_input INTEGER NOT NULL, tokens_cached_input INTEGER NOT NULL,"
    " tokens_output INTEGER NOT NULL, tokens_reasoning INTEGER NOT NULL, charge_pusd INTEGER NOT NULL,"
    " saved_pusd INTEGER NOT NULL, allocated_pusd INTEGER NOT NULL, waste_pusd INTEGER NOT NULL,"
    " busy_us INTEGER NOT NULL, millijoules INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX hour_rollups_by_hour ON hour_rollups (hour_s);"
    "CREATE TABLE hour_charges ("
    " hour_s INTEGER NOT NULL, model TEXT NOT NULL, pool TEXT NOT NULL, bucket INTEGER NOT NULL, n INTEGER NOT NULL,"
    " PRIMARY KEY (hour_s, model, pool, bucket)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE finance ("
    " version INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, who TEXT NOT NULL, kind TEXT NOT NULL,"
    " subject TEXT NOT NULL, from_s INTEGER NOT NULL, value TEXT NOT NULL, reason TEXT"
    ") STRICT;"
    "CREATE INDEX finance_by_subject ON finance (kind, subject, from_s, version);"
    "CREATE TABLE corrections ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, at_ns INTEGER NOT NULL, month_s INTEGER NOT NULL,"
    " request_id TEXT, tenant TEXT, team TEXT, project TEXT, key_id TEXT, model TEXT, node TEXT, provider TEXT,"
    " charge_pusd INTEGER NOT NULL, reason TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX corrections_by_month ON corrections (month_s);";

/* What a roll-up is of, in the order of hour_rollups; and the same of `a` compared with `b`, NULL with NULL too. */
#define KIND                                                                                                           \
    "tenant, team, project, key_id, tags, model, pool, node, provider, market, domain, service_class, cache,"          \
    " price_input_uusd_per_mtok, price_cached_input_uusd_per_mtok, price_output_uusd_per_mtok, price_version"
#define SAME_KIND(a, b)                                                                                                \
    a ".tenant IS " b ".tenant AND " a ".team IS " b ".team AND " a ".project IS " b ".project AND " a ".key_id IS " b \
      ".key_id AND " a ".tags IS " b ".tags AND " a ".model IS " b ".model AND " a ".pool IS " b ".pool AND " a        \
      ".node IS " b ".node AND " a ".provider IS " b ".provider AND " a ".market IS " b ".market AND " a               \
      ".domain IS " b ".domain AND " a ".service_class IS " b ".service_class AND " a ".cache IS " b ".cache AND " a   \
      ".price_input_uusd_per_mtok IS " b ".price_input_uusd_per_mtok AND " a ".price_cached_input_uusd_per_mtok IS " b \
      ".price_cached_input_uusd_per_mtok AND " a ".price_output_uusd_per_mtok IS " b                                   \
      ".price_output_uusd_per_mtok AND " a ".price_version IS " b ".price_version"
#define SUMS                                                                                                           \
    "requests, failed, cancelled, streamed, continuations, tokens_input, tokens_cached_input, tokens_output,"          \
    " tokens_reasoning, charge_pusd, saved_pusd, allocated_pusd, waste_pusd, busy_us, millijoules"
#define NEW_SUMS                                                                                                       \
    "NEW.requests, NEW.failed, NEW.cancelled, NEW.streamed, NEW.continuations, NEW.tokens_input,"                      \
    " NEW.tokens_cached_input, NEW.tokens_output, NEW.tokens_reasoning, NEW.charge_pusd, NEW.saved_pusd,"              \
    " NEW.allocated_pusd, NEW.waste_pusd, NEW.busy_us, NEW.millijoules"
#define KINDS                                                                                                          \
    "rollup_kinds ("                                                                                                   \
    " kind INTEGER PRIMARY KEY, tenant TEXT, team TEXT, project TEXT, key_id TEXT, tags TEXT, model TEXT, pool TEXT,"  \
    " node TEXT, provider TEXT, market TEXT, domain TEXT, service_class TEXT, cache TEXT,"                             \
    " price_input_uusd_per_mtok INTEGER NOT NULL, price_cached_input_uusd_per_mtok INTEGER NOT NULL,"                  \
    " price_output_uusd_per_mtok INTEGER NOT NULL, price_version INTEGER NOT NULL"                                     \
    ") STRICT"
#define KINDS_INDEX "rollup_kinds_by_all ON rollup_kinds (" KIND ")"
#define SUMS_OF_KIND(from)                                                                                             \
    "SELECT hour_s, kind, " SUMS " FROM " from " h CROSS JOIN rollup_kinds k WHERE " SAME_KIND("k", "h")

/* The same kind comes again in each hour, and its texts are most of a row: read once, a month's report takes half the
 * time. */
const char ledger_kinds_schema[] =
    "CREATE TABLE " KINDS ";"
    "CREATE TABLE hour_sums ("
    " hour_s INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " requests INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL, streamed INTEGER NOT NULL,"
    " continuations INTEGER NOT NULL, tokens_input INTEGER NOT NULL, tokens_cached_input INTEGER NOT NULL,"
    " tokens_output INTEGER NOT NULL, tokens_reasoning INTEGER NOT NULL, charge_pusd INTEGER NOT NULL,"
    " saved_pusd INTEGER NOT NULL, allocated_pusd INTEGER NOT NULL, waste_pusd INTEGER NOT NULL,"
    " busy_us INTEGER NOT NULL, millijoules INTEGER NOT NULL, PRIMARY KEY (hour_s, kind)"
    ") STRICT, WITHOUT ROWID;"
    "INSERT INTO rollup_kinds (" KIND ") SELECT DISTINCT " KIND " FROM hour_rollups;"
    "CREATE INDEX " KINDS_INDEX ";"
    "INSERT INTO hour_sums " SUMS_OF_KIND(
        "hour_rollups") ";"
                        "DROP TABLE hour_rollups;"
                        "CREATE VIEW hour_rollups AS SELECT hour_s, " KIND ", " SUMS " FROM hour_sums"
                        " CROSS JOIN rollup_kinds USING (kind);"
                        "CREATE TRIGGER hour_rollups_insert INSTEAD OF INSERT ON hour_rollups BEGIN"
                        " INSERT INTO rollup_kinds (" KIND
                        ") SELECT NEW.tenant, NEW.team, NEW.project, NEW.key_id, NEW.tags, NEW.model,"
                        " NEW.pool, NEW.node, NEW.provider, NEW.market, NEW.domain, NEW.service_class, NEW.cache,"
                        " NEW.price_input_uusd_per_mtok, NEW.price_cached_input_uusd_per_mtok, "
                        "NEW.price_output_uusd_per_mtok,"
                        " NEW.price_version WHERE NOT EXISTS (SELECT 1 FROM rollup_kinds k WHERE " SAME_KIND(
                            "k", "NEW") ");"
                                        " INSERT INTO hour_sums SELECT NEW.hour_s, k.kind, " NEW_SUMS
                                        " FROM rollup_kinds k WHERE " SAME_KIND("k", "NEW") ";"
                                                                                            " END;";

#define IN_RANGE " hour_s >= ?1 AND hour_s < ?2"
const char *const ledger_kinds_of_old[] = {
    "CREATE TEMP TABLE " KINDS,
    "INSERT INTO rollup_kinds (" KIND ") SELECT DISTINCT " KIND " FROM hour_rollups WHERE" IN_RANGE,
    "CREATE INDEX temp." KINDS_INDEX,
    "CREATE TEMP TABLE hour_sums AS " SUMS_OF_KIND("hour_rollups") " AND" IN_RANGE,
    NULL,
};
