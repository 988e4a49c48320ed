"""The reference of the chat template tests: jinja2 with the settings that transformers' apply_chat_template uses."""

import datetime
import functools
import json

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    """transformers' {% generation %} block, without the tracking."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(lineno)

    def _text(self, caller):
        return caller()


class Raised(jinja2.TemplateError):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache
def environment(now):
    def strftime_now(fmt):
        return datetime.datetime.utcfromtimestamp(now).strftime(fmt)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def render(template, variables, now):
    """{"text": ...}, or {"raised": message} of raise_exception, or {"error": message} of anything else."""
    try:
        return {"text": environment(now).from_string(template).render(**variables)}
    except Raised as e:
        return {"raised": str(e)}
    except Exception as e:  # every way a template can fail
        return {"error": f"{type(e).__name__}: {e}"}
