/* What the schema's rows ask of texts: field is the const char * of a setting. False: why says what is wrong with it,
 * and what would be right. */
#ifndef SCHEDULER_CONFIG_SCHEMA_CHECK_H
#define SCHEDULER_CONFIG_SCHEMA_CHECK_H

#include <stdbool.h>
#include <stddef.h>

bool check_address(const void *field, char *why, size_t size);
bool check_redis(const void *field, char *why, size_t size);
bool check_url(const void *field, char *why, size_t size);
bool check_https(const void *field, char *why, size_t size);
bool check_host(const void *field, char *why, size_t size);
bool check_collector(const void *field, char *why, size_t size);
bool check_webhook(const void *field, char *why, size_t size);
bool check_mail_server(const void *field, char *why, size_t size);
bool check_name(const void *field, char *why, size_t size);
bool check_model(const void *field, char *why, size_t size);
bool check_hash(const void *field, char *why, size_t size);

#endif
