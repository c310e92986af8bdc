#!/usr/bin/env python3
"""PyTorch with torch.compile as the peer on a GPU, both sides in one run on one card.

  models   resnet50, BERT-base (128 tokens) and ViT-B/16 (the architectures of torchvision and transformers, random weights) at batch 1 and 32 in
           fp16: exported to ONNX in fp32 and built by `tokamak bench --device cuda --fp16`; on the other side torch.compile in max-autotune mode,
           which replays CUDA graphs. Both have their inputs on the GPU and leave outputs there; times are medians of runs queued back to back.
           Our outputs are first compared with PyTorch's in fp32. --only resnet50:1,vit-b16:32 picks rows, --limit bounds the seconds of each
           side of a row. --exported FOLDER keeps what is exported (NAME-BATCH/model.onnx with a case) and takes what is there.
  export   only that, into --exported FOLDER: no GPU needed
  llm      a decoder of Llama-2-7B's shape with a static cache under torch.compile: tokens/s of decoding 128 tokens behind 128 others
  llm-table  FOLDER: the table of what gpu.sh left there (llm-PRECISION.json of ours, llm-torch.json of theirs)

Ratios are ours / theirs in time (models: below 1 is faster) and in tokens/s (llm: above 1 is faster).
"""
import argparse
import gc
import glob
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time


def median_ms(torch, call, runs=200):
    """Of runs queued back to back, between events."""
    for _ in range(10):
        call()
    torch.cuda.synchronize()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(events, events[1:]))


# --- models ---


def make_models(torch):
    import torchvision
    import transformers

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)

        def forward(self, ids):
            return self.bert(input_ids=ids).last_hidden_state

    def image(batch):
        return torch.randn(batch, 3, 224, 224)

    def alive(model):
        """Biases and ViT's head begin as zeros, which would hide errors and let additions be left out."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or name.startswith("heads.head"):
                    parameter.normal_(std=0.02)
        return model

    yield "resnet50", alive(torchvision.models.resnet50()), image
    yield "bert-base", alive(Bert()), lambda batch: torch.randint(0, 30000, (batch, 128))
    yield "vit-b16", alive(torchvision.models.vit_b_16()), image


ROWS = [(name, batch) for name in ("resnet50", "bert-base", "vit-b16") for batch in (1, 32)]


def chosen_rows(options):
    if options.only:
        rows = [(name, int(batch)) for name, _, batch in (row.partition(":") for row in options.only.split(","))]
        unknown = [name for name, _ in rows if name not in dict(ROWS)]
        if unknown:
            sys.exit(f"no model is called {unknown[0]}: {', '.join(dict(ROWS))}")
        return rows
    return [(name, batch) for name, batch in ROWS if not options.batches or batch in options.batches]


def export(torch, name, batch, folder):
    """model.onnx, and case_0.npz with an input and PyTorch's fp32 output, as `tokamak verify` reads them."""
    import numpy

    torch.manual_seed(0)
    model, make_input = next((model.eval(), make_input) for known, model, make_input in make_models(torch) if known == name)
    example = make_input(batch)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.onnx")
    with torch.inference_mode():
        expected = model(example).numpy()
        torch.onnx.export(model, (example,), path, input_names=["x"], output_names=["y"], opset_version=18, dynamo=True, external_data=False)
    numpy.savez(os.path.join(folder, "case_0.npz"), **{"in:x": example.numpy(), "out:y": expected})
    with open(os.path.join(folder, "meta.json"), "w") as file:  # last: the folder is whole
        json.dump({"name": f"{name}-{batch}", "exporter": f"torch {torch.__version__} dynamo", "rtol": 0.02, "atol": 0.01 * float(abs(expected).max())}, file)


def exported(torch, name, batch, options, scratch):
    folder = os.path.join(options.exported or scratch, f"{name}-{batch}")
    if not os.path.exists(os.path.join(folder, "meta.json")):
        export(torch, name, batch, folder)
    return folder


def run_export(options):
    import torch

    if not options.exported:
        sys.exit("export needs --exported FOLDER")
    for name, batch in chosen_rows(options):
        print(exported(torch, name, batch, options, None), flush=True)
    return 0


def run(command, limit):
    """The finished process; after `limit` seconds it and what it started are ended."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def last_line(result):
    lines = (result.stderr or result.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def ours_row(options, folder, scratch):
    """One build serves both: the timings of the first are the second's."""
    common = ["--device", "cuda", "--fp16", "--timing-cache", os.path.join(scratch, "timings.txt")]
    start = time.monotonic()
    bench = [options.tokamak, "bench", os.path.join(folder, "model.onnx"), *common, "--no-cache", "--duration", "2", "--json", "-"]
    out = run(bench, options.limit)
    if out.returncode != 0:
        raise RuntimeError(last_line(out))
    result = json.loads(out.stdout)
    row = {"ours_ms": result["device_ms"], "ours_latency_ms": result["latency_ms"]["median"], "kernels": result["kernels"], "build_s": result["build_s"]}
    left = max(10, options.limit - (time.monotonic() - start))
    out = run([options.tokamak, "verify", folder, *common, "--quiet"], left)
    return row | {"right": out.returncode == 0} | ({} if out.returncode == 0 else {"difference": (out.stdout + out.stderr)[-600:]})


def theirs_ms(torch, name, batch):
    torch.manual_seed(0)
    model, make_input = next((model.eval(), make_input) for known, model, make_input in make_models(torch) if known == name)
    example = make_input(batch)
    if name == "resnet50":  # what is fastest for each side
        model, example = model.to(memory_format=torch.channels_last), example.to(memory_format=torch.channels_last)
    model = model.cuda().half()
    example = example.cuda()
    if example.is_floating_point():
        example = example.half()
    compiled = torch.compile(model, mode="max-autotune")
    with torch.inference_mode():
        return median_ms(torch, lambda: compiled(example))


def run_peer(options):
    """One row of the other side, in a process of its own: max-autotune may have to be stopped."""
    import torch

    torch.set_float32_matmul_precision("high")
    [(name, batch)] = chosen_rows(options)
    print(json.dumps({"theirs_ms": theirs_ms(torch, name, batch)}), flush=True)
    return 0


def peer_row(options, name, batch):
    command = [sys.executable, os.path.abspath(__file__), "peer", "--only", f"{name}:{batch}"]
    out = run(command, options.limit)
    if out.returncode != 0:
        raise RuntimeError(last_line(out))
    return json.loads(out.stdout.strip().splitlines()[-1])


def attempt(row, key, work):
    try:
        row |= work()
    except subprocess.TimeoutExpired as error:
        row[key] = f"not within {error.timeout:.0f} s"
    except Exception as error:  # the table says so; the other rows are still wanted
        row[key] = str(error)[:300]


def run_models(options):
    import torch

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, batch in chosen_rows(options):
            row = {"model": name, "batch": batch}
            attempt(row, "error", lambda: ours_row(options, exported(torch, name, batch, options, scratch), scratch))
            if options.peers:
                attempt(row, "their_error", lambda: peer_row(options, name, batch))
                if row.get("ours_ms") and row.get("theirs_ms"):
                    row["ratio"] = row["ours_ms"] / row["theirs_ms"]
            rows.append(row)
            print(json.dumps(row), flush=True)
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
            if options.json != "-":
                write(options.json, {"device": device, "torch": torch.__version__, "precision": "fp16", "rows": rows})  # after every row: a later one may be stopped
    lines = ["| fp16 | batch | Tokamak ms | torch.compile ms | ratio | outputs |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ours, theirs = row.get("ours_ms"), row.get("theirs_ms")
        text = [f"{v:.3f}" if v else e for v, e in ((ours, row.get("error", "")), (theirs, row.get("their_error", "")))]
        right = {True: "as PyTorch's", False: "differ"}.get(row.get("right"), "")
        lines.append(f"| {row['model']} | {row['batch']} | {text[0]} | {text[1]} | {row['ratio']:.2f} | {right} |" if "ratio" in row else f"| {row['model']} | {row['batch']} | {text[0]} | {text[1]} | | {right} |")
    write_text(options.table, "\n".join(lines) + "\n")
    return 0 if all(row.get("right") for row in rows) else 1


# --- language models ---

HIDDEN, INTERMEDIATE, LAYERS, HEADS, HEAD, VOCABULARY = 4096, 11008, 32, 32, 128, 32000


def make_decoder(torch, kind, batch, length):
    nn, F = torch.nn, torch.nn.functional
    dtype = kind if isinstance(kind, torch.dtype) else torch.bfloat16

    class Int8(nn.Module):
        def __init__(self, k, n):
            super().__init__()
            self.register_buffer("weight", torch.randint(-127, 127, (n, k), dtype=torch.int8, device="cuda"))
            self.register_buffer("scale", torch.full((n,), 1e-3, dtype=dtype, device="cuda"))

        def forward(self, x):
            return F.linear(x, self.weight.to(x.dtype)) * self.scale

    class Fp8(nn.Module):
        def __init__(self, k, n):
            super().__init__()
            self.register_buffer("weight", (torch.randn(n, k, device="cuda") * 0.02).to(torch.float8_e4m3fn))
            self.register_buffer("one", torch.tensor(1.0, device="cuda"))

        def forward(self, x):
            rows = x.reshape(-1, x.shape[-1]).to(torch.float8_e4m3fn)
            return torch._scaled_mm(rows, self.weight.t(), self.one, self.one, out_dtype=dtype).view(*x.shape[:-1], -1)

    def linear(k, n):
        if kind == "int8":
            return Int8(k, n)
        if kind == "fp8":
            return Fp8(k, n)
        return nn.Linear(k, n, bias=False, device="cuda", dtype=dtype)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = linear(HIDDEN, 3 * HIDDEN), linear(HIDDEN, HIDDEN)
            self.gate_up, self.down = linear(HIDDEN, 2 * INTERMEDIATE), linear(INTERMEDIATE, HIDDEN)
            self.norm1, self.norm2 = (nn.RMSNorm(HIDDEN, eps=1e-5, device="cuda", dtype=dtype) for _ in range(2))
            for name in ("keys", "values"):
                self.register_buffer(name, torch.zeros(batch, HEADS, length, HEAD, device="cuda", dtype=dtype))

        def forward(self, x, position, cos, sin, mask):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4)
            half = HEAD // 2
            rotate = lambda z: z * cos + torch.cat((-z[..., half:], z[..., :half]), -1) * sin
            self.keys[:, :, position] = rotate(k)
            self.values[:, :, position] = v
            y = F.scaled_dot_product_attention(rotate(q), self.keys, self.values, attn_mask=mask)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, HIDDEN))
            gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, HIDDEN, device="cuda", dtype=dtype)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm, self.head = nn.RMSNorm(HIDDEN, eps=1e-5, device="cuda", dtype=dtype), linear(HIDDEN, VOCABULARY)
            inverse = 10000 ** -(torch.arange(0, HEAD, 2, device="cuda") / HEAD)
            angles = torch.outer(torch.arange(length, device="cuda"), inverse).repeat(1, 2)
            self.register_buffer("cos", angles.cos().to(dtype))
            self.register_buffer("sin", angles.sin().to(dtype))
            self.register_buffer("mask", torch.tril(torch.ones(length, length, dtype=torch.bool, device="cuda")))

        def forward(self, tokens, position):
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x, position, self.cos[position], self.sin[position], self.mask[position][None, None])
            return self.head(self.norm(x[:, -1:])).argmax(-1)

    return Decoder().eval()


def decode_rate(torch, kind, batch, prompt=128, new=128, mode="reduce-overhead"):
    torch._dynamo.reset()
    model = make_decoder(torch, kind, batch, prompt + new + 64)
    step = torch.compile(model, mode=mode, fullgraph=True)
    with torch.inference_mode():
        tokens = torch.randint(0, VOCABULARY, (batch, 1), device="cuda")
        for i in range(5):
            tokens = step(tokens, torch.tensor([prompt + i], device="cuda")).clone()
        positions = torch.arange(prompt, prompt + new, device="cuda").split(1)
        rates = []
        for _ in range(3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for position in positions:
                tokens = step(tokens, position).clone()
            torch.cuda.synchronize()
            rates.append(batch * new / (time.perf_counter() - start))
    del model, step
    gc.collect()
    torch.cuda.empty_cache()
    return statistics.median(rates)


def run_llm(options):
    import torch

    torch.manual_seed(0)
    runs = []
    for name, kind in (("fp16", torch.float16), ("int8", "int8"), ("fp8", "fp8")):
        for batch in options.batches or [1, 8, 64]:
            if name == "fp8" and batch < 16:
                mode = "max-autotune"  # _scaled_mm alone wants rows of 16
            else:
                mode = "max-autotune" if name == "int8" and batch == 1 else "reduce-overhead"
            try:
                rate = decode_rate(torch, kind, batch, mode=mode)
                runs.append({"precision": name, "batch": batch, "mode": mode, "output_tokens_per_s": rate})
            except Exception as error:
                runs.append({"precision": name, "batch": batch, "mode": mode, "error": str(error)[:300]})
            print(json.dumps(runs[-1]), flush=True)
            write(options.json, {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "runs": runs})
    return 0


def llm_table(folder):
    theirs = {}
    peer = os.path.join(folder, "llm-torch.json")
    if os.path.exists(peer):
        theirs = {(r["precision"], r["batch"]): r.get("output_tokens_per_s") for r in json.load(open(peer))["runs"]}
    lines = ["| Llama-2-7B shape, 128 + 128 tokens | batch | Tokamak tokens/s | TPOT ms | TTFT ms | torch.compile tokens/s | ratio |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for path in sorted(glob.glob(os.path.join(folder, "llm-*.json"))):
        precision = os.path.basename(path)[4:-5]
        if precision == "torch":
            continue
        for run in json.load(open(path))["runs"]:
            ours, peer_rate = run["output_tokens_per_s"], theirs.get((precision, run["batch"]))
            lines.append(f"| {precision} | {run['batch']} | {ours:.0f} | {run['tpot_ms']:.3f} | {run['ttft_ms']:.1f} | {f'{peer_rate:.0f}' if peer_rate else ''} | {f'{ours / peer_rate:.2f}' if peer_rate else ''} |")
    print("\n".join(lines))
    return 0


def write(path, data):
    write_text(path, json.dumps(data, indent=2) + "\n")


def write_text(path, text):
    if path in (None, "-"):
        sys.stdout.write(text)
        return
    with open(path, "w") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "export", "peer", "llm", "llm-table"])
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--tokamak", default="build/release/bin/tokamak")
    parser.add_argument("--peers", action="store_true", help="models: measure torch.compile too")
    parser.add_argument("--only", help="models, export: rows NAME:BATCH,...")
    parser.add_argument("--exported", help="models, export: folder of exported models")
    parser.add_argument("--limit", type=float, default=200, help="models: seconds for a row's build and runs, and as many for its peer")
    parser.add_argument("--batches", type=lambda text: [int(b) for b in text.split(",")])
    parser.add_argument("--json", default="-")
    parser.add_argument("--table", default="-")
    options = parser.parse_args()
    if options.what == "llm-table":
        return llm_table(options.folder)
    return {"models": run_models, "export": run_export, "peer": run_peer, "llm": run_llm}[options.what](options)


if __name__ == "__main__":
    sys.exit(main())
