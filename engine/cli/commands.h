/* The verbs of spillway-engine. Each gets what follows its name, prints results on stdout and the rest on stderr, and
 * returns the exit code (base/args.h): 0 done, 1 failed, 2 wrong usage. */
#ifndef ENGINE_CLI_COMMANDS_H
#define ENGINE_CLI_COMMANDS_H

int cmd_bench(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_render_chat(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);

#endif
