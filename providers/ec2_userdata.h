/* The user data of a pool's machines: a script for cloud-init, made of the pool's settings and ec2_boot.sh. Pure.
 *
 * It holds no secret: it is the same for every machine of a pool and stands in a launch template. The machine's name
 * and its one-time token are tags of the instance, which it reads from its metadata service. */
#ifndef PROVIDERS_EC2_USERDATA_H
#define PROVIDERS_EC2_USERDATA_H

#include "base/alloc.h"

#define EC2_USERDATA_MAX ((size_t)16 << 10) /* EC2's bound, before base64 */

struct ec2_boot {                           /* NULL: none */
    const char *engine_url, *engine_sha256; /* none: the image has an engine at `engine` */
    const char *engine;
    const char *model_url, *model_sha256; /* none: the image has a model at `model` */
    const char *model;
    const char *alias, *join_url;
    const char *arguments; /* further ones of `serve`, with commas or blanks between them */
    int port, threads, ctx_size, max_batch;
    int boot_max_s; /* a machine that has not started its engine by then ends */
};
/* The script is appended to *script. RC_INVALID: a source is not https (http: to this machine alone), a sum is not
 * 64 hex digits or missing, a value has a line break; RC_FULL: longer than EC2_USERDATA_MAX. */
enum rc ec2_userdata(struct strbuf *script, const struct ec2_boot *b, struct error *e) SPW_MUST_USE;

#endif
