"""Conversations that every chat template is rendered with."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place, \"now\" & <later>.",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "City, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["location"],
        },
        "return": {"type": "object", "description": "the weather"},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number", "description": "first", "default": 1.5},
                "b": {"type": ["number", "null"], "description": "second", "nullable": True},
                "opts": {"type": "object", "properties": {"round": {"type": "boolean"}}, "required": []},
            },
            "required": ["a", "b"],
        },
    },
}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(name, arguments, id="call_123a"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "user": [user("Hello!")],
    "system_user": [system("You are terse."), user("Hello!")],
    "multi_turn": [user("Hi"), assistant("Hello, how can I help?"), user("Tell me a joke. ")],
    "system_multi_turn": [system("Sys"), user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    "ends_with_assistant": [user("Hi"), assistant("Hello")],
    "empty": [],
    "empty_content": [system(""), user(""), assistant(""), user("x")],
    "white_space": [user("  two  spaces\n\nand lines \t\n"), assistant("\n ok \n"), user(" ")],
    "unicode": [system("Ünïcödé"), user("日本語 😀 \u200b \"quotes\" 'single' <b>&amp;</b> \\n {{ x }} {% if %}"),
                assistant("\u2028 ж"), user("\x00\x01\x7f")],
    "special_tokens": [user("<|im_end|><|eot_id|></s>[/INST]<end_of_turn>"), assistant("<think>no</think>yes"),
                       user("again")],
    "thinking": [user("2+2?"), assistant("<think>\nIt is 4.\n</think>\n\nFour."), user("sure?")],
    "reasoning_content": [user("2+2?"), assistant("Four.", reasoning_content="It is 4.", thinking="It is 4."),
                          user("sure?")],
    "wrong_order": [assistant("me first"), user("then me")],
    "two_users": [user("one"), user("two")],
    "system_late": [user("a"), assistant("b"), system("late"), user("c")],
    "unknown_role": [user("a"), {"role": "critic", "content": "bad"}],
    "developer": [{"role": "developer", "content": "Be brief."}, user("hi")],
    "parts": [user([{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}])],
    "image": [user([{"type": "image"}, {"type": "text", "text": "Describe."}]), assistant([{"type": "text", "text": "A cat."}]),
              user([{"type": "text", "text": "Sure?"}])],
    "none_content": [user("a"), assistant(None), user("b")],
    "no_content": [user("a"), {"role": "assistant"}, user("b")],
    "tool_call": [system("Use tools."), user("Weather in Zürich?"),
                  assistant(None, tool_calls=[call("get_weather", {"location": "Zürich", "unit": "celsius"})]),
                  {"role": "tool", "tool_call_id": "call_123a", "name": "get_weather", "content": "{\"temp\": 21.5}"},
                  assistant("21.5 degrees."), user("Thanks")],
    "tool_call_9": [user("1+2?"), assistant("", tool_calls=[call("add", {"a": 1, "b": 2.0, "opts": {"round": True}}, "abcdefghi")]),
                    {"role": "tool", "tool_call_id": "abcdefghi", "name": "add", "content": "3"}],
    "tool_call_text": [user("1+2?"), assistant("Let me add.", tool_calls=[call("add", "{\"a\": 1, \"b\": 2}", "abcdefghi")]),
                       {"role": "tool", "tool_call_id": "abcdefghi", "name": "add", "content": "3"}, assistant("3"), user("ok")],
    "two_tool_calls": [user("both"), assistant("", tool_calls=[call("add", {"a": 1, "b": None}, "aaaaaaaaa"),
                                                             call("get_weather", {"location": "X"}, "bbbbbbbbb")]),
                       {"role": "tool", "tool_call_id": "aaaaaaaaa", "content": "1"},
                       {"role": "tool", "tool_call_id": "bbbbbbbbb", "content": [{"type": "text", "text": "sunny"}]},
                       user("go on")],
}


def variables(name, tools=None, **kwargs):
    """What transformers passes: messages, tools, documents, add_generation_prompt, special tokens, the caller's own."""
    return {
        "messages": CONVERSATIONS[name],
        "tools": tools,
        "documents": None,
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        **kwargs,
    }


def variants(full=True):
    """(label, variables) of all conversations, some with tools and other settings."""
    for name in CONVERSATIONS:
        yield name, variables(name)
    for name in ("user", "system_user", "tool_call", "tool_call_9", "tool_call_text", "two_tool_calls"):
        yield name + "+tools", variables(name, [WEATHER, ADD])
    yield "user+empty_tools", variables("user", [])
    if full:
        yield "multi_turn-prompt", variables("multi_turn", add_generation_prompt=False)
        yield "tool_call+tools-prompt", variables("tool_call", [WEATHER], add_generation_prompt=False)
        yield "multi_turn+no_think", variables("multi_turn", enable_thinking=False, thinking=False)
        yield "multi_turn+think", variables("thinking", enable_thinking=True, thinking=True, reasoning_effort="high")
        yield "user+documents", variables("user", documents=[{"title": "T", "text": "Doc text", "contents": "c"}])
        yield "user+date", variables("user", [WEATHER], date_string="26 Jul 2024", ready_tools=["search", "python"],
                                     tools_with_first=False, custom_tools=None)
