#!/usr/bin/env python3
"""Writes a GGUF file of TinyLlama 1.1B's shape with random weights, F16 or BF16, for measuring llama.cpp; llama-quantize makes the rest of it.

The tokenizer is a placeholder of 32,000 pieces: speed does not depend on it.
"""
import argparse

import gguf
import numpy as np

SHAPES = {"tinyllama-1.1b": dict(vocab=32000, hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, context=2048)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--shape", default="tinyllama-1.1b", choices=SHAPES)
    parser.add_argument("--type", default="f16", choices=["f16", "bf16"])
    options = parser.parse_args()
    s = SHAPES[options.shape]
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(options.output, "llama")
    writer.add_name(options.shape + " random")
    writer.add_context_length(s["context"])
    writer.add_embedding_length(s["hidden"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["ffn"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_rope_dimension_count(s["hidden"] // s["heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(s["vocab"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if options.type == "f16" else gguf.LlamaFileType.MOSTLY_BF16)
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(special + [f"\u2581t{i}" for i in range(s["vocab"] - len(special))])
    writer.add_token_scores([0.0] * len(special) + [-float(i) for i in range(s["vocab"] - len(special))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (s["vocab"] - len(special)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def weights(name, rows, columns):
        values = rng.standard_normal((rows, columns), dtype=np.float32) * 0.02
        if options.type == "f16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name):
        writer.add_tensor(name, np.ones(s["hidden"], np.float32))

    kv = s["hidden"] // s["heads"] * s["kv_heads"]
    weights("token_embd.weight", s["vocab"], s["hidden"])
    for layer in range(s["layers"]):
        at = f"blk.{layer}."
        norm(at + "attn_norm.weight")
        weights(at + "attn_q.weight", s["hidden"], s["hidden"])
        weights(at + "attn_k.weight", kv, s["hidden"])
        weights(at + "attn_v.weight", kv, s["hidden"])
        weights(at + "attn_output.weight", s["hidden"], s["hidden"])
        norm(at + "ffn_norm.weight")
        weights(at + "ffn_gate.weight", s["ffn"], s["hidden"])
        weights(at + "ffn_up.weight", s["ffn"], s["hidden"])
        weights(at + "ffn_down.weight", s["hidden"], s["ffn"])
    norm("output_norm.weight")
    weights("output.weight", s["vocab"], s["hidden"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
