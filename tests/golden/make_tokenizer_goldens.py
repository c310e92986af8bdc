#!/usr/bin/env python3
"""Makes the goldens that tests/llm/tokenizer and tests/llm/chat_template_test.cc compare with.

    pip install tokenizers==0.23.* transformers==5.24.* jinja2==3.1.*
    python tests/golden/make_tokenizer_goldens.py [TEXT_FILE]

tokenizers: small tokenizer.json files, trained on the repository's own text (or TEXT_FILE), with the ids and texts that the `tokenizers`
library gives for awkward strings. templates: what `apply_chat_template` of transformers renders. expressions: what its Jinja environment
makes of single templates. The trained files are kept: run with --retrain to make them again.
"""

import argparse
import base64
import copy
import datetime
import json
import os
import pathlib
import struct
import sys
import time

os.environ["TZ"] = "UTC"
os.environ["RUST_BACKTRACE"] = "0"
time.tzset()

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZERS = ROOT / "tests/llm/tokenizer/fixtures"
TEMPLATES = ROOT / "tests/llm/chat_templates"
NOW = 1753515296  # Sat 26 Jul 2025 07:34:56 UTC: what strftime_now() sees

STRINGS = [
    "", " ", "a", "Hello, world!", "  two  leading", "trailing  ", "\n", "\r\n\r\n  \n x", "\t tab\tand\x0bvertical\x0cfeed",
    "The quick brown fox jumps over the lazy dog.", "don't WON'T I'll we've it's 'quoted'", "naïve café résumé Ångström",
    "cafe\u0301 e\u0301\u0302 A\u030a \u0301leading mark", "ﬁ ligature ＦＵＬＬ ｗｉｄｔｈ Ⅷ ½ ² ℃ ™", "ΑΒΓ Σίσυφος ΣΑΣ İstanbul ıI ß ẞ",
    "你好，世界！今天天气很好。", "日本語のテキスト カタカナ ｶﾞｷﾞ", "한국어 각 \u1100\u1161\u11a8", "العربية مَرْحَبًا ١٢٣", "עברית שָׁלוֹם", "हिन्दी नमस्ते क्षत्रिय",
    "ไทย ภาษาไทย", "🎉 emoji 👍🏽 family 👨‍👩‍👧‍👦 flag 🇩🇪 ❤️ 1️⃣", "zero\u200bwidth\u200djoin\u200cer\ufeffbom soft\u00adhyphen",
    "nbsp\u00a0em\u2003space\u3000ideographic\u2028line\u2029para\u0085next\u1680ogham\u180emvs", "control\x00\x01\x1f\x7f\x80\x9f end",
    "1234567 3.14159 1,000,000.50% 0x1F 1e-9 ٣", "snake_case camelCase kebab-case dots.in.name @user #tag $5 €6", "a" * 70, "ab " * 20, " " * 40 + "x" + " " * 9,
    "\n\n\n\nmany newlines\n\n\n", "x = foo_bar(1234567, 'it''s') # comment\n\tif y >= 10:\n        return [z for z in q]", "</s> <s> <unk> <pad> [CLS] [MASK] [SEP]",
    "<|im_start|>user\nhi<|im_end|>", "left [MASK] right", "left[MASK]right", "x<added>y <added> <ADDED>", "  <added>  both", "wordy word words sword", "NEWTOKEN newtoken",
    "▁meta▁space ▁ ▁▁", "<0x41> <0xE4>", "Ġbyte level Ċ", "##hash ## a##b", "https://example.org/path?q=1&r=%20#frag", "\ufffd replacement \U0010ffff \ue000 private",
    "mixed 中文 and English 混ぜる text。", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𠀀𠀁", "ǅ ǆ Ǆ ﷺ", "o\u0323\u0307 o\u0307\u0323 \u0344", "“curly” ‘quotes’ – — … ‥", "a\u0300\u0301\u0302\u0303\u0304\u0305b",
    "end.", "U.S.A. e.g. 'tis", "MiXeD CaSe TITLE", "½cup ¾", "ʼn ŉ", "\u1e9b\u0323", "tab\t\t\tx", "\u2581\u2581x", "a\u2581b", "one,two;three:four", "(nested [brackets {here}])",
]


def corpus(path):
    if path:
        return path.read_text(encoding="utf-8").split("\n")
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.h")])
    return "\n".join(f.read_text(encoding="utf-8") for f in files).split("\n")


def charsmap():
    """A sentencepiece charsmap (Darts-clone double array and replacements) of a few rules."""
    rules = {"ﬁ": "fi", "Ｆ": "F", "Ｕ": "U", "Ｌ": "L", "\u00a0": " ", "\u3000": " ", "½": "1⁄2", "℃": "°C", "\u00ad": "", "\u200b": "", "e\u0301": "é",
             "ｶﾞ": "ガ", "ｷﾞ": "ギ", "\t": " ", "\n": " ", "\r": "", "™": "TM", "²": "2", "Ⅷ": "VIII", "ﷺ": "صلى الله عليه وسلم", "\x7f": ""}
    pool, offsets = b"", {}
    for value in sorted(set(rules.values())):
        offsets[value] = len(pool)
        pool += value.encode() + b"\0"
    # Greedy placement of a byte trie into a double array.
    trie = {}
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[None] = offsets[value]
    units, used = {0: 0}, {0}
    queue = [(trie, 0)]
    while queue:
        node, place = queue.pop(0)
        labels = sorted(0 if label is None else label for label in node)
        # offset(unit) is XORed with the place; keep it below 2^21 so that the short form serves.
        for base in range(1, 1 << 20):
            if all((base ^ label) not in used and (base ^ label) != 0 for label in labels):
                break
        units[place] |= ((base ^ place) << 10) | (0x100 if None in node else 0)
        for label in labels:
            used.add(base ^ label)
            if label == 0 and None in node:
                units[base] = (1 << 31) | node[None]
            else:
                units[base ^ label] = label
                queue.append((node[label], base ^ label))
    size = (max(units) // 256 + 1) * 256  # any byte may be XORed to a place
    blob = struct.pack(f"<{size}I", *(units.get(i, 0) for i in range(size)))
    return base64.b64encode(struct.pack("<I", len(blob)) + blob + pool).decode()


def make_tokenizers(text_file):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    lines = corpus(text_file)
    lines += [s for s in STRINGS if len(s) < 60] * 3  # some other scripts in the vocabulary
    made = {}

    def train(name, tokenizer, trainer):
        tokenizer.train_from_iterator(lines, trainer)
        made[name] = tokenizer

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    train("byte-level", t, trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "[MASK]"],
                                               initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens([AddedToken("<added>", normalized=False), AddedToken("word", single_word=True, normalized=False)])
    t.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=False, special=True)])

    # Qwen2 and GPT-4 style: NFC, a pattern with digits apart, a special token that eats spaces on both sides.
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 1)])])
    train("split-byte-level", t, trainers.BpeTrainer(vocab_size=650, show_progress=False, special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken("<added>", lstrip=True, rstrip=True)])

    # SentencePiece BPE with byte fallback behind a Metaspace (Mistral v0.3 and others).
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    train("metaspace-byte-fallback", t, trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *bytes_], limit_alphabet=70))
    data = json.loads(t.to_str())
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] not in bytes_]  # bytes are no added tokens
    made["metaspace-byte-fallback"] = Tokenizer.from_str(json.dumps(data))

    # Gemma style: Replace as normalizer, no prefix, unknown characters to bytes; the tokens written as strings "a b".
    data = json.loads(t.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    data["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    data["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    data["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    made["gemma-style"] = Tokenizer.from_str(json.dumps(data))

    # CLIP style: end-of-word suffix, unknown token, no byte fallback.
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True)])
    t.decoder = decoders.BPEDecoder("</w>")
    train("bpe-suffix", t, trainers.BpeTrainer(vocab_size=600, show_progress=False, special_tokens=["<unk>", "<pad>"], end_of_word_suffix="</w>", limit_alphabet=60))

    # BPE with a prefix for continuing parts, and unknown tokens fused.
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    train("bpe-prefix", t, trainers.BpeTrainer(vocab_size=500, show_progress=False, special_tokens=["<unk>"], continuing_subword_prefix="##", limit_alphabet=60))

    # BERT, with and without its cleaning.
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    train("bert", t, trainers.WordPieceTrainer(vocab_size=900, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], limit_alphabet=200))
    t.add_tokens([AddedToken("newtoken")])
    data = json.loads(t.to_str())
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": True, "strip_right": True}]}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Contiguous"}, {"type": "Digits", "individual_digits": False}]}
    data["model"]["max_input_chars_per_word"] = 20
    made["word-piece-sequence"] = Tokenizer.from_str(json.dumps(data))

    # T5 and ALBERT: Unigram behind a precompiled charsmap.
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    train("unigram", t, trainers.UnigramTrainer(vocab_size=600, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
    data = json.loads(t.to_str())
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap()}, {"type": "Nmt"},
                                                              {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
    made["unigram"] = Tokenizer.from_str(json.dumps(data))
    # Unigram with byte fallback; Metaspace that never prepends, digits apart.
    data = copy.deepcopy(data)
    lowest = min(score for _, score in data["model"]["vocab"])
    data["model"]["vocab"] += [[b, lowest - 1] for b in bytes_]
    data["model"]["byte_fallback"] = True
    data["normalizer"] = {"type": "NFKC"}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}]}
    data["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}]}
    made["unigram-byte-fallback"] = Tokenizer.from_str(json.dumps(data))

    vocab = {"<unk>": 0, "hello": 1, "world": 2, ",": 3, "!": 4, "the": 5, "fox": 6, "dog": 7, ".": 8, "quick": 9}
    t = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    t.normalizer = normalizers.Lowercase()
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    made["word-level"] = t

    for name, t in made.items():
        data = json.loads(t.to_str())
        (TOKENIZERS / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def tokenizer_goldens():
    """For each fixture, and each fixture with other components in it: ids with and without special tokens, and texts."""
    from tokenizers import Tokenizer

    def decode(tokenizer, ids, **options):
        try:
            return tokenizer.decode(ids, **options)
        except BaseException:  # noqa: BLE001: the library panics on some inputs; null then means that anything but a crash will do
            return None

    def cases(tokenizer, strings):
        ids, plain = next((e, p) for e, p in ((tokenizer.encode(s).ids, tokenizer.encode(s, add_special_tokens=False).ids) for s in STRINGS) if p)
        at = next(i for i in range(len(ids)) if ids[i:i + len(plain)] == plain)
        before, after = ids[:at], ids[at + len(plain):]
        rows = []
        for text in strings:
            ids, plain = tokenizer.encode(text).ids, tokenizer.encode(text, add_special_tokens=False).ids
            assert ids == before + plain + after
            texts = [decode(tokenizer, ids), decode(tokenizer, ids, skip_special_tokens=False)]
            rows.append([plain, *(texts if texts[0] != texts[1] else texts[:1])])
        return {"special": [before, after], "rows": rows}

    # Ids that a model may produce but no text does: half characters, runs of bytes.
    def decodings(tokenizer):
        import random
        random.seed(7)
        n = tokenizer.get_vocab_size()
        bytes_ = [tokenizer.token_to_id(f"<0x{b:02X}>") for b in (0xE4, 0xBD, 0xA0, 0x41, 0xF0, 0x9F, 0x8E, 0x89, 0xFF)]
        rows = []
        for _ in range(12):
            ids = [random.randrange(n) for _ in range(random.randrange(1, 14))]
            if None not in bytes_ and random.random() < 0.8:
                at = random.randrange(len(ids))
                ids[at:at] = random.choice([bytes_[0:3], bytes_[0:2], bytes_[4:8], bytes_[3:4] + bytes_[0:3], bytes_[8:9] + bytes_[3:4], bytes_[4:6]])
            rows.append([ids, decode(tokenizer, ids), decode(tokenizer, ids, skip_special_tokens=False)])
        return rows

    variants = {
        "bert": {
            "cased": {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False, "strip_accents": None, "lowercase": False}},
            "uncleaned": {"normalizer": {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": True, "strip_accents": False, "lowercase": True}},
            "no-decoder": {"decoder": None, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]}},
            **{f"split-{b}{'-invert' if i else ''}": {"normalizer": None, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s,.]"}, "behavior": b, "invert": i}}
               for b in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous") for i in (False, True)},
            "words": {"normalizer": {"type": "Prepend", "prepend": "the "}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w+|\b"}, "behavior": "Isolated", "invert": False}},
            "delimiter": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "CharDelimiterSplit", "delimiter": " "}, {"type": "FixedLength", "length": 3}]}},
            "punctuation": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "WhitespaceSplit"}]}},
        },
        "metaspace-byte-fallback": {
            "always": {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
            "strip-first": {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": False}},
            "strip-both-ends": {"decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": "▁+"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 1}]}},
        },
        "unigram": {"plain": {"normalizer": None}},
        "byte-level": {
            "normalizer": {"normalizer": {"type": "ByteLevel"}, "pre_tokenizer": None},
            "gpt2": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}, "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}},
            "twice": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]}},
        },
    }
    goldens = {"strings": STRINGS, "tokenizers": []}
    for path in sorted(TOKENIZERS.glob("*.json")):
        if path.name == "goldens.json":
            continue
        base = json.loads(path.read_text(encoding="utf-8"))
        for variant, change in {"": {}, **variants.get(path.stem, {})}.items():
            tokenizer = Tokenizer.from_str(json.dumps({**base, **change}))
            goldens["tokenizers"].append({"file": path.stem, "variant": variant, "step": 2 if variant else 1, "change": change, **cases(tokenizer, STRINGS[::2] if variant else STRINGS), "decodings": decodings(tokenizer)})
    text = json.dumps(goldens, ensure_ascii=False, separators=(",", ":")).replace('{"file"', '\n{"file"')
    (TOKENIZERS / "goldens.json").write_text(text + "\n", encoding="utf-8")


TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Current weather of a \"place\".", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "description": "City, e.g. Zürich <b>"}, "unit": {"type": "string", "enum": ["°C", "°F"]}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "add", "description": "Adds numbers", "parameters": {
        "type": "object", "properties": {"values": {"type": "array", "items": {"type": "number"}}, "exact": {"type": "boolean"}}, "required": ["values"]}}},
]
CALL = {"id": "abcdef012", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "unit": "°C"}}}
CONVERSATIONS = {
    "one": [{"role": "user", "content": "Hello!"}],
    "system": [{"role": "system", "content": "  Be brief. \n"}, {"role": "user", "content": "  Who are you?\n"}],
    "turns": [{"role": "system", "content": "You speak 日本語 & émoji 🎉."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello \n"},
              {"role": "user", "content": "<b>\"Quotes\"</b> 'and' \\n {{ braces }}"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}, {"role": "user", "content": "Bye"}],
    "answered": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning": "easy"}],
    "tools": [{"role": "user", "content": "Weather in Zürich?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "{\"temp\": 21.5}", "tool_call_id": "abcdef012", "name": "get_weather"}],
    "tools-answered": [{"role": "user", "content": "Weather in Zürich?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "rain", "tool_call_id": "abcdef012"},
                       {"role": "assistant", "content": "It rains."}, {"role": "user", "content": "Thanks"}],
    "two-users": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}]}],
    "unknown-role": [{"role": "moderator", "content": "x"}],
}
DOCUMENTS = [{"title": "Tall penguins", "text": "Emperor penguins are the tallest."}, {"title": "Habitats", "text": "Antarctica.\nOnly."}]
CONFIG = {"bos_token": {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "__type": "AddedToken"}, "eos_token": "</s>"}
OPTIONS = [
    {}, {"add_generation_prompt": True}, {"tools": TOOLS, "add_generation_prompt": True}, {"documents": DOCUMENTS, "add_generation_prompt": True},
    {"enable_thinking": False, "add_generation_prompt": True}, {"date_string": "1 Jan 2000", "tools": TOOLS, "tools_in_user_message": False, "builtin_tools": ["get_weather", "code_interpreter"]},
]

CONTEXT = {
    "messages": CONVERSATIONS["turns"], "s": "Hello wörld", "pad": "  x y\t\n", "n": 7, "neg": -3, "f": 2.5, "big": 1e20, "t": True, "none": None, "empty": [], "l": [3, 1, 2],
    "words": ["b", "A", "c", "a"], "d": {"b": 1, "a": [1, {"x": None}], "c": "é\"'"}, "people": [{"name": "Ann", "age": 30, "x": {"y": 1}}, {"name": "bob", "age": 5}, {"name": "Cy"}],
    "markup": "<a href='x'>&\"</a>", "nested": [[1, 2], [3]], "keys": {"items": 1, "get": 2, "k": 3}, "multi": "one\ntwo\n\nthree",
}
EXPRESSIONS = r"""
{{ 1 + 2 * 3 - 4 / 2 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ -2 ** 2 }}|{{ 1.5e3 }}|{{ 10 / 4 }}|{{ 1_000 }}|{{ 0x1f }}|{{ 7.0 // 2 }}
{{ big }}|{{ f }}|{{ 0.1 + 0.2 }}|{{ 1e16 }}|{{ 123456789012345.0 }}|{{ 1e-5 }}|{{ 0.0001 }}|{{ 1.0 }}|{{ 3.0 * 2 }}|{{ 100000000000000000.0 }}
{{ t }}|{{ none }}|{{ undefined_name }}|{{ true }}|{{ False }}|{{ None }}|{{ [] }}|{{ {} }}|{{ () }}|{{ (1,) }}|{{ (1, 'a') }}
{{ [1, 'a', 2.0, none, true, [1], {'k': "it's"}] }}|{{ "quote's" }}|{{ ["a'b", 'a"b', 'a\'b"c', 'line\nbreak', 'tab\t', 'é🎉', '\x00\x7f', '\u200b'] }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ undefined_name }}|{{ 'a' 'b' "c" }}|{{ 'ab' * 3 }}|{{ [1] * 2 }}|{{ 'x' + 'y' }}|{{ [1] + [2] }}
{{ 1 < 2 }}|{{ 1 < 2 < 3 }}|{{ 3 > 2 > 2 }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ 1 == 1.0 }}|{{ true == 1 }}|{{ '1' == 1 }}|{{ none == undefined_name }}|{{ [1] == [1] }}|{{ {'a': 1} == {'a': 1.0} }}
{{ 1 in l }}|{{ 5 not in l }}|{{ 'ell' in s }}|{{ 'b' in d }}|{{ 'x' in undefined_name }}|{{ not 1 in l }}
{{ 1 and 2 }}|{{ 0 and 2 }}|{{ 0 or 'x' }}|{{ none or none }}|{{ not none }}|{{ not 0 and 1 }}|{{ 1 or undefined_name.x }}
{{ 'y' if n > 5 else 'n' }}|{{ 'y' if n > 50 }}|{{ 'a' if false else 'b' if false else 'c' }}|{{ (1 if t else 2) + 1 }}
{{ s[0] }}|{{ s[-1] }}|{{ s[1:4] }}|{{ s[::-1] }}|{{ s[:-2] }}|{{ s[100:] }}|{{ s[-3:] }}|{{ l[1:] }}|{{ l[::2] }}|{{ l[-1] }}|{{ l[10] }}|{{ d['a'][1].x }}|{{ d.a.0 }}|{{ l[5:2:-1] }}|{{ l[::-1] }}
{{ d.missing }}|{{ d['missing'] is defined }}|{{ none.x is defined }}|{{ s.nothing is undefined }}|{{ keys.k }}|{{ keys['items'] }}|{{ keys['get'] }}|{{ keys.get('k') }}|{{ keys.items() | list }}
{{ pad.strip() }}|{{ pad.lstrip() }}|{{ pad.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcab'.lstrip('ab') }}|{{ s.upper() }}|{{ s.lower() }}|{{ 'hello wOrld it\'s'.title() }}|{{ 'hELLO'.capitalize() }}|{{ 'aB'.swapcase() }}
{{ s.split() }}|{{ 'a,b,,c'.split(',') }}|{{ 'a b  c d'.split(' ', 1) }}|{{ 'a b  c d'.split(none, 2) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a b '.rsplit(none, 1) }}|{{ multi.splitlines() }}|{{ ''.split(',') }}|{{ ''.split() }}
{{ s.startswith('He') }}|{{ s.endswith(('x', 'ld')) }}|{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ 'aa'.replace('', '-') }}|{{ s.find('w') }}|{{ s.find('zz') }}|{{ s.count('l') }}|{{ s.index('l') }}|{{ s.rfind('l') }}
{{ ', '.join(words) }}|{{ 'abc'.join('xy') }}|{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.txt'.removesuffix('.txt') }}|{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'abc'.partition('-') }}
{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3, '.') }}|{{ 'x'.center(4, '*') }}|{{ 'ab'.center(5, '*') }}|{{ '12'.isdigit() }}|{{ 'a1'.isalnum() }}|{{ 'ab'.isalpha() }}|{{ ' \n'.isspace() }}|{{ 'AB1'.isupper() }}|{{ ''.isdigit() }}
{{ '%s is %d and %.2f%%' % ('x', 5, 1.005) }}|{{ '%05d|%-5s|%5s|%x' % (42, 'a', 'b', 255) }}|{{ 'plain %s' % 'one' }}|{{ '%(a)s' % {'a': 1} }}|{{ "%s-%s" | format('a', 2) }}|{{ '{} {}'.format(1, 'x') }}|{{ '{1}{0} {k} {{}}'.format(1, 2, k=3) }}
{{ d.items() | list }}|{{ d.keys() | list }}|{{ d.values() | list }}|{{ d.get('zz', 'dflt') }}|{{ d.get('zz') }}|{{ d | length }}|{{ d | list }}|{{ d | items | list }}|{{ undefined_name | items | list }}
{{ pad | trim }}|{{ 'xax' | trim('x') }}|{{ none | trim }}|{{ 5 | trim }}|{{ s | length }}|{{ undefined_name | length }}|{{ s | upper }}|{{ s | lower }}|{{ 'hello wOrld it\'s (foo) a-b' | title }}|{{ 'hELLO wORLD' | capitalize }}
{{ words | join(', ') }}|{{ l | join }}|{{ people | join(', ', attribute='name') }}|{{ people | map(attribute='age', default=0) | join('+') }}|{{ undefined_name | join(',') }}
{{ undefined_name | default('x') }}|{{ none | default('x') }}|{{ none | default('x', true) }}|{{ '' | d('y', boolean=true) }}|{{ d.zz | default }}|{{ undefined_name.x | default('deep') }}
{{ d | tojson }}|{{ d | tojson(indent=2) }}|{{ markup | tojson }}|{{ [] | tojson(indent=2) }}|{{ [{}] | tojson(indent=1) }}|{{ [1, 2.0, none, true, 1e20, 'é\n\t\x01\\/'] | tojson }}|{{ d | tojson(sort_keys=true) }}|{{ d | tojson(separators=(',', ':')) }}|{{ 'é🎉' | tojson(ensure_ascii=true) }}|{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}|{{ l | tojson(indent='\t') }}|{{ (1, 2) | tojson }}
{{ people | selectattr('age') | map(attribute='name') | list }}|{{ people | selectattr('age', 'defined') | list | length }}|{{ people | rejectattr('age', 'defined') | list }}|{{ people | selectattr('name', 'equalto', 'bob') | first }}|{{ people | selectattr('x.y', 'eq', 1) | list | length }}
{{ l | select('odd') | list }}|{{ l | reject('>', 1) | list }}|{{ [0, 1, '', 'a', none] | select | list }}|{{ l | select('in', [1, 2]) | list }}|{{ l | map('string') | list }}|{{ words | map('upper') | join }}|{{ words | map('replace', 'a', 'z') | join }}
{{ words | sort }}|{{ words | sort(case_sensitive=true) }}|{{ l | sort(reverse=true) }}|{{ people | sort(attribute='name') | map(attribute='name') | list }}|{{ words | unique | list }}|{{ words | unique(true) | list }}|{{ l | reverse | list }}|{{ s | reverse }}
{{ l | max }}|{{ l | min }}|{{ words | max }}|{{ [] | max }}|{{ l | sum }}|{{ people[:2] | sum(attribute='age') }}|{{ people[:2] | max(attribute='age') }}|{{ l | first }}|{{ l | last }}|{{ [] | first }}|{{ 'abc' | first }}|{{ 'abc' | last }}|{{ 'abc' | list }}
{{ neg | abs }}|{{ '42' | int }}|{{ '4.7' | int }}|{{ 'x' | int }}|{{ 'x' | int(-1) }}|{{ 'ff' | int(base=16) }}|{{ 4.9 | int }}|{{ '1.5' | float }}|{{ 'x' | float }}|{{ 3 | float }}|{{ 2.567 | round(2) }}|{{ 2.5 | round }}|{{ 3.5 | round }}|{{ 2.1 | round(0, 'ceil') }}|{{ 2.19 | round(1, 'floor') }}|{{ 7 | round }}|{{ none | int }}
{{ multi | indent }}|{{ multi | indent(2, true) }}|{{ multi | indent(2, blank=true) }}|{{ multi | indent('> ') }}|{{ 'x' | indent(2, first=true) }}|{{ '' | indent }}
{{ d | dictsort }}|{{ {'b': 2, 'A': 1, 'c': 0} | dictsort }}|{{ {'b': 2, 'A': 1} | dictsort(true) }}|{{ {'b': 2, 'A': 1} | dictsort(by='value') }}|{{ {'b': 2, 'A': 1} | dictsort(reverse=true) }}
{{ markup | e }}|{{ markup | safe }}|{{ 5 | string + 'x' }}|{{ [1, 2] | string }}|{{ s | replace('o', '0') }}|{{ s | replace('l', 'L', 1) }}|{{ 12 | replace(1, 3) }}|{{ 3.0 | string }}
{{ x is defined }}|{{ s is defined }}|{{ s is string }}|{{ n is number }}|{{ t is number }}|{{ t is boolean }}|{{ t is integer }}|{{ n is integer }}|{{ f is float }}|{{ none is none }}|{{ d is mapping }}|{{ l is sequence }}|{{ d is sequence }}|{{ s is iterable }}|{{ n is iterable }}|{{ x is iterable }}|{{ x is sequence }}
{{ n is odd }}|{{ n is even }}|{{ 9 is divisibleby 3 }}|{{ n is eq 7 }}|{{ n is equalto(7) }}|{{ n is ne 8 }}|{{ n is gt 3 }}|{{ n is lessthan 3 }}|{{ n is in [7] }}|{{ t is true }}|{{ 1 is true }}|{{ false is false }}|{{ t is sameas true }}|{{ 'AB' is upper }}|{{ 'ab' is lower }}|{{ range is callable }}|{{ s is not none }}|{{ not x is defined }}|{{ n is not string and t }}|{{ 'trim' is filter }}|{{ 'odd' is test }}
{{ range(3) | list }}|{{ range(1, 7, 2) | list }}|{{ range(3, 0, -1) | list }}|{{ range(0) | list }}|{{ dict(a=1, b='x') }}|{{ dict([('k', 1)]) }}|{{ namespace(a=1).a }}|{{ dict(d, z=1) | length }}
{% set ns = namespace(x=1, y=[]) %}{% for i in range(3) %}{% set ns.x = ns.x * 2 %}{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.zz }}|{{ ns.y[0] }}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}|{% if true %}{% set y = 5 %}{% endif %}{{ y }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }};{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }},{% endfor %}|{% for (a, (b, c)) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}|{% for c in 'añ' %}[{{ c }}]{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}|{% for i in undefined_name %}x{% else %}undef{% endfor %}|{% for i in l if i > 1 %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}|{% for i in l if i > 9 %}{{ i }}{% else %}none{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}|{% for a in [1, 2] %}{% for b in [1, 2] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }}{{ loop.depth }}{% endfor %}{% endfor %}
{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='z') }}{{ m(b=5, a=4) }}{{ m() }}|{{ m.name }}
{% macro f(n) %}{% if n > 1 %}{{ n }},{{ f(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ f(4) }}|{% set v = 1 %}{% macro g() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ g() }}|{% macro h(x) %}{% set x = x + 1 %}{{ x }}{% endmacro %}{{ h(1) }}
{% macro w(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call w('b') %}body{% endcall %}|{% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each([1, 2]) %}({{ i }}){% endcall %}
{% set block %}  text {{ n }} {% endset %}[{{ block }}]|{% set up | upper | trim %} abc {% endset %}[{{ up }}]|{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set (a, b) = [b, a] %}{{ a }}{{ b }}|{% set c = 1, 2 %}{{ c }}
{% filter upper %}abc {{ s }}{% endfilter %}|{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}|{% raw %}{{ not }} {% parsed %}{% endraw %}|{% generation %}gen{% set q = 1 %}{% endgeneration %}{{ q }}|{% print 1 + 1 %}
a {#- c -#} b|a {# c #} b|{#
multi #}
x|{{- ' lead' -}} y
  {% if true %}
  line
    {% endif %}
end
a
   {%+ if true %} b{% endif +%}
c
{%- if true -%}   x   {%- endif -%}  y|{{ 1 -}}   z
{% raw -%}  {{ x }}  {%- endraw %}|   {% raw %}
 r
 {% endraw %}
s
{{ {'a': {'b': 1}}.a.b }}|{{ {'a': 1, } }}|{{ [1, 2, ] }}|{{ ({'x': [1, {'y': 2}]}) }}
{{ 'esc \x41 \u00e9 \n \t \\ \' \" \q \101' }}|{{ "dq 'in' \"x\"" }}
{{ m.n if m is defined and m.n is defined else 'no' }}|{{ (messages | last).role }}|{{ messages[0]['content'] | length }}|{{ messages | length - 1 }}|{{ messages | map(attribute='role') | unique | list }}
{{ (people | selectattr('name', 'equalto', 'zz') | list | first) is defined }}|{{ 'yes' if people | selectattr('name', 'equalto', 'zz') else 'no' }}|{{ 'yes' if people | selectattr('name', 'equalto', 'zz') | list else 'no' }}
{{ -5 | abs }}|{{ (-5) | abs }}|{{ 2 * -3 }}|{{ - n }}|{{ + n }}|{{ not not n }}|{{ 1 - -1 }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %A %d %b') }}|{{ strftime_now('%-d %B %y %j') }}|{{ strftime_now('') }}
{{ l is defined and l | length > 2 }}|{{ l | length == 3 }}|{{ 'a' in 'abc' and 'b' not in 'xyz' }}|{{ [1, 2] == [1, 2] and d != {} }}|{{ 5 > 3 == true }}
{{ nested | map('first') | list }}|{{ nested | map('sum') | list }}|{{ nested | sum(start=[]) }}|{{ nested[0][1] }}|{{ (nested | first)[0] }}
{{ '\n' }}x{{ '\r\n' | length }}|{{ 'a\
b' }}
{{ undefined_name.x }}
{{ undefined_name + 1 }}
{{ undefined_name['x'] }}
{{ d.missing.deeper }}
{{ none.x.y }}
{{ 'a' + 1 }}
{{ 1 + none }}
{{ l.append(4) }}
{{ d.update({}) }}
{{ undefined_function() }}
{{ s() }}
{{ 1 / 0 }}
{{ raise_exception('my message') }}
{{ x | nofilter }}
{{ x is notest }}
{{ s | tojson(bad=1) }}
{{ d.missing | tojson }}
{{ 5 | length }}
{% for i in 5 %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% set d.x = 1 %}
{{ range(1000000) }}
{{ l[::0] }}
{{ [1, 'a'] | sort }}
{{ 'a' < 1 }}
{{ {[1]: 2} }}
{{ namespace(_x=1) }}
{{ ''.__class__.__mro__ }}
{{ d.__class__ }}
{{ 'x'.split('') }}
{{ 'abc'.index('z') }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2, 3) }}
{% macro m(a) %}{% endmacro %}{{ m(z=1) }}
{% if %}{% endif %}
{% if true %}
{% endif %}
{{ 1 + }}
{{ (1 }}
{{ 'open }}
{% unknown %}
{% for x in %}{% endfor %}
{{ a b }}
{# open
{% raw %}
{% set true = 1 %}
{% break %}
{{ 1 is }}
{{ x[ }}
{% macro m(a=1, b) %}{% endmacro %}
{{ f(a=1, 2) }}
{% endfor %}
{{ & }}
""".strip("\n")


def make_templates():
    from transformers.utils import chat_template_utils

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(NOW)

    chat_template_utils.datetime = Frozen
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")), bos_token=CONFIG["bos_token"]["content"], eos_token=CONFIG["eos_token"])
    rows = []
    for path in sorted(TEMPLATES.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        for conversation, messages in CONVERSATIONS.items():
            seen = []
            for number, options in enumerate(OPTIONS):
                row = {"template": path.stem, "conversation": conversation, "options": number}
                try:
                    row["output"] = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **copy.deepcopy(options))
                except Exception as e:  # noqa: BLE001: the kind of error does not matter, that there is one does
                    row["error"] = str(e) if type(e).__name__ == "TemplateError" else ""
                result = row.get("output"), row.get("error")
                if result not in seen:
                    seen.append(result)
                    rows.append(row)
    golden = {"config": CONFIG, "now": NOW, "conversations": CONVERSATIONS, "options": OPTIONS, "rows": rows}
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":")).replace('{"template"', '\n{"template"')
    (TEMPLATES / "goldens.json").write_text(text + "\n", encoding="utf-8")

    rows = []
    for chunk in split_expressions():
        try:
            rows.append({"source": chunk, "output": chat_template_utils._compile_jinja_template(chunk).render(**copy.deepcopy(CONTEXT))})
        except Exception as e:  # noqa: BLE001
            rows.append({"source": chunk, "error": f"{type(e).__name__}: {e}"})
    text = json.dumps({"now": NOW, "context": CONTEXT, "rows": rows}, ensure_ascii=False, separators=(",", ":")).replace('{"source"', '\n{"source"')
    (TEMPLATES / "expressions.json").write_text(text + "\n", encoding="utf-8")


def split_expressions():
    """Lines of EXPRESSIONS; those before the errors are cut at '|' between complete tags, so that a difference names its expression."""
    chunks, pending = [], ""
    for line in EXPRESSIONS.split("\n"):
        pending = pending + "\n" + line if pending else line
        if pending.count("{#") > pending.count("#}") and not pending.startswith("{# open"):
            continue
        chunks.append(pending)
        pending = ""
    # Whitespace control is about several lines: these also go together.
    text = EXPRESSIONS[EXPRESSIONS.index("a {#- c"):EXPRESSIONS.index("{{ {'a': {'b'")]
    chunks += [text, text.replace("\n", "\r\n"), text + "\n\n", "x\n", "x\n\n", "\n{% if true %}\n\n{% endif %}\n\n", "  {{ 1 }}\n  {# c #}\n  {% set a = 1 %}  \n  z"]
    out = []
    for chunk in chunks:
        parts = chunk.split("}|{")
        out += [("{" if i else "") + p + ("}" if i + 1 < len(parts) else "") for i, p in enumerate(parts)] if "\n" not in chunk and "set" not in chunk and "macro" not in chunk else [chunk]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", type=pathlib.Path)
    parser.add_argument("--retrain", action="store_true")
    args = parser.parse_args()
    TOKENIZERS.mkdir(parents=True, exist_ok=True)
    if args.retrain or not list(TOKENIZERS.glob("*.json")):
        make_tokenizers(args.text)
    tokenizer_goldens()
    make_templates()


if __name__ == "__main__":
    sys.exit(main())
