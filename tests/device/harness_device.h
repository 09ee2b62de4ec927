/* What the device tests share: counting, opening, small helpers, and the /proc numbers that show leaks. Faults are
 * injected by replacing entries of an open device's function table (core/device/vk_table.h). */
#ifndef DSVK_TEST_DEVICE_H
#define DSVK_TEST_DEVICE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_internal.h"

/* Prints a failing line and counts. A test is a function without arguments, named after its row of the fault list. */
bool check_at(bool ok, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(ok, ...) check_at((ok), __FILE__, __LINE__, __VA_ARGS__)
/* The call succeeded; else its sentence is printed. */
#define CHECK_OK(call) check_at((call) == DSVK_OK, __FILE__, __LINE__, "%s: %s", #call, error.message)
/* The call failed with this status and a sentence that contains `part`. */
#define CHECK_FAILS(call, wanted, part) check_failure((call), (wanted), &error, (part), __FILE__, __LINE__, #call)
bool check_failure(dsvk_status got, dsvk_status wanted, dsvk_error *error, const char *part, const char *file, int line,
                   const char *call);

/* Runs one test, with every allocation of the library back when it ends. */
#define RUN(name) run_test(#name, name)
void run_test(const char *name, void (*body)(void));
int test_result(void); /* prints the counts; the program's exit status */

/* A device with validation on (messages are counted when it is closed) and no cache; exits the program when there is
 * none. NULL options: these defaults. */
dsvk_device *open_device(const dsvk_device_options *options);
void close_device(dsvk_device *device); /* no validation message is tolerated */

uint32_t random_below(uint32_t limit); /* seeded once, the same numbers every run */
json_t *parse_json(char *text);        /* takes the text */
uint64_t count_files(void);            /* open descriptors of this process */
uint64_t count_threads(void);
uint64_t resident_bytes(void);

#endif
