#include <string.h>

#include "text/jinja_library.h"
#include "text/jinja_text.h"

static void no_args(qr_jrun *run, const qr_jargs *args, const char *what)
{
    qr_jargs_bind(run, args, what, "", 0, NULL);
}

static qr_jval other_of(qr_jrun *run, const qr_jargs *args, const char *what)
{
    qr_jval other;
    qr_jargs_bind(run, args, what, "other", 1, &other);
    return other;
}

/* Tests without arguments, by what they look at. */
#define TEST(name, condition)                                                   \
    static qr_jval is_##name(qr_jrun *run, qr_jval value, const qr_jargs *args) \
    {                                                                           \
        no_args(run, args, "test '" #name "'");                                 \
        return qr_jval_bool(condition);                                         \
    }
static bool is_sized(qr_jval v)
{
    return qr_jval_is_seq(v) || v.kind == QR_J_STR || v.kind == QR_J_UNDEFINED || v.kind == QR_J_DICT;
}
static bool can_call(qr_jval v)
{
    return v.kind == QR_J_FUNCTION || v.kind == QR_J_METHOD || v.kind == QR_J_MACRO || v.kind == QR_J_JOINER ||
           v.kind == QR_J_LOOP || v.kind == QR_J_UNDEFINED;
}
TEST(defined, value.kind != QR_J_UNDEFINED)
TEST(undefined, value.kind == QR_J_UNDEFINED)
TEST(none, value.kind == QR_J_NONE)
TEST(boolean, value.kind == QR_J_BOOL)
TEST(true, value.kind == QR_J_BOOL && value.boolean)
TEST(false, value.kind == QR_J_BOOL && !value.boolean)
TEST(integer, value.kind == QR_J_INT)
TEST(float, value.kind == QR_J_FLOAT)
TEST(number, qr_jval_is_number(value))
TEST(string, value.kind == QR_J_STR)
TEST(mapping, value.kind == QR_J_DICT)
TEST(sequence, is_sized(value))
TEST(iterable, is_sized(value) || value.kind == QR_J_VIEW || value.kind == QR_J_ITER || value.kind == QR_J_LOOP)
TEST(callable, can_call(value))
TEST(escaped, value.kind == QR_J_STR && value.tag == QR_J_SAFE)
TEST(lower, qr_jtext_is(qr_jtext_str(run, value), QR_J_IS_LOWER))
TEST(upper, qr_jtext_is(qr_jtext_str(run, value), QR_J_IS_UPPER))
TEST(odd, qr_jval_equal(run, qr_jval_arith(run, "%", value, qr_jval_int(2)), qr_jval_int(1)))
TEST(even, qr_jval_equal(run, qr_jval_arith(run, "%", value, qr_jval_int(2)), qr_jval_int(0)))
TEST(filter, value.kind == QR_J_STR && qr_jfilter_find(value.text, value.bytes))
TEST(test, value.kind == QR_J_STR && qr_jtest_find(value.text, value.bytes))

static qr_jval is_divisibleby(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    qr_jval num;
    qr_jargs_bind(run, args, "test 'divisibleby'", "num", 1, &num);
    return qr_jval_bool(qr_jval_equal(run, qr_jval_arith(run, "%", value, num), qr_jval_int(0)));
}

static bool is_same(qr_jval a, qr_jval b)
{
    if (a.kind != b.kind) return false;
    if (a.kind == QR_J_NONE) return true;
    if (a.kind == QR_J_BOOL) return a.boolean == b.boolean;
    if (a.kind == QR_J_INT) return a.integer == b.integer;
    if (a.kind == QR_J_STR) return a.bytes == b.bytes && (a.text == b.text || !memcmp(a.text, b.text, a.bytes));
    if (a.kind == QR_J_FLOAT || a.kind == QR_J_UNDEFINED) return false;
    return a.list == b.list;
}

static qr_jval is_sameas(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    return qr_jval_bool(is_same(value, other_of(run, args, "test 'sameas'")));
}

static qr_jval is_in(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    return qr_jval_bool(qr_jval_contains(run, other_of(run, args, "test 'in'"), value));
}

static qr_jval is_eq(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    return qr_jval_bool(qr_jval_equal(run, value, other_of(run, args, "test 'eq'")));
}

static qr_jval is_ne(qr_jrun *run, qr_jval value, const qr_jargs *args)
{
    return qr_jval_bool(!qr_jval_equal(run, value, other_of(run, args, "test 'ne'")));
}

#define ORDER_TEST(name, op)                                                    \
    static qr_jval is_##name(qr_jrun *run, qr_jval value, const qr_jargs *args) \
    {                                                                           \
        bool unordered;                                                         \
        qr_jval other = other_of(run, args, "test '" #name "'");                \
        bool holds = qr_jval_compare(run, value, other, #op, &unordered) op 0;  \
        return qr_jval_bool(holds && !unordered);                               \
    }
ORDER_TEST(lt, <)
ORDER_TEST(le, <=)
ORDER_TEST(gt, >)
ORDER_TEST(ge, >=)

static const qr_jfunction tests[] = {
    {"odd", is_odd},
    {"even", is_even},
    {"divisibleby", is_divisibleby},
    {"defined", is_defined},
    {"undefined", is_undefined},
    {"filter", is_filter},
    {"test", is_test},
    {"none", is_none},
    {"boolean", is_boolean},
    {"false", is_false},
    {"true", is_true},
    {"integer", is_integer},
    {"float", is_float},
    {"lower", is_lower},
    {"upper", is_upper},
    {"string", is_string},
    {"mapping", is_mapping},
    {"number", is_number},
    {"sequence", is_sequence},
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"sameas", is_sameas},
    {"escaped", is_escaped},
    {"in", is_in},
    {"==", is_eq},
    {"eq", is_eq},
    {"equalto", is_eq},
    {"!=", is_ne},
    {"ne", is_ne},
    {">", is_gt},
    {"gt", is_gt},
    {"greaterthan", is_gt},
    {">=", is_ge},
    {"ge", is_ge},
    {"<", is_lt},
    {"lt", is_lt},
    {"lessthan", is_lt},
    {"<=", is_le},
    {"le", is_le},
};

const qr_jfunction *qr_jtest_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strlen(tests[i].name) == bytes && memcmp(tests[i].name, name, bytes) == 0) return &tests[i];
    return NULL;
}
