/* spillway-engine: one table of verbs. */
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/text.h"
#include "engine/cli/commands.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"bench", cmd_bench, "measure prefill and decode speed"},
    {"detokenize", cmd_detokenize, "turn token ids into text"},
    {"eval", cmd_eval, "run token ids through a model and write the logits"},
    {"generate", cmd_generate, "continue a prompt"},
    {"info", cmd_info, "say what a model file holds"},
    {"render-chat", cmd_render_chat, "write the prompt that a chat turns into"},
    {"serve", cmd_serve, "serve a model over the OpenAI API"},
    {"synth", cmd_synth, "write a model of random weights in a true shape"},
    {"tokenize", cmd_tokenize, "cut texts into token ids"},
};
#define N_COMMANDS ((int)(sizeof commands / sizeof commands[0]))

static void print_help(FILE *out)
{
    fprintf(out, "spillway-engine %s: inference for large language models\n\nusage: spillway-engine VERB [FLAGS]\n\n",
            SPILLWAY_VERSION);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-13s %s\n", commands[i].name, commands[i].help);
    fprintf(out,
            "\n'spillway-engine VERB --help' lists the flags of a verb. Results go to stdout, the rest to stderr.\n"
            "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

int main(int argc, char **argv)
{
    const char *names[N_COMMANDS];
    if (argc < 2) {
        print_help(stderr);
        return ARGS_EXIT_USAGE;
    }
    const char *verb = argv[1];
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0 || strcmp(verb, "help") == 0) {
        print_help(stdout);
        return ARGS_EXIT_OK;
    }
    if (strcmp(verb, "--version") == 0) {
        printf("spillway-engine %s\n", SPILLWAY_VERSION);
        return ARGS_EXIT_OK;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(verb, commands[i].name) == 0)
            return commands[i].run(argc - 2, argv + 2);
        names[i] = commands[i].name;
    }
    const char *near = text_nearest(verb, names, N_COMMANDS);
    fprintf(stderr,
            near ? "spillway-engine: unknown verb \"%s\"; did you mean \"%s\"?\n"
                 : "spillway-engine: unknown verb \"%s\"; see spillway-engine --help\n",
            verb, near);
    return ARGS_EXIT_USAGE;
}
