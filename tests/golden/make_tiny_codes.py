#!/usr/bin/env python3
"""Write tests/golden/tiny_codes/: one small llama per way in which published checkpoints store quantized linears.

    python3 tests/golden/make_tiny_codes.py       needs the package numpy

Each folder is an ordinary checkpoint (config.json with its quantization_config, model.safetensors) plus logits.f32:
the logits of IDS that a forward pass in double precision gives with the dequantized weights, float32 [IDS, VOCAB].
Tensors are packed as the tools that publish such files do it; what each function follows is said there. The weights
themselves are random: the codes are drawn, not found by calibration.
"""
import json
import pathlib
import struct

import numpy as np

OUT = pathlib.Path(__file__).parent / "tiny_codes"
HIDDEN, HEADS, KV_HEADS, HEAD, INNER, VOCAB, THETA, EPS = 128, 4, 2, 32, 128, 96, 10000.0, 1e-6
IDS = [(37 * i + 11) % VOCAB for i in range(24)]
LINEARS = {"self_attn.q_proj": (HEADS * HEAD, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
           "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
           "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER)}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
DTYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8"}


class Raw:
    """Bytes of a type that numpy does not have."""
    def __init__(self, dtype, array):
        self.dtype, self.array = dtype, array


def bf16(x):
    """Nearest bfloat16: its value and its bits."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32), Raw("BF16", (bits >> 16).astype(np.uint16))


def pack(values, bits, axis, order=None):
    """Codes to int32 along an axis, the first lowest; `order`: which of each eight takes each place."""
    lanes = 32 // bits
    values = np.moveaxis(np.asarray(values, np.uint32), axis, -1)
    values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % lanes)])
    values = values.reshape(*values.shape[:-1], -1, lanes)
    if order:
        values = values[..., order]
    words = np.zeros(values.shape[:-1], np.uint32)
    for i in range(lanes):
        words |= values[..., i] << np.uint32(bits * i)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def e4m3_values():
    """The 256 values of torch.float8_e4m3fn: bias 7, no infinities, NaN where all bits below the sign are set."""
    out = np.zeros(256)
    for code in range(256):
        exponent, mantissa = code >> 3 & 15, code & 7
        mag = (8 + mantissa) * 2.0 ** (exponent - 10) if exponent else mantissa * 2.0 ** -9
        out[code] = -mag if code & 128 else mag
    out[[127, 255]] = np.nan
    return out


def scales_of(rng, shape, levels):
    """Scales with which codes of so many levels give outputs of about the size of the inputs."""
    return rng.uniform(0.6, 1.4, shape) * 4.0 / levels / HIDDEN ** 0.5


def gptq(rng, rows, cols, bits, group, sym, v2=False, act_order=False):
    """AutoGPTQ, qlinear_cuda.py: qweight packed along inputs, qzeros along outputs and, in the first format, less 1."""
    group = cols if group == -1 else group
    groups, middle = -(-cols // group), 1 << bits - 1
    g_idx = np.arange(cols) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    code = rng.integers(0, 1 << bits, (cols, rows))
    low = 0 if v2 else 1
    zero = np.full((groups, rows), middle) if sym else rng.integers(low, (1 << bits) + low, (groups, rows))
    scale = scales_of(rng, (groups, rows), 1 << bits).astype(np.float16)
    weight = scale.astype(np.float64)[g_idx] * (code - zero[g_idx])
    return weight.T, {"qweight": pack(code, bits, 0), "qzeros": pack(zero - low, bits, 1), "scales": scale,
                      "g_idx": g_idx.astype(np.int32)}


def awq(rng, rows, cols, group):
    """AWQ gemm, as vLLM reads it: both packed along outputs, eight of them in the order 0, 2, 4, 6, 1, 3, 5, 7."""
    code, zero = rng.integers(0, 16, (cols, rows)), rng.integers(0, 16, (cols // group, rows))
    scale = scales_of(rng, (cols // group, rows), 16).astype(np.float16)
    of = np.arange(cols) // group
    return (scale.astype(np.float64)[of] * (code - zero[of])).T, {
        "qweight": pack(code, 4, 1, AWQ_ORDER), "qzeros": pack(zero, 4, 1, AWQ_ORDER), "scales": scale}


def fp8(rng, rows, cols, kind):
    """Scales per tensor [] (transformers fp8), per output [rows, 1] (fbgemm_fp8, float-quantized) or per block."""
    values = e4m3_values()
    want = rng.standard_normal((rows, cols)) * 100 # nearest code; 448 is the largest
    order = np.argsort(values[:127])
    grid = values[:127][order]
    code = order[np.abs(np.minimum(np.abs(want), 448)[..., None] - grid).argmin(-1)] | (want < 0) << 7
    if kind == "tensor":
        scale = np.float32(scales_of(rng, (), 400))
        return values[code] * np.float64(scale), {"weight": Raw("F8_E4M3", code.astype(np.uint8)),
                                                  "weight_scale": np.asarray(scale), "input_scale": np.ones((), "f4")}
    if kind == "channel":
        scale, stored = bf16(scales_of(rng, (rows, 1), 400))
        return values[code] * scale.astype(np.float64), {"weight": Raw("F8_E4M3", code.astype(np.uint8)),
                                                         "weight_scale": stored}
    scale = scales_of(rng, (-(-rows // 64), -(-cols // 64)), 400).astype(np.float32)
    wide = np.repeat(np.repeat(scale, 64, 0), 64, 1)[:rows, :cols].astype(np.float64)
    return values[code] * wide, {"weight": Raw("F8_E4M3", code.astype(np.uint8)), "weight_scale_inv": scale}


def int_quantized(rng, rows, cols):
    """compressed-tensors, naive_quantized.py: int8 and a scale per output."""
    code = rng.integers(-127, 128, (rows, cols))
    scale, stored = bf16(scales_of(rng, (rows, 1), 256))
    return scale.astype(np.float64) * code, {"weight": code.astype(np.int8), "weight_scale": stored}


def pack_quantized(rng, rows, cols, bits, group, sym):
    """compressed-tensors, pack_quantized.py: signed codes plus half their range; zero points packed along outputs."""
    middle = 1 << bits - 1
    code = rng.integers(-middle, middle, (rows, cols))
    scale, stored = bf16(scales_of(rng, (rows, cols // group), 1 << bits))
    zero = np.zeros_like(scale, int) if sym else rng.integers(-middle, middle, scale.shape)
    of = np.arange(cols) // group
    out = {"weight_packed": pack(code + middle, bits, 1), "weight_scale": stored,
           "weight_shape": np.array([rows, cols], np.int64)}
    if not sym:
        out["weight_zero_point"] = pack(zero + middle, bits, 0)
    return scale.astype(np.float64)[:, of] * (code - zero[:, of]), out


def compressed(form, **weights):
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": dict(weights, symmetric=True)}},
            "quantization_status": "compressed"}


def gptq_config(bits, group, **more):
    return dict({"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": True}, **more)


# name: quantization_config, what makes a linear
VARIANTS = {
    "gptq4_sym": (gptq_config(4, 128, lm_head=True), lambda g, r, c: gptq(g, r, c, 4, 128, True)),
    "gptq4_asym": (gptq_config(4, 32, sym=False, checkpoint_format="gptq"),
                   lambda g, r, c: gptq(g, r, c, 4, 32, False)),
    "gptq4_v2": (gptq_config(4, 64, sym=False, checkpoint_format="gptq_v2"),
                 lambda g, r, c: gptq(g, r, c, 4, 64, False, v2=True)),
    "gptq4_desc_act": (gptq_config(4, 32, desc_act=True), lambda g, r, c: gptq(g, r, c, 4, 32, True, act_order=True)),
    "gptq8_sym": (gptq_config(8, -1), lambda g, r, c: gptq(g, r, c, 8, -1, True)),
    "gptq8_asym": (gptq_config(8, 64, sym=False), lambda g, r, c: gptq(g, r, c, 8, 64, False)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm",
             "modules_to_not_convert": None}, lambda g, r, c: awq(g, r, c, 64)),
    "fp8_tensor": ({"quant_method": "fp8", "activation_scheme": "static"}, lambda g, r, c: fp8(g, r, c, "tensor")),
    "fp8_block": ({"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                   "weight_block_size": [64, 64]}, lambda g, r, c: fp8(g, r, c, "block")),
    "fbgemm_fp8": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": []},
                   lambda g, r, c: fp8(g, r, c, "channel")),
    "float_quantized": (compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
                        lambda g, r, c: fp8(g, r, c, "channel")),
    "int_quantized": (compressed("int-quantized", num_bits=8, type="int", strategy="channel"), int_quantized),
    "pack4_sym": (compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128),
                  lambda g, r, c: pack_quantized(g, r, c, 4, 128, True)),
    "pack4_asym": (compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32),
                   lambda g, r, c: pack_quantized(g, r, c, 4, 32, False)),
    "pack8_sym": (compressed("pack-quantized", num_bits=8, type="int", strategy="channel"),
                  lambda g, r, c: pack_quantized(g, r, c, 8, c, True)),
}


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rope(x):
    """[tokens, heads, HEAD]; pairs half a head apart"""
    angle = np.arange(len(x))[:, None] / THETA ** (np.arange(0, HEAD, 2) / HEAD)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :HEAD // 2], x[..., HEAD // 2:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def forward(w):
    x, p = w["model.embed_tokens"][IDS], "model.layers.0."
    h = norm(x, w[p + "input_layernorm"])
    q, k, v = ((h @ w[p + f"self_attn.{n}_proj"].T).reshape(len(IDS), -1, HEAD) for n in "qkv")
    q, k, v = rope(q), np.repeat(rope(k), HEADS // KV_HEADS, 1), np.repeat(v, HEADS // KV_HEADS, 1)
    scores = np.einsum("thd,shd->hts", q, k) / HEAD ** 0.5 + np.triu(np.full((len(IDS),) * 2, -np.inf), 1)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    attn = np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(len(IDS), -1)
    x = x + attn @ w[p + "self_attn.o_proj"].T
    h = norm(x, w[p + "post_attention_layernorm"])
    gate = h @ w[p + "mlp.gate_proj"].T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "mlp.up_proj"].T)) @ w[p + "mlp.down_proj"].T
    return norm(x, w["model.norm"]) @ w["lm_head"].T


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, t in tensors.items():
        raw = t if isinstance(t, Raw) else Raw(DTYPES[t.dtype.name], t)
        blob = np.ascontiguousarray(raw.array).tobytes()
        header[name] = {"dtype": raw.dtype, "shape": list(raw.array.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    for name, (config, make) in VARIANTS.items():
        rng = np.random.default_rng(sum(name.encode()))
        values, tensors = {}, {}

        def plain(name, shape, size):
            stored = (rng.standard_normal(shape) * size).astype(np.float16)
            values[name], tensors[name + ".weight"] = stored.astype(np.float64), stored

        plain("model.embed_tokens", (VOCAB, HIDDEN), 1)
        if config.get("lm_head"): # quantized too
            values["lm_head"], parts = make(rng, VOCAB, HIDDEN)
            tensors.update({f"lm_head.{part}": t for part, t in parts.items()})
        else:
            plain("lm_head", (VOCAB, HIDDEN), HIDDEN ** -0.5)
        for each in "model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm":
            values[each], tensors[each + ".weight"] = np.ones(HIDDEN), np.ones(HIDDEN, np.float16)
        for linear, (rows, cols) in LINEARS.items():
            full = f"model.layers.0.{linear}"
            values[full], parts = make(rng, rows, cols)
            tensors.update({f"{full}.{part}": t for part, t in parts.items()})
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", tensors)
        forward(values).astype("<f4").tofile(folder / "logits.f32")
        (folder / "config.json").write_text(json.dumps({
            "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "vocab_size": VOCAB,
            "max_position_embeddings": 256, "rms_norm_eps": EPS, "rope_theta": THETA, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, "quantization_config": config}, indent=1) + "\n")


if __name__ == "__main__":
    main()
