/* The members of a record's structs: what record.c writes and compares, and record_read.c reads. */
#ifndef SCHEDULER_RECORD_RECORD_TABLES_H
#define SCHEDULER_RECORD_RECORD_TABLES_H

#include "scheduler/record/record.h"
#include "scheduler/record/record_members.h"

#define RECORD_TOKENS_MAX INT64_C(1000000000000)

extern const struct members record_begin_members, record_named_members, record_facts_members, record_curve_members,
    record_state_members, record_tariff_members, record_growing_members, record_work_members, record_leg_members,
    record_heard_members, record_who_members, record_request_members, record_choice_members, record_candidate_members,
    record_end_members, record_event_members, record_like_members;

#endif
