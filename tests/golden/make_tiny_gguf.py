#!/usr/bin/env python3
"""Convert the checkpoints of tests/golden/tiny/ to float32 GGUF files in tests/golden/tiny_gguf/.

    python3 tests/golden/make_tiny_gguf.py       needs the packages numpy and gguf

Names and layouts are those of llama.cpp's convert_hf_to_gguf.py:
  llama    also Mistral (with llama.attention.sliding_window): the rows of Q and K are permuted, so that RoPE turns
           neighbouring pairs; the llama3 RoPE scaling is the tensor rope_freqs.weight of divisors
  qwen2, qwen3    rows as they are: RoPE turns pairs half a head apart
  gpt2     Q, K and V in one attn_qkv; Conv1D weights are transposed into [rows out, columns in]
  opt      llama.cpp has no such architecture; the names follow gpt2's with separate Q, K, V.
           position_embd keeps OPT's two leading rows: position p is row p + 2
There is no tokenizer, as in the checkpoints; only the ids of BOS and EOS.
"""
import json
import math
import pathlib
import struct

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent

LLAMA_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
OPT_NAMES = {
    "model.decoder.embed_tokens": "token_embd", "model.decoder.embed_positions": "position_embd",
    "model.decoder.final_layer_norm": "output_norm",
    "self_attn_layer_norm": "attn_norm", "final_layer_norm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output", "fc1": "ffn_up", "fc2": "ffn_down",
}


def read_safetensors(path):
    data = path.read_bytes()
    (header_bytes,) = struct.unpack("<Q", data[:8])
    section = data[8 + header_bytes:]
    for name, entry in json.loads(data[8:8 + header_bytes]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert entry["dtype"] == "F32"
            yield name, np.frombuffer(section[begin:end], "<f4").reshape(entry["shape"])


def gguf_name(name, names):
    stem, suffix = name.rsplit(".", 1)
    if stem in names:
        return f"{names[stem]}.{suffix}"
    parts = stem.split(".")
    layer = next(i for i, part in enumerate(parts) if part.isdigit())
    return f"blk.{parts[layer]}.{names['.'.join(parts[layer + 1:])]}.{suffix}"


def permute(weights, num_heads):
    return weights.reshape(num_heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def llama3_divisors(rope, head_dim):
    low_wavelen = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high_wavelen = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelen = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelen < high_wavelen:
            divisors.append(1.0)
        elif wavelen > low_wavelen:
            divisors.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / wavelen - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"])
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def add_llama_like(w, config):
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(config["num_key_value_heads"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if "head_dim" in config:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if w.arch == "llama":
        w.add_rope_dimension_count(head_dim)
    if config.get("sliding_window"):
        w.add_sliding_window(config["sliding_window"])
    if config["rope_parameters"]["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_divisors(config["rope_parameters"], head_dim))


def add_gpt2_like(w, config):
    w.add_context_length(config.get("n_positions") or config["max_position_embeddings"])
    hidden = config.get("n_embd") or config["hidden_size"]
    w.add_embedding_length(hidden)
    w.add_block_count(config.get("n_layer") or config["num_hidden_layers"])
    w.add_feed_forward_length(config.get("n_inner") or config.get("ffn_dim") or 4 * hidden)
    w.add_head_count(config.get("n_head") or config["num_attention_heads"])
    w.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))


def convert(name, arch, names):
    folder = HERE / "tiny" / name
    config = json.loads((folder / "config.json").read_text())
    w = gguf.GGUFWriter(HERE / "tiny_gguf" / f"{name}.gguf", arch)
    w.add_name(f"tiny {name}")
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_vocab_size(config["vocab_size"])
    (add_llama_like if names is LLAMA_NAMES else add_gpt2_like)(w, config)
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])
    for hf_name, values in read_safetensors(folder / "model.safetensors"):
        if arch == "llama" and hf_name.endswith("q_proj.weight"):
            values = permute(values, config["num_attention_heads"])
        if arch == "llama" and hf_name.endswith("k_proj.weight"):
            values = permute(values, config["num_key_value_heads"])
        if arch == "gpt2" and ".c_" in hf_name and hf_name.endswith(".weight"):
            values = values.T
        w.add_tensor(gguf_name(hf_name, names), np.ascontiguousarray(values))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    (HERE / "tiny_gguf").mkdir(exist_ok=True)
    convert("llama", "llama", LLAMA_NAMES)
    convert("mistral_window", "llama", LLAMA_NAMES)
    convert("qwen2", "qwen2", LLAMA_NAMES)
    convert("qwen3", "qwen3", LLAMA_NAMES)
    convert("gpt2", "gpt2", GPT2_NAMES)
    convert("opt", "opt", OPT_NAMES)


if __name__ == "__main__":
    main()
