"""Random chat templates: grammar-based, mostly well-typed, deterministic by seed."""

import random

NAMES = ["s", "u", "n", "f", "z", "t", "none", "l", "ls", "d", "msgs", "nested", "text", "e", "el", "mixed", "undef"]
TEXT_VARS = ["s", "u", "text", "e", "msgs[0].role", "msgs[1]['content']", "d.name"]
LIST_VARS = ["l", "ls", "el", "mixed", "msgs", "range(4)", "nested.x.y"]
STRINGS = ["''", "'a'", "'Hello'", "' pad '", "'é日😀'", "'a,b,,c'", "'x\\ny'", '"q\'uote"', "'<b>&'", "'12'", "'-3.5'",
           "'%s|%5s'", "'{}-{}'", "'ß'", "'A-b c'"]
TEXT_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "e", "length", "string", "reverse", "wordcount", "int",
                "float", "list", "first", "last", "tojson", "safe", "indent", "indent(2, true)", "truncate(5, true, '', 0)",
                "replace('a', 'bc')", "center(9)", "default('dd')", "default('dd', true)", "join('-')", "sort", "unique|list",
                "urlencode", "striptags", "truncate(7)", "batch(2)|list", "map('upper')|join", "format(1, 'b')"]
LIST_FILTERS = ["length", "first", "last", "list", "join(', ')", "reverse|list", "sort", "unique|list", "tojson", "sum", "min",
                "max", "map('string')|list", "map('upper')|join('/')", "select|list", "reject|list", "select('string')|list",
                "select('number')|list", "reject('none')|list", "batch(2)|list", "batch(2, 0)|list", "slice(2)|list",
                "map(attribute='role')|list", "selectattr('role', 'equalto', 'user')|list", "rejectattr('content')|list",
                "groupby('role')|length", "tojson(indent=2)", "string", "default('x', true)", "map('e')|list", "count",
                "sort(reverse=true)", "map(attribute='content', default='-')|list", "select('defined')|list|length",
                "sort(attribute='role')|map(attribute='role')|join", "map('int')|list", "map('default', 1)|list"]
DICT_FILTERS = ["length", "list", "tojson", "tojson(sort_keys=true)", "tojson(indent=1)", "dictsort", "items|list", "string",
                "first", "dictsort(reverse=true)|first", "default(1)", "dictsort(by='value')", "join(',')"]
NUM_FILTERS = ["abs", "round", "round(1)", "int", "float", "string", "tojson", "default(3)", "round(1, 'floor')", "e",
               "round(0, 'ceil')", "filesizeformat", "upper", "string|length"]
TESTS = ["defined", "undefined", "none", "string", "number", "mapping", "sequence", "iterable", "boolean", "integer", "float",
         "true", "false", "odd", "even", "lower", "upper", "callable", "in [1, 'a', none]", "eq(1)", "ne 'a'", "gt 2",
         "divisibleby 2", "escaped", "sameas none", "== 7"]
METHODS = ["upper()", "lower()", "strip()", "split()", "split(',')", "split('l', 1)", "title()", "capitalize()", "lstrip('ha ')",
           "rstrip()", "startswith('a')", "endswith(('o', 'c'))", "replace('l', 'LL')", "replace('', '.', 3)", "find('l')",
           "count('a')", "splitlines()", "isdigit()", "isalpha()", "join(ls)", "join('xy')", "rsplit(' ', 1)", "partition('a')",
           "zfill(4)", "center(8, '*')", "ljust(6)", "swapcase()", "index('a')", "rfind('a')", "isupper()", "format(1, s)",
           "removeprefix('He')", "casefold()", "splitlines(true)", "expandtabs(4)", "istitle()", "rpartition('l')"]
DICT_METHODS = ["items()|list", "keys()|list", "values()|list", "get('a')", "get('nope', 'dflt')", "items()|sort|string",
                "keys()|join(',')", "get(s) is none", "copy()", "update({})", "pop('a')"]
LOOP = ["index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem",
        "cycle('a', 'b')", "changed(x)", "previtem is defined", "nextitem is defined"]


class Grammar:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.depth = 0
        self.loops = 0
        self.locals = []
        self.macros = []

    def pick(self, *options):
        return self.r.choice(options)()

    # ---- expressions

    def text(self):
        return self.r.choice([self.r.choice(STRINGS), self.r.choice(TEXT_VARS), self.r.choice(TEXT_VARS)])

    def number(self):
        return self.r.choice(["0", "1", "2", "-1", "7", "10", "1.5", "2.0", "n", "f", "z", "neg", "-0.5", "1e3", "l[0]", "true"])

    def list_(self):
        if self.r.random() < 0.2:
            return "[" + ", ".join(self.expr() for _ in range(self.r.randint(0, 3))) + "]"
        return self.r.choice(LIST_VARS)

    def dict_(self):
        if self.r.random() < 0.2:
            keys = self.r.sample(["'a'", "'b'", "1", "'é'", "none"], self.r.randint(0, 3))
            return "{" + ", ".join(f"{k}: {self.expr()}" for k in keys) + "}"
        return self.r.choice(["d", "nested", "msgs[0]", "nested.x"])

    def name(self):
        return self.r.choice(self.locals + NAMES) if self.r.random() < 0.7 else self.r.choice(NAMES)

    def index(self):
        kind = self.r.randrange(6)
        if kind == 0:
            return f"{self.r.choice(['l', 's', 'u', 'msgs', 'ls'])}[{self.r.choice(['0', '1', '-1', '5', 'z', 'n'])}]"
        if kind == 1:
            part = [self.r.choice(["", "0", "1", "-1", "2", "-3", "9"]) for _ in range(2)]
            step = self.r.choice(["", "", ":2", ":-1", ":-2", ":3", ":"])
            return f"{self.r.choice(['l', 's', 'u', 'msgs', 'range(6)'])}[{part[0]}:{part[1]}{step}]"
        if kind == 2:
            return self.r.choice(["d.a", "d['b']", "d.nope", "d['no pe']", "nested.x.y[1].z", "msgs[0].content", "d.items",
                                  "msgs[-1]['role']", "undef.x", "s.nope", "l.0", "msgs.1.role"]).replace("d.items", "d.a")
        if kind == 3:
            return f"({self.text()}).{self.r.choice(METHODS)}"
        if kind == 4:
            return f"{self.r.choice(['d', 'nested', 'msgs[0]'])}.{self.r.choice(DICT_METHODS)}"
        return f"loop.{self.r.choice(LOOP)}" if self.loops else self.name()

    def filtered(self):
        kind = self.r.randrange(5)
        if kind == 0:
            return f"{self.list_()}|{self.r.choice(LIST_FILTERS)}"
        if kind == 1:
            return f"{self.dict_()}|{self.r.choice(DICT_FILTERS)}"
        if kind == 2:
            return f"({self.number()})|{self.r.choice(NUM_FILTERS)}"
        if kind == 3:
            return f"{self.expr_paren()}|{self.r.choice(TEXT_FILTERS + LIST_FILTERS + NUM_FILTERS)}"
        return f"{self.text()}|{self.r.choice(TEXT_FILTERS)}"

    def expr_paren(self):
        return f"({self.expr()})"

    def binary(self):
        op = self.r.choice(["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or", "~", "+"])
        if op in ("-", "*", "/", "//", "%") and self.r.random() < 0.9:
            return f"({self.number()} {op} {self.number()})"
        if op == "+" and self.r.random() < 0.8:
            side = self.r.choice([self.text, self.number, self.list_])
            return f"({side()} + {side()})"
        if op in ("in", "not in") and self.r.random() < 0.8:
            return f"({self.text()} {op} {self.r.choice([self.text, self.list_, self.dict_])()})"
        if op in ("<", ">=") and self.r.random() < 0.9:
            side = self.r.choice([self.text, self.number])
            return f"({side()} {op} {side()})"
        return f"({self.expr()} {op} {self.expr()})"

    def call(self):
        if not self.macros:
            return self.name()
        name, num = self.r.choice(self.macros)
        args = [self.expr() for _ in range(self.r.randint(0, num))]
        if self.r.random() < 0.2:
            args.append(f"p{self.r.randint(0, num)}={self.expr()}")
        return f"{name}({', '.join(args)})"

    def expr(self):
        self.depth += 1
        try:
            if self.depth > 5:
                return self.pick(self.text, self.number, self.name)
            return self.pick(self.text, self.number, self.name, self.name, self.list_, self.dict_, self.index, self.index,
                             self.filtered, self.filtered, self.filtered, self.binary, self.binary, self.call,
                             lambda: f"({self.expr()} if {self.test()} else {self.expr()})",
                             lambda: f"(not {self.expr()})")
        finally:
            self.depth -= 1

    def test(self):
        return self.pick(lambda: f"{self.name()} is {self.r.choice(['', 'not '])}{self.r.choice(TESTS)}",
                         lambda: f"{self.index()} is {self.r.choice(TESTS[:8])}", self.name, self.binary,
                         lambda: f"({self.expr()}) is {self.r.choice(TESTS[:11])}",
                         lambda: f"{self.test_simple()} and {self.test_simple()}")

    def test_simple(self):
        return f"{self.name()} is {self.r.choice(TESTS[:8])}"

    # ---- statements

    def tag(self, inside):
        return "{%" + self.r.choice(["", "", "", "-", "+"]) + f" {inside} " + self.r.choice(["", "", "-", ""]) + "%}"

    def data(self):
        return self.r.choice(["text", " ", "\n", "  \n", "\n\n  ", "a b\n  ", "é", "", " <x>\n", "\t", "{# c #}", "  {#- c -#} \n"])

    def print_(self):
        return "{{" + self.r.choice(["", "", "", "-"]) + f" {self.expr()} " + self.r.choice(["", "", "", "-"]) + "}}"

    def if_(self):
        text = self.tag(f"if {self.test()}") + self.body()
        if self.r.random() < 0.3:
            text += self.tag(f"elif {self.test()}") + self.body()
        if self.r.random() < 0.5:
            text += self.tag("else") + self.body()
        return text + self.tag("endif")

    def for_(self):
        pairs = self.r.random() < 0.2
        target, over = ("k, v", f"{self.dict_()}.items()") if pairs else ("x", self.list_())
        if not pairs and self.r.random() < 0.2:
            over = self.list_() + "|" + self.r.choice(["map('string')", "select", "reverse", "reject('none')", "batch(2)"])
        condition = f" if {self.test().replace('loop.', 'd.')}" if self.r.random() < 0.15 else ""
        self.locals += ["k", "v"] if pairs else ["x"]
        self.loops += 1
        body = self.body()
        if self.r.random() < 0.15:
            body += self.tag(f"if {self.test()}") + self.tag(self.r.choice(["break", "continue"])) + self.tag("endif") + self.data()
        self.loops -= 1
        other = self.tag("else") + self.data() if self.r.random() < 0.2 else ""
        text = self.tag(f"for {target} in {over}{condition}") + body + other + self.tag("endfor")
        del self.locals[-(2 if pairs else 1):]
        return text

    def set_(self):
        kind = self.r.randrange(4)
        if kind == 0:
            return self.tag("set ns.v = " + self.expr())
        name = self.r.choice(["a", "b", "c"])
        if kind == 1:
            text = self.tag(f"set {name}" + self.r.choice(["", " | upper", " | trim"])) + self.body() + self.tag("endset")
        else:
            text = self.tag(f"set {name} = {self.expr()}")
        self.locals.append(name)
        return text

    def macro(self):
        name, num = f"m{len(self.macros)}", self.r.randint(0, 2)
        params = [f"p{i}" + (f"={self.expr()}" if i == num - 1 and self.r.random() < 0.5 else "") for i in range(num)]
        loops, names = self.loops, self.locals
        self.loops, self.locals = 0, names + [f"p{i}" for i in range(num)]
        body = self.body()
        if self.r.random() < 0.2:
            body += "{{ caller() if caller else '' }}"
        self.loops, self.locals = loops, names
        self.macros.append((name, num))
        return self.tag(f"macro {name}({', '.join(params)})") + body + self.tag("endmacro")

    def block(self):
        kind = self.r.randrange(3)
        if kind == 0:
            return self.tag("filter " + self.r.choice(["upper", "trim", "indent(2)", "replace('a', 'b')|lower"])) + self.body() + \
                self.tag("endfilter")
        if kind == 1 and self.macros:
            return self.tag(f"call {self.r.choice(self.macros)[0]}()") + self.data() + self.tag("endcall")
        return self.tag(f"with a = {self.expr()}") + self.body() + self.tag("endwith")

    def body(self):
        self.depth += 1
        num = self.r.randint(1, 3) if self.depth < 4 else 1
        parts = []
        for _ in range(num):
            parts.append(self.data())
            choices = [self.print_] * 4 + ([self.if_, self.for_, self.set_, self.set_, self.block] if self.depth < 4 else [])
            parts.append(self.r.choice(choices)())
        parts.append(self.data())
        self.depth -= 1
        return "".join(parts)

    def template(self):
        parts = ["{% set ns = namespace(v=1) %}"]
        for _ in range(self.r.randint(1, 3)):
            if self.r.random() < 0.25:
                parts.append(self.macro())
            parts.append(self.body())
        return "".join(parts)
