/* Any text as an answer of EC2: never a crash, bounded, and every reader of answers finds its way through whatever tree
 * came of it; as keys from a file or of a role, too.
 * links: spw_providers */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "providers/aws_keys.h"
#include "providers/ec2_answers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t sum; /* so that nothing is optimised away */

static void on_instance(const struct ec2_instance *i, void *arg)
{
    struct ec2_offer o;
    (void)arg;
    SPW_ASSERT(*i->id && i->type && i->zone && i->owner && i->token && i->name && i->pool && i->reason_code &&
               i->reason);
    sum +=
        strlen(i->private_ip) + strlen(i->public_ip) + strlen(ec2_quota_family(i->type)) + ec2_offer_parse(i->id, &o);
}

static void on_error(const struct ec2_fleet_error *f, void *arg)
{
    (void)arg;
    sum += strlen(f->code) + strlen(f->message) + strlen(f->type) + strlen(f->zone) + strlen(f->subnet);
}

static void on_price(const struct ec2_price *p, void *arg)
{
    (void)arg;
    SPW_ASSERT(p->hour.v > 0 && *p->type && *p->zone);
}

static void read_answer(const struct xml_node *root)
{
    const char *ids[4], *next;
    ec2_answer_instances(root, on_instance, NULL, &next);
    SPW_ASSERT(next);
    SPW_ASSERT(ec2_answer_prices(root, on_price, NULL, &next) >= 0 && next);
    int n = ec2_answer_fleet(root, ids, 4, on_error, NULL);
    for (int i = 0; i < n && i < 4; i++)
        SPW_ASSERT(*ids[i]);
    sum += strlen(xml_text(root, "Errors/Error/Code"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct xml x;
    struct error e;
    struct aws_keys k;
    int64_t expires;
    enum rc rc = xml_parse(&x, (const char *)data, size, &e);
    SPW_ASSERT((rc == RC_OK) == (x.root != NULL));
    if (rc == RC_OK)
        read_answer(x.root);
    xml_fini(&x);
    if (size < 65536) {
        char *text = spw_strndup((const char *)data, size);
        (void)!aws_keys_parse_file(text, "default", &k, &e);
        free(text);
        if (aws_keys_parse_role((const char *)data, size, &k, &expires, &e) == RC_OK)
            aws_keys_wipe(&k);
    }
    return 0;
}
