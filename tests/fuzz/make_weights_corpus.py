#!/usr/bin/env python3
"""Regenerate gguf/, safetensors/ and quantized/ in tests/fuzz/corpus/: a few small good files to start from."""
import json
import math
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(kind, v):
    return string(v) if kind == STR else struct.pack("<" + PACK[kind], v)


def meta(key, kind, v, elem=None):
    if kind == ARR:
        return string(key) + struct.pack("<IIQ", ARR, elem, len(v)) + b"".join(value(elem, x) for x in v)
    return string(key) + struct.pack("<I", kind) + value(kind, v)


def gguf(version, metas, tensors):
    """tensors: (name, dims, ggml type, bytes)"""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metas)) + b"".join(metas)
    offset = 0
    for name, dims, kind, num_bytes in tensors:
        out += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        offset += (num_bytes + 31) // 32 * 32
    return out + bytes(-len(out) % 32) + bytes(range(256)) * (offset // 256 + 1) if tensors else out


def safetensors(header, num_bytes):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


def quantized(config, tensors):
    """config.json, NUL, safetensors; tensors: name -> (dtype, shape)"""
    sizes, header, end = {"I32": 4, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "F8_E4M3": 1}, {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + sizes[dtype] * math.prod(shape)
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[begin, end])
    text = json.dumps({"quantization_config": config}, separators=(",", ":")).encode()
    return text + b"\0" + safetensors(header, end)


def main():
    scalars = [meta("general.architecture", STR, "llama"), meta("general.alignment", U32, 32), meta("a", U8, 1),
               meta("b", I8, -1), meta("c", U16, 2), meta("d", I16, -2), meta("e", I32, -3), meta("f", F32, 1.5),
               meta("g", BOOL, 1), meta("h", U64, 1 << 40), meta("i", I64, -4), meta("j", F64, 2.5)]
    arrays = [meta("tokenizer.ggml.tokens", ARR, ["<s>", "", "the"], STR), meta("scores", ARR, [0.5, -1.0], F32),
              meta("types", ARR, [1, 2, 3], I32), meta("flags", ARR, [1, 0], BOOL)]
    tensors = [("token_embd.weight", [32, 2], 8, 68), ("blk.0.attn_q.weight", [32], 3, 20), ("n", [3], 0, 12),
               ("k", [256], 14, 210), ("q4k", [256], 12, 144), ("h", [2, 2, 2], 1, 16)]
    files = {
        "gguf/scalars": gguf(3, scalars, []), "gguf/arrays": gguf(3, arrays, []), "gguf/v2": gguf(2, scalars, tensors),
        "gguf/tensors": gguf(3, [], tensors), "gguf/all": gguf(3, scalars + arrays, tensors),
        "safetensors/one": safetensors({"w": dict(dtype="F32", shape=[2, 3], data_offsets=[0, 24])}, 24),
        "safetensors/three": safetensors({
            "__metadata__": {"format": "pt"}, "a": dict(dtype="BF16", shape=[4], data_offsets=[0, 8]),
            "b": dict(dtype="F16", shape=[1, 2, 1], data_offsets=[8, 12]),
            "h.attn.bias": dict(dtype="BOOL", shape=[4], data_offsets=[12, 16])}, 16),
        "quantized/gptq": quantized(dict(quant_method="gptq", bits=4, group_size=32, checkpoint_format="gptq"), {
            "a.qweight": ("I32", [8, 8]), "a.qzeros": ("I32", [2, 1]), "a.scales": ("F16", [2, 8]),
            "a.g_idx": ("I32", [64])}),
        "quantized/awq": quantized(dict(quant_method="awq", w_bit=4, q_group_size=32, version="gemm"), {
            "a.qweight": ("I32", [64, 1]), "a.qzeros": ("I32", [2, 1]), "a.scales": ("F16", [2, 8])}),
        "quantized/fp8": quantized(dict(quant_method="fp8", fmt="e4m3", weight_block_size=[4, 32]), {
            "a.weight": ("F8_E4M3", [8, 64]), "a.weight_scale_inv": ("F32", [2, 2]), "b.weight": ("F8_E4M3", [2, 32]),
            "b.weight_scale": ("F32", [])}),
        "quantized/compressed": quantized(dict(quant_method="compressed-tensors", format="mixed-precision", config_groups={
            "group_0": {"weights": dict(num_bits=4, type="int", group_size=32)},
            "group_1": {"weights": dict(num_bits=8, type="float", block_structure=[4, 32])}}), {
            "a.weight_packed": ("I32", [8, 8]), "a.weight_scale": ("BF16", [8, 2]),
            "a.weight_zero_point": ("I32", [1, 2]), "a.weight_g_idx": ("I32", [64]),
            "b.weight": ("I8", [8, 64]), "b.weight_scale": ("F16", [8, 1]), "b.weight_zero_point": ("I8", [8, 1])}),
    }
    for name, data in files.items():
        (CORPUS / name).parent.mkdir(parents=True, exist_ok=True)
        (CORPUS / name).write_bytes(data)


if __name__ == "__main__":
    main()
