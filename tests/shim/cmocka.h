/* cmocka stand-in for the AArch64 cross build, where the library is not at hand: the assertions that the tests of
 * base, tensor and backend use, and cmocka's output. One process, setjmp out of a failed test. */
#ifndef QR_TESTS_SHIM_CMOCKA_H
#define QR_TESTS_SHIM_CMOCKA_H

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(function) \
    {                              \
#function, function        \
    }
#define print_message(...) fprintf(stderr, __VA_ARGS__)

enum { SHIM_FAILED = 1, SHIM_SKIPPED = 2 };
static jmp_buf shim_out;

__attribute__((noreturn, unused)) static void shim_leave(const char *file, int line, const char *what, int outcome)
{
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    longjmp(shim_out, outcome);
}

#define shim_check(ok, what)                                          \
    do {                                                              \
        if (!(ok)) shim_leave(__FILE__, __LINE__, what, SHIM_FAILED); \
    } while (0)

#define skip() shim_leave(__FILE__, __LINE__, "skipped", SHIM_SKIPPED)
#define fail() shim_leave(__FILE__, __LINE__, "failed", SHIM_FAILED)
#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), fail())
#define assert_true(c) shim_check(c, #c)
#define assert_false(c) shim_check(!(c), "not: " #c)
#define assert_null(p) shim_check((p) == NULL, #p " is not NULL")
#define assert_non_null(p) shim_check((p) != NULL, #p " is NULL")
#define assert_int_equal(a, b) shim_check((uintmax_t)(a) == (uintmax_t)(b), #a " != " #b)
#define assert_int_not_equal(a, b) shim_check((uintmax_t)(a) != (uintmax_t)(b), #a " == " #b)
#define assert_ptr_equal(a, b) shim_check((const void *)(a) == (const void *)(b), #a " != " #b)
#define assert_string_equal(a, b) shim_check(strcmp(a, b) == 0, #a " != " #b)
#define assert_memory_equal(a, b, n) shim_check(memcmp(a, b, n) == 0, #a " and " #b " differ")
#define assert_in_range(v, lo, hi) \
    shim_check((uintmax_t)(v) >= (uintmax_t)(lo) && (uintmax_t)(v) <= (uintmax_t)(hi), #v " not in " #lo ".." #hi)
#define assert_float_equal(a, b, eps) shim_check(fabs((double)(a) - (double)(b)) <= (double)(eps), #a " != " #b)

#define cmocka_run_group_tests_name(name, tests, setup, teardown) \
    shim_run(name, tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
#define cmocka_run_group_tests(tests, setup, teardown) cmocka_run_group_tests_name(#tests, tests, setup, teardown)

__attribute__((unused)) static int shim_run(const char *group, const struct CMUnitTest *tests, size_t num_tests,
                                            int (*setup)(void **), int (*teardown)(void **))
{
    static int count[3];
    static size_t i; /* survives longjmp */
    void *state = NULL;
    if (setup != NULL && setup(&state) != 0) return 1;
    for (i = 0; i < num_tests; i++) {
        fprintf(stderr, "[ RUN      ] %s\n", tests[i].name);
        int outcome = setjmp(shim_out);
        if (outcome == 0) tests[i].run(&state);
        fprintf(stderr, "[%s] %s\n",
                outcome == 0   ? "       OK "
                : outcome == 1 ? "  FAILED  "
                               : "  SKIPPED ",
                tests[i].name);
        count[outcome]++;
    }
    if (teardown != NULL && teardown(&state) != 0) count[SHIM_FAILED]++;
    fprintf(stderr, "[==========] %s: %zu test(s) run.\n[  PASSED  ] %d test(s).\n", group, num_tests, count[0]);
    if (count[SHIM_SKIPPED] > 0) fprintf(stderr, "[  SKIPPED ] %d test(s), listed above\n", count[SHIM_SKIPPED]);
    if (count[SHIM_FAILED] > 0) fprintf(stderr, "[  FAILED  ] %d test(s), listed above\n", count[SHIM_FAILED]);
    return count[SHIM_FAILED];
}

#endif
