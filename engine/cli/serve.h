/* The verb `serve`, in three files: cmd_serve.c (the command line, and which of the two), serve_node.c (the
 * supervisor's process), serve_model.c (the process with the model: a supervisor's worker, or all there is). */
#ifndef ENGINE_CLI_SERVE_H
#define ENGINE_CLI_SERVE_H

#include "base/log.h"
#include "base/tls_door.h"
#include "engine/cli/cli.h"
#include "engine/serve/api_keys.h"

#define SERVE_AREA "serve"

struct serve_args {
    const char *model, *host, *device, *alias, *key_file, *node_key_file, *chat_template, *log_level, *tls_cert,
        *tls_key, *join, *token_file, *state_dir, *advertise, *notices, *end_command, *dead_man, *watts, *nvml, *rapl,
        *name, *kv_type, *activations, *gemm;
    const char *tls_client_ca; /* of a node that joins: its scheduler alone is let in */
    int64_t power_cap;         /* watts of each GPU; 0: as it is */
    char joined_files[3][512]; /* what the three of them are then */
    char state[256];           /* of state_dir, where it is not given */
    int64_t port, threads, n_ctx, max_batch, kv_tokens, prefix_tokens, spill_tokens, host_layers, warmup, drain_s,
        notice_s, queue_s, hold_s, hold_max, notice_poll_s, watchdog_s;
    bool lazy, no_mmap, plain, no_supervisor;
    int64_t worker_fd, listener_fd; /* -1: this is no worker */
};

/* What both processes make of them. */
struct serve_common {
    struct log log;
    char model_id[128]; /* what requests call the model */
    char listen_on[300];
    struct tls_door *tls;             /* owned; NULL: plain */
    struct api_keys *keys, *node_key; /* owned; NULL: none */
};
enum rc serve_common_open(struct serve_common *c, const struct serve_args *a, struct error *e) SPW_MUST_USE;
void serve_model_name(const struct serve_args *a, char *id, size_t size);
void serve_say_listening(const struct serve_common *c, const struct serve_args *a, int port);
void serve_common_close(struct serve_common *c);

/* Run until the end; the exit status. */
int serve_model(const struct serve_args *a);
/* argv: what follows "serve", for the workers. */
int serve_node(const struct serve_args *a, int argc, char **argv);

#endif
