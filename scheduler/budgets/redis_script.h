/* The text of redis.lua, put into the program by the build. */
#ifndef SCHEDULER_BUDGETS_REDIS_SCRIPT_H
#define SCHEDULER_BUDGETS_REDIS_SCRIPT_H

#include <stddef.h>

extern const char redis_script_text[]; /* ended by NUL */
extern const size_t redis_script_length;

#endif
