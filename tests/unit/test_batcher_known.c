/* The batcher where something is known already: the beginning of a prompt, what most likely comes next, the answer so
 * far of a stream that goes on here. What a client gets does not depend on any of it.
 *
 * links: spw_engine_serve */
#include "tests/unit/batcher_glass.h"
#include <stddef.h>

/* What is known of a prompt is not computed again, and nothing else changes: not the answer, not what the sampler has
 * seen of the prompt, not what is counted but for `cached`. */
static void known_beginnings(void)
{
    static const struct {
        int known, n_prompt, want;
    } cases[] = {{0, 200, 0}, {128, 200, 128}, {128, 130, 128}, {128, 128, 64}, {192, 100, 64}, {64, 64, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client got[2] = {0};
        for (int known = 0; known < 2; known++) {
            struct bench t;
            struct batcher_stats s;
            engine_init(&t.en);
            t.en.known = known ? cases[i].known : 0;
            bench_init(&t, &(struct bench_options){.max_seqs = 2});
            struct ask a = {.n_prompt = cases[i].n_prompt, .max_tokens = 90, .temperature = 1.0, .seed = 5};
            CHECK_INT(submit(&t, &got[known], &a), RC_OK);
            CHECK(pump(&t, client_done, &got[known]));
            CHECK_INT(got[known].usage.prompt, cases[i].n_prompt);
            CHECK_INT(got[known].usage.cached, known ? cases[i].want : 0);
            batcher_stats(t.b, &s);
            CHECK_INT(s.prompt_tokens, cases[i].n_prompt);
            CHECK_INT(s.cached_tokens, known ? cases[i].want : 0);
            CHECK_INT(s.prefill_tokens, cases[i].n_prompt - (known ? cases[i].want : 0));
            CHECK_INT(t.en.salts, 7);
            bench_fini(&t);
        }
        CHECK_INT(got[1].n_ids, got[0].n_ids);
        CHECK(memcmp(got[1].ids, got[0].ids, sizeof got[0].ids) == 0);
    }
}

/* Looking ahead changes how many steps an answer takes, and nothing else: not where it stops, whatever ends it, not its
 * samples, not what others in the batch get. */
static void looking_ahead(void)
{
    static const char text[] =
        "the cat sat on the mat, the cat sat on the mat, the cat sat on the hat, the cat sat on the mat";
    static const struct ask asks[] = {
        {.n_prompt = 3, .max_tokens = 94, .samples = true},
        {.n_prompt = 3, .max_tokens = 37},
        {.n_prompt = 3, .max_tokens = 94, .stop = "hat"},
        {.n_prompt = 3, .max_tokens = 94, .temperature = 0.7, .seed = 3},
        {.n_prompt = 90, .max_tokens = 60, .temperature = 1.0, .seed = 9},
    };
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        struct client got[2][3] = {0};
        struct batcher_stats stats[2];
        int shared[2];
        for (int ahead = 0; ahead < 2; ahead++) {
            struct bench t;
            engine_init(&t.en);
            t.en.script = i < 4 ? text : NULL;
            t.en.script_from = 3;
            bench_init(&t, &(struct bench_options){.max_seqs = 3, .speculate = ahead});
            for (int k = 0; k < 3; k++) {
                struct ask a = asks[i];
                a.seed += (uint64_t)k;
                CHECK_INT(submit(&t, &got[ahead][k], &a), RC_OK);
            }
            struct clients all = {got[ahead], 3};
            CHECK(pump(&t, all_done, &all));
            batcher_stats(t.b, &stats[ahead]);
            shared[ahead] = engine_get(&t.en, &t.en.shared);
            bench_fini(&t);
        }
        for (int k = 0; k < 3; k++) {
            struct client *plain = &got[0][k], *fast = &got[1][k];
            CHECK_INT(fast->n_ids, plain->n_ids);
            CHECK(memcmp(fast->ids, plain->ids, sizeof plain->ids) == 0);
            CHECK_STR(fast->text, plain->text);
            CHECK_INT(fast->finish, plain->finish);
            CHECK_INT(fast->n_samples, plain->n_samples);
            CHECK_INT(fast->usage.completion, plain->usage.completion);
        }
        CHECK_INT(stats[0].proposed_tokens, 0);
        CHECK_INT(stats[1].generated_tokens, stats[0].generated_tokens);
        CHECK(stats[1].accepted_tokens <= stats[1].proposed_tokens);
        CHECK_INT(stats[1].decode_tokens,
                  stats[1].generated_tokens - 3 + stats[1].proposed_tokens - stats[1].accepted_tokens);
        CHECK(shared[1] <= shared[0] &&
              shared[1] >= shared[0] - SPECULATE_MAX); /* but for what the last step brought */
        if (i == 0)
            CHECK(stats[1].steps < stats[0].steps && stats[1].accepted_tokens > 30);
    }
}

/* A stream that goes on here: of what is known only the prompt's part is the client's `cached`. */
static void known_beginning_of_a_resumed_answer(void)
{
    struct bench t;
    struct client c = {0};
    int32_t said[100];
    for (int i = 0; i < 100; i++)
        said[i] = BYTE('a' + i % 26);
    engine_init(&t.en);
    t.en.known = 192;
    bench_init(&t, &(struct bench_options){.max_seqs = 2});
    struct ask a = {.n_prompt = 100, .max_tokens = 110, .resume = said, .n_resume = 100};
    CHECK_INT(submit(&t, &c, &a), RC_OK);
    CHECK(pump(&t, client_done, &c));
    CHECK_INT(c.usage.prompt, 100);
    CHECK_INT(c.usage.cached, 100);
    CHECK_INT(c.usage.completion, 110);
    bench_fini(&t);
}

/* An answer that is handed over after any of its ids goes on as if nothing had happened: ids, text from where the first
 * leg's ended, usage; also where a device makes the choices from there on. However many steps one call of on_output took in, the text it brought is that of the ids it brought.
 */
static void resumed_goes_on(void)
{
    static struct client whole, rest;
    static const struct ask asks[] = {
        {.n_prompt = 90, .salt = 1, .max_tokens = 40},
        {.n_prompt = 3, .salt = 2, .max_tokens = 70, .temperature = 1, .seed = 5, .stop = "never"},
        {.n_prompt = 1, .salt = 3, .max_tokens = 200, .temperature = 1.3, .seed = 6, .ignore_eos = true},
        {.n_prompt = 70, .salt = 4, .max_tokens = 90, .temperature = 1, .seed = 7, .samples = true},
        {.n_prompt = 20, .salt = 5, .max_tokens = 60, .temperature = 0.9, .seed = 8, .plain = true},
    };
    for (size_t k = 0; k < sizeof asks / sizeof *asks; k++) {
        struct bench t;
        struct ask a = asks[k];
        engine_init(&t.en);
        t.en.eos_at = k == 3 ? 120 : 0;
        bench_init(&t, &(struct bench_options){.max_seqs = 2});
        memset(&whole, 0, sizeof whole);
        CHECK_INT(submit(&t, &whole, &a), RC_OK);
        CHECK(pump(&t, client_done, &whole));
        a.resume = whole.ids;
        t.en.chooses = a.plain;
        for (a.n_resume = 0; a.n_resume < whole.n_ids; a.n_resume += 3) {
            size_t from = whole.len_at[a.n_resume];
            memset(&rest, 0, sizeof rest);
            CHECK_INT(submit(&t, &rest, &a), RC_OK);
            CHECK(pump(&t, client_done, &rest));
            CHECK_INT(rest.n_ids, whole.n_ids - a.n_resume);
            CHECK(memcmp(rest.ids, whole.ids + a.n_resume, (size_t)rest.n_ids * sizeof *rest.ids) == 0);
            CHECK(from == SIZE_MAX ||
                  (rest.len == whole.len - from && memcmp(rest.text, whole.text + from, rest.len) == 0));
            CHECK_INT(rest.n_samples, a.samples ? rest.n_ids : 0);
            CHECK(memcmp(&rest.usage, &whole.usage, offsetof(struct batch_usage, uses)) == 0 &&
                  rest.finish == whole.finish);
        }
        CHECK(!a.plain || t.en.choices > 500);
        bench_fini(&t);
    }
}

/* What the model says of a prompt's tokens, in whatever slices it comes, and though its beginning is known: that has no
 * logits, so it is computed. */
static void prompts_are_told(void)
{
    static struct client got[3];
    memset(got, 0, sizeof got);
    const struct ask a = {.n_prompt = 150, .max_tokens = 3, .samples = true, .prompt = true};
    for (int way = 0; way < 3; way++) {
        struct bench t;
        engine_init(&t.en);
        t.en.known = way == 1 ? 128 : 0;
        bench_init(&t, &(struct bench_options){.max_seqs = 2, .step_tokens = way == 2 ? 7 : 128});
        CHECK_INT(submit(&t, &got[way], &a), RC_OK);
        CHECK(pump(&t, client_done, &got[way]));
        CHECK_INT(got[way].usage.cached, 0);
        CHECK_INT(got[way].n_ids, 3);
        CHECK(memcmp(got[way].prompt, got[0].prompt, sizeof got[0].prompt) == 0);
        CHECK(memcmp(got[way].ids, got[0].ids, sizeof got[0].ids) == 0);
        if (way == 0) { /* and it is what the rows say, one by one */
            struct sampler_params sp;
            struct sampler *sampler = NULL;
            struct sample said;
            struct error e = {0};
            float row[N_ROW];
            sampler_params_init(&sp);
            CHECK_INT(sampler_new(&sp, N_VOCAB, &sampler, &e), RC_OK);
            struct seq *s = fake_seq_new(&t.en);
            for (int i = 0; i + 1 < a.n_prompt; i++) {
                seq_take(s, BYTE('a' + i * 7 % 26));
                fill_logits(&t.en, s, row);
                CHECK_INT(sampler_observe(sampler, row, BYTE('a' + (i + 1) * 7 % 26), &said, &e), RC_OK);
                CHECK(said.logprob == got[0].prompt[i]);
            }
            fake_seq_free(s);
            sampler_free(sampler);
        }
        bench_fini(&t);
    }
}

int main(void)
{
    TEST(known_beginnings);
    TEST(looking_ahead);
    TEST(prompts_are_told);
    TEST(known_beginning_of_a_resumed_answer);
    TEST(resumed_goes_on);
    return TEST_RESULT();
}
