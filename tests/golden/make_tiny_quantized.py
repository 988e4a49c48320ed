#!/usr/bin/env python3
"""Write tests/golden/tiny_gguf/quantized.gguf: a llama of random weights with heads of 64 and a mixture of types, for
what the tensor-core kernels take and the other tiny checkpoints do not have.

    python3 tests/golden/make_tiny_quantized.py       needs the packages numpy and gguf
"""
import pathlib

import gguf
import numpy as np

PATH = pathlib.Path(__file__).parent / "tiny_gguf" / "quantized.gguf"
HIDDEN, HEADS, KV_HEADS, HEAD, INNER, LAYERS, VOCAB = 128, 2, 1, 64, 192, 1, 384
Q = gguf.GGMLQuantizationType
TYPES = {"attn_q": Q.Q4_1, "attn_k": Q.Q8_0, "attn_v": Q.Q5_0, "attn_output": Q.Q4_0, "ffn_gate": Q.F16,
         "ffn_up": Q.BF16, "ffn_down": Q.Q4_1, "output": Q.Q8_0, "token_embd": Q.Q8_0}
SHAPES = {"attn_q": (HEADS * HEAD, HIDDEN), "attn_k": (KV_HEADS * HEAD, HIDDEN), "attn_v": (KV_HEADS * HEAD, HIDDEN),
          "attn_output": (HIDDEN, HEADS * HEAD), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
          "ffn_down": (HIDDEN, INNER)}


def main():
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(PATH, "llama")
    w.add_name("tiny quantized")
    w.add_vocab_size(VOCAB)
    w.add_context_length(512)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(INNER)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(HEAD)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)

    def add(name, dtype, shape):
        values = rng.standard_normal(shape, dtype=np.float32) * (1 if name == "token_embd" else 0.15)
        w.add_tensor(f"{name}.weight", gguf.quants.quantize(values, dtype), raw_dtype=dtype)

    add("token_embd", TYPES["token_embd"], (VOCAB, HIDDEN))
    add("output", TYPES["output"], (VOCAB, HIDDEN))
    w.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in "attn_norm", "ffn_norm":
            w.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}", TYPES[name], shape)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
