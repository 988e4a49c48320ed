#!/usr/bin/env python3
"""Make the small tokenizers of tests/golden/tokenizers/ and what `tokenizers` makes of texts.json with them.

    python3 tests/golden/make_tokenizers.py [MODEL.gguf]     needs the packages tokenizers and gguf

For each family of models: NAME/tokenizer.json with the normalizer, pre-tokenizer, post-processor, decoder and added
tokens of the real one and a vocabulary trained on the text below; NAME/golden.json; for those that
tokenizer.ggml.pre names, NAME.gguf with the same vocabulary.  MODEL.gguf (SmolLM2) gives smollm2.golden.json.

golden.json: for each text of texts.json [ids with special tokens, ids without and with special tokens as plain text,
text of the first ids, the same without special tokens].
"""
import json
import pathlib
import sys

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).parent / "tokenizers"
META = "\u2581"

SAMPLES = [
    "The quick brown fox jumps over the lazy dog. It's what they'll say, isn't it? I've DON'T 'S '\u017f we'd you're.",
    "def encode(self, text: str) -> list[int]:\n    return [self.vocab[t] for t in text.split()]  # comment\n\n",
    "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}\r\n#include <stdio.h>\n",
    "{\"key\": [1, 2.5e-10, null, true], \"\u03c0\": \"\\u00e9\"} <html><body class=\"x\">&nbsp;</body></html>",
    "1234567890 3.14159 1,000,000 0xDEADBEEF 12345 123 12 1 \u00bd \u00b2 \u00b3 \u2460 \u2167 \u0663 \u0967\u0968\u0969",
    "Gr\u00f6\u00dfe Stra\u00dfe na\u00efve fa\u00e7ade \u0153uvre Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144 \u0130stanbul",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430? \u0413\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u600e\u4e48\u6837\uff1f\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002\u30ab\u30bf\u30ab\u30ca \uff8a\uff9d\uff76\uff78",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4 \u1112\u1161\u11ab \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u1230\u120b\u121d",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \u2764\ufe0f \U0001f3f3\ufe0f\u200d\U0001f308 1\ufe0f\u20e3",
    "e\u0301 a\u0308 o\u0302\u0323 a\u0323\u0302\u0301 \ufb01 \uff21\uff22 \u212b \u03a9\u2126 \U0001d573 \U00010348 \U00012000 \U00020000",
    "    leading\t\ttabs   and   runs      \n\n\n  \r\n \r x\u3000y\u00a0z\u2009w\u0085v\u180eu\u200bt\ufefft  ",
    "$a+b=c^2|d~e`f@g#h%i&j*k(l)m a_b-c.d,e;f:g!h?i/j\\k\"l'm \u00abq\u00bb \u201cs\u201d \u2026 \u2014 \u2013 \u2022",
    "https://example.com/a?b=c&d=e#f user@mail.org SELECT * FROM t WHERE a='b' -- x",
]
EXTRA = [
    "", " ", "  ", "a", "\n", "\n\n\n\n", " \n \n  x", "a ", " a", "  a  ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 40,
    "hello world", "Hello, World! 123", "\u2581 literal \u2581meta \u2581\u2581x", "<0x41><0xE2>", "'s 'S 'LL'll'", "x'\u017f",
    "<|im_start|>user\nhi<|im_end|>\n", "a <s> b</s>  <unk> c", "  <|end|>  x <|end|>\n\n<|end|>", "<pad><mask> <mask> x<mask>y",
    "wordtok word xwordtok wordtokx wordtok. \u00e9wordtok", "<|begin_of_text|>Hi<|eot_id|>", "Norm NORM norm",
    "\U000105c0\u1c89\U00010d40 \u0897\U0002ebf0 new in Unicode 15 and 16 \u2427", "\u0e33\u0f71\u0f72\u0344", "\x00\x01\x1f\x7f\x80\x9f",
    "\ue000\ufffe\uffff\U0010ffff unassigned \u0378\U000e0001", "a\u0315\u0300\u05ae\u0062 a\u059a\u0316\u302a",
    "\u1100\u1161\u11a8 \uac00\u11a8 \u1e9b\u0323 \u2460\u33a5\ufdfa", "tail spaces   ", "mixed \t \n \t end\t", "12 345 6789 01234\u0663\u0664",
    "\u00b2\u00b3 \u4e00\u9fa5\u0800 \u4e2d1\u65872", "don't can't it's WE'RE they'd I'm you've 'tis", "`x` + y^z = $5 |a| ~b <c> >=",
]
INVALID = ["80", "c3", "61c3", "c328", "e28228", "f09f98", "f09f9861", "eda080", "f4908080", "c0af", "fffe41", "61f09f98f09f988062", "e0a0", "20e298"]

TEXTS = SAMPLES + [s[i : i + 23] for s in SAMPLES for i in (5, 31, 52)] + EXTRA
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
TEKKEN = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK_LETTERS = (
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}"
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}"
    "\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}"
    "\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}"
    "\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}"
    "\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}")
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

P = pre_tokenizers


def isolated(regex):
    return P.Split(Regex(regex), "isolated")


def bytes_only():
    return P.ByteLevel(add_prefix_space=False, use_regex=False)


def gpt2():
    return P.ByteLevel(add_prefix_space=False, use_regex=True)


def deepseek(*splits):
    return P.Sequence([isolated(s) for s in splits] + [P.Digits(individual_digits=True), bytes_only()])


def template(bos, bos_id, eos=None, eos_id=None):
    return processors.TemplateProcessing(
        single=f"{bos} $A" + (f" {eos}" if eos else ""), special_tokens=[(bos, bos_id)] + ([(eos, eos_id)] if eos else []))


def special(text, **options):
    return AddedToken(text, special=True, normalized=False, **options)


def byte_level(pre, tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), normalizer=None, **model):
    """Trained on SAMPLES; the special tokens come first or, as in Llama 3, after the model's own."""
    last = model.pop("specials_last", False)
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre
    if normalizer:
        tok.normalizer = normalizer
    tok.decoder = decoders.ByteLevel()
    specials = [t if isinstance(t, AddedToken) else special(t) for t in tokens]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[] if last else specials, show_progress=False,
                                  initial_alphabet=P.ByteLevel.alphabet())
    tok.train_from_iterator(SAMPLES, trainer)
    tok.add_tokens(specials)
    return tok


def scored_merges(vocab):
    """transformers' generate_merges: every cut of a token into two, here with the id as the (falling) score."""
    merges = []
    for merged, rank in vocab.items():
        cuts = [(merged[:i], merged[i:]) for i in range(1, len(merged)) if merged[:i] in vocab and merged[i:] in vocab]
        merges += [(cut, -rank) for cut in sorted(cuts, key=lambda c: (vocab[c[0]], vocab[c[1]]))]
    merges.sort(key=lambda m: (m[1], len(m[0][0]), len(m[0][1])), reverse=True)
    return [cut for cut, _ in merges]


def sentencepiece(normalizer, pre, decoder, tokens, post=None, drop=""):
    """A vocabulary as SentencePiece lays it out: specials, 256 bytes, pieces by score, characters."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(META), normalizers.Replace(" ", META)])
    trained.pre_tokenizer = P.Split(META, "merged_with_next")
    trained.train_from_iterator(SAMPLES, trainers.BpeTrainer(vocab_size=1000, show_progress=False))
    pieces = sorted(trained.get_vocab().items(), key=lambda kv: (len(kv[0]) == 1, kv[1]))
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    names += [p for p, _ in pieces if p not in drop]
    vocab = {name: i for i, name in enumerate(names)}
    tok = Tokenizer(models.BPE(vocab, scored_merges(vocab), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        tok.normalizer = normalizer
    if pre:
        tok.pre_tokenizer = pre
    tok.decoder = decoder
    tok.add_tokens(tokens)
    if post:
        tok.post_processor = post
    return tok


def llama_decoder(strip=1):
    steps = [decoders.Replace(META, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", strip, 0)] if strip else []))


def families():
    """name: (tokenizer, tokenizer.ggml.pre or "llama" or None, tokenizer_config.json)"""
    base = [special("<unk>"), special("<s>"), special("</s>")]
    prepend = normalizers.Sequence([normalizers.Prepend(META), normalizers.Replace(" ", META)])
    out = {}
    out["gpt2"] = (byte_level(gpt2(), ("<|endoftext|>",)), "gpt-2", {})
    opt = byte_level(gpt2(), ("<s>", "<pad>", "</s>", "<unk>"))
    opt.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    out["opt"] = (opt, None, {"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    llama3 = byte_level(P.Sequence([isolated(LLAMA3), bytes_only()]),
                        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved_special_token_1|>",
                         "<|reserved_special_token_10|>"), ignore_merges=True, specials_last=True)
    bos = llama3.token_to_id("<|begin_of_text|>")
    llama3.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", bos)])
    out["llama3"] = (llama3, "llama-bpe", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})
    out["qwen2"] = (byte_level(P.Sequence([isolated(QWEN2), bytes_only()]), normalizer=normalizers.NFC(),
                               specials_last=True), "qwen2", {"eos_token": "<|im_end|>"})
    digits = P.Sequence([P.Digits(individual_digits=True), gpt2()])
    out["smollm"] = (byte_level(digits), "smollm", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    out["starcoder"] = (byte_level(digits, ("<|endoftext|>", "<fim_prefix>")), "starcoder", {})
    out["refact"] = (byte_level(digits, ("<|endoftext|>", "<empty_output>")), "refact", {})
    command_r = byte_level(digits, ("<PAD>", "<UNK>", "<BOS_TOKEN>"), normalizer=normalizers.NFC())
    command_r.post_processor = template("<BOS_TOKEN>", 2)
    out["command_r"] = (command_r, "command-r", {"bos_token": "<BOS_TOKEN>"})
    mpt = byte_level(gpt2(), ("<|endoftext|>", "<|padding|>"), normalizer=normalizers.NFC())
    mpt.add_tokens([AddedToken(" " * n, normalized=False) for n in range(24, 1, -1)])
    out["mpt"] = (mpt, "mpt", {})
    out["falcon"] = (byte_level(P.Sequence([P.Punctuation("contiguous"), gpt2(), P.Digits(individual_digits=False),
                                            isolated("[0-9][0-9][0-9]")]), (">>TITLE<<", "<|endoftext|>")), "falcon", {})
    out["deepseek_llm"] = (byte_level(deepseek(
        "[\r\n]", f"\\s?[{DEEPSEEK_LETTERS}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        "\\s+$", CJK), ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
        specials_last=True), "deepseek-llm", {})
    out["deepseek_coder"] = (byte_level(deepseek("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK), ("<|EOT|>",),
                                        specials_last=True), "deepseek-coder", {})
    out["deepseek_v3"] = (byte_level(P.Sequence([
        isolated("\\p{N}{1,3}"), isolated("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        isolated(r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"""
                 r"""[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""), bytes_only()]), ("<|EOT|>",)), "deepseek-v3", {})
    out["gpt_oss"] = (byte_level(P.Sequence([P.Split(Regex(O200K), "removed", invert=True), bytes_only()])), "gpt-4o", {})
    out["tekken"] = (byte_level(P.Sequence([isolated(TEKKEN), bytes_only()]), ("<unk>", "<s>", "</s>"),
                                ignore_merges=True), "tekken", {"bos_token": "<s>"})
    out["tekken"][0].post_processor = template("<s>", 1)
    out["llama2"] = (sentencepiece(prepend, None, llama_decoder(), base, template("<s>", 1)), "llama",
                     {"bos_token": "<s>", "eos_token": "</s>"})
    out["mistral"] = (sentencepiece(None, P.Metaspace(META, prepend_scheme="first", split=False), llama_decoder(),
                                    base, template("<s>", 1, "</s>", 2)), None, {"add_bos_token": True})
    out["metaspace"] = (sentencepiece(None, P.Metaspace(META, prepend_scheme="always", split=True),
                                      decoders.Metaspace(META, "always"), base), None, {})
    turns = [special(t, rstrip=True) for t in ("<|end|>", "<|user|>", "<|assistant|>")]
    out["phi3"] = (sentencepiece(prepend, None, llama_decoder(), base[:2] + [AddedToken("</s>", rstrip=True, normalized=False)]
                                 + turns), None, {})
    out["gemma"] = (sentencepiece(normalizers.Replace(" ", META), P.Split(" ", "merged_with_previous"), llama_decoder(0),
                                  base + [AddedToken("\n\n", normalized=False), special("<end_of_turn>")],
                                  template("<s>", 1)), None, {})
    few = SAMPLES[6] + SAMPLES[7] + SAMPLES[8]  # characters without a token, and some of the bytes too
    odd = sentencepiece(normalizers.Sequence([
        normalizers.Strip(left=True, right=True), normalizers.NFKC(), normalizers.Lowercase(),
        normalizers.Replace(Regex("\\s+"), " "), normalizers.Replace("ll", "L"), normalizers.Prepend(META)]),
        P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_previous"), P.CharDelimiterSplit("x")]), llama_decoder(),
        base + [special("<mask>", lstrip=True), AddedToken("wordtok", single_word=True, normalized=False),
                AddedToken("Norm", normalized=True)], drop=few)
    out["odd"] = (odd, None, {})
    out["decomposed"] = (sentencepiece(normalizers.NFD(), P.Sequence([
        P.Whitespace(), P.Split("e", "merged_with_next"), P.Split(Regex("[0-9]+"), "contiguous"),
        P.Split(Regex("[a-m]"), "removed", invert=True)]), decoders.Fuse(), base, drop=few), None, {})
    out["compatible"] = (byte_level(P.Sequence([P.Split(Regex("(?=\\p{Lu})"), "isolated"),
                                                P.ByteLevel(add_prefix_space=True)]), normalizer=normalizers.NFKD()), None, {})
    return out


def reference(tok, data, parse_special=True, add_special=True):
    tok.encode_special_tokens = not parse_special
    ids = tok.encode(data.decode("utf-8", "replace"), add_special_tokens=add_special).ids
    tok.encode_special_tokens = False
    return ids


def golden(tok, texts):
    out = []
    for data in texts:
        ids = reference(tok, data)
        out.append([ids, reference(tok, data, False, False), tok.decode(ids, skip_special_tokens=False),
                    tok.decode(ids, skip_special_tokens=True)])
    return out


def write_gguf(path, tok, pre, config):
    spec = json.loads(tok.to_str())
    vocab, added = spec["model"]["vocab"], {t["id"]: t for t in spec["added_tokens"]}
    tokens = {i: t for t, i in vocab.items()} | {i: t["content"] for i, t in added.items()}
    tokens = [tokens[i] for i in range(len(tokens))]
    types = [(3 if added[i]["special"] else 4) if i in added else 1 for i in range(len(tokens))]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama" if pre == "llama" else "gpt2")
    w.add_token_list(tokens)
    if pre == "llama":
        types = [2 if t == "<unk>" else 6 if t.startswith("<0x") else n for t, n in zip(tokens, types)]
        w.add_token_scores([float(-i) for i in range(len(tokens))])
        w.add_unk_token_id(0)
    else:
        w.add_tokenizer_pre(pre)
        w.add_token_merges([" ".join(m) for m in spec["model"]["merges"]])
    w.add_token_types(types)
    for name, key in (("bos", "bos_token"), ("eos", "eos_token")):
        if key in config:
            getattr(w, f"add_{name}_token_id")(tok.token_to_id(config[key]))
    if tok.post_processor and pre not in ("llama", "llama-bpe", "tekken"):
        w.add_add_bos_token(True)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def from_gguf(path):
    """The `tokenizers` equivalent of SmolLM2's GGUF file."""
    fields = gguf.GGUFReader(path).fields
    read = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = read("tokens"), read("token_type")
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in read("merges")]))
    tok.pre_tokenizer = P.Sequence([P.Digits(individual_digits=True), gpt2()])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([special(t) for t, kind in zip(tokens, types) if kind == 3])
    return tok


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8", newline="")


def main():
    texts = [t.encode() for t in TEXTS] + [bytes.fromhex(h) for h in INVALID]
    dump(OUT / "texts.json", [{"text": t} for t in TEXTS] + [{"hex": h} for h in INVALID])
    for name, (tok, pre, config) in families().items():
        spec = json.loads(tok.to_str())
        if name in ("gpt2", "llama2"):  # the older spelling
            spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
        dump(OUT / name / "tokenizer.json", spec)
        dump(OUT / name / "tokenizer_config.json", config)
        dump(OUT / name / "golden.json", golden(tok, texts))
        if pre:
            write_gguf(OUT / f"{name}.gguf", tok, pre, config)
    if len(sys.argv) > 1:
        dump(OUT / "smollm2.golden.json", golden(from_gguf(sys.argv[1]), texts))


if __name__ == "__main__":
    main()
