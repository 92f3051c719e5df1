/* Price lists as files: what instances cost by the hour, and what APIs cost by the token, each from a date on. One
 * reader for providers, the simulator, the plan and `spillway prices`.
 *
 * Price lists are dirty. A row's doubtful figures are not used, its flags say why, and the table counts them, so that a
 * report can say what it left out. A row that cannot be read is told with file, line, column and what would be right;
 * whoever reads the list decides whether that ends it (price_table_read) or only costs the row (price_table_load).
 *
 * Files:
 *   CSV, plain or gzip, a row each; columns by name, in any order and case, others are passed over:
 *     instances: cloud, instance_type, accelerator, accelerator_count, region, price_usd_h; [zone, spot_usd_h, flags]
 *     APIs:      provider, model, input_usd_mtok, output_usd_mtok; [cached_input_usd_mtok]
 *     both:      [currency, effective_from, effective_until] (also valid_from, valid_until)
 *   YAML or JSON (4 MiB at most):
 *     {prices: [{the instances' columns}], apis: [{the APIs' columns}]}
 *     genai-prices: {unit, models: [{provider, model, prices}]} or [{id, models: [{id, prices}]}]
 *     litellm: {unit, models: {NAME: {input, cache_hit, output}}} or {NAME: {input_cost_per_token, ...}}
 *
 * Only US dollars are taken: money is booked in them, and a rate of exchange is somebody's decision. Money is integer
 * from the first digit on; digits beyond what is booked (pico-dollars) are rounded. Of rows for the same thing, a later
 * effective_from ends the earlier one.
 *
 * Tables own their text. One thread. Blocks (files). */
#ifndef PROVIDERS_CATALOGUE_H
#define PROVIDERS_CATALOGUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/money.h"

enum price_flag {
    PRICE_NO_ONDEMAND = 1 << 0,
    PRICE_NO_SPOT = 1 << 1,
    PRICE_SPOT_EQ_ONDEMAND = 1 << 2, /* no discount: a list price, not a market */
    PRICE_SPOT_GT_ONDEMAND = 1 << 3,
    PRICE_SPOT_FLOOR = 1 << 4,       /* exactly a tenth of the list price: a place holder */
    PRICE_SUSPECT_ONDEMAND = 1 << 5, /* looks like a price for a commitment */
    PRICE_HOST_APART = 1 << 6,       /* the GPU alone; its host has a row of its own */
    PRICE_HOST_ONLY = 1 << 7,        /* and this is one */
    PRICE_UNKNOWN_FLAG = 1 << 8,     /* a word of the file that we do not know: nothing of the row is used */
    PRICE_REPEATED = 1 << 9,         /* says what an earlier row says: that one counts */
    PRICE_CONFLICT = 1 << 10,        /* another row says something else of the same thing: neither is used */
    PRICE_NO_API = 1 << 11,          /* an API's row without both prices */
    PRICE_TIERED = 1 << 12,          /* dearer above so many tokens of prompt: the price below that is used */
    PRICE_DEPRECATED = 1 << 13,      /* so the list says; it is used */
};
#define PRICE_N_FLAGS 14
const char *price_flag_name(int bit);

struct price_row {
    const char *cloud, *type, *accelerator, *region, *zone; /* "" where the file has none */
    int accelerators;
    struct pusd on_demand_h, spot_h; /* per hour of the whole instance, host included; v < 0: none that can be used */
    unsigned flags;                  /* enum price_flag */
    int line;
    int64_t from_s, until_s; /* Unix time in which it holds, until excluded; 0: without beginning, without end */
    int64_t at_s;            /* of a question alone: when; 0: the newest that there is */
    bool superseded;         /* a later row ends this one */
};
struct price_api {
    const char *provider, *model;
    struct token_prices prices;      /* output.v < 0: none that can be used */
    int64_t prompt_max;              /* holds for prompts up to so many tokens (PRICE_TIERED); 0: all */
    int64_t from_s, until_s;         /* as above */
    int day_from_min, day_until_min; /* minutes of the day, UTC, within which it holds; the same twice: all day */
    unsigned flags;
    int line;
};
struct price_table {
    struct price_row *rows;
    int n;
    struct price_api *apis;
    int n_apis;
    int flagged[PRICE_N_FLAGS];          /* rows by flag, APIs too */
    int without_on_demand, without_spot; /* rows of which no such price is used */
    int lost;                            /* rows that could not be read */
    struct arena *arena;
};

/* One row that is lost. text: "file:line: column: what is wrong, and what would be right". */
typedef void price_problem_cb(int line, const char *text, void *arg);
/* The first row that cannot be read ends it: RC_INVALID. */
enum rc price_table_read(struct price_table *t, const char *path, struct error *e) SPW_MUST_USE;
/* Such a row is lost and told. RC_INVALID when the file as a whole is none of these, or has over PRICE_LOST_MAX such rows. */
#define PRICE_LOST_MAX 1000
enum rc price_table_load(struct price_table *t, const char *path, price_problem_cb *problem, void *arg,
                         struct error *e) SPW_MUST_USE;
void price_table_fini(struct price_table *t); /* {0} is fine */

enum price_market { PRICE_ON_DEMAND, PRICE_SPOT };
/* The cheapest usable row that fits; NULL or "" as cloud, type, accelerator, region, zone fits all, accelerators 0 too.
 * NULL: none. */
const struct price_row *price_cheapest(const struct price_table *t, const struct price_row *like,
                                       enum price_market market);
/* Does the row answer that question, and has it a usable price then? */
bool price_row_fits(const struct price_row *row, const struct price_row *like, enum price_market market);
/* Over the usable rows that fit: how many, and the least, median and greatest price. */
struct price_spread {
    int n;
    struct pusd least, median, greatest;
};
struct price_spread price_spread(const struct price_table *t, const struct price_row *like, enum price_market market);

/* What this provider's API costs for the model then (Unix time); provider NULL: the cheapest by output. NULL: not
 * known. A price for certain hours of the day goes before one for all, a later effective_from before an earlier one. */
const struct price_api *price_api_find(const struct price_table *t, const char *provider, const char *model,
                                       int64_t unix_s);

#endif
