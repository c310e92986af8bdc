#!/usr/bin/env python3
"""The `openai` client, unmodified, against `tokamak serve` over a bundled checkpoint: every option, many at once, cancellation, schemas.

usage: test_openai.py [--server COMMAND] [unittest arguments]; needs openai, jsonschema and numpy. COMMAND is started with models as
NAME=PATH and writes "HTTPService at ADDRESS:PORT" to standard error; the default is the release build's `tokamak serve`.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import shlex
import subprocess
import sys
import threading
import time
import unittest
import urllib.error
import urllib.request

import jsonschema
import numpy
import openai

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODEL = "llama3-docs-6m"
ENCODER = "encoder"
ENCODER_FOLDER = ROOT / "../shared/models/onnx/distilbert.ts"  # hidden states with the values that PyTorch gave
KEY = "a-key"
SERVER = None  # the command


class ServerProcess:
    def __init__(self, *arguments):
        command = shlex.split(SERVER) + [f"{MODEL}={ROOT}/examples/models/{MODEL}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log = []
        self.port = None
        self.has_port = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.has_port.wait(60) or self.port is None:
            raise RuntimeError("the server did not start:\n" + "".join(self.log))
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/health").close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server is not ready:\n" + "".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"HTTPService at \S*:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.has_port.set()
        self.has_port.set()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics") as answer:
            text = answer.read().decode()
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)
        return sum(float(value) for value in values)


def setUpModule():
    global server, client
    models = [f"{ENCODER}={ENCODER_FOLDER}/model.onnx"] if ENCODER_FOLDER.exists() else []
    server = ServerProcess(*models, "--api-key", KEY)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0, timeout=120)


def tearDownModule():
    server.stop()


def post(path, body, headers=None):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}", **(headers or {})})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer), answer.headers


def complete(prompt="The function returns", **options):
    return client.completions.create(model=MODEL, prompt=prompt, **{"max_tokens": 24, "temperature": 0, **options})


def chat(content="What is a list?", **options):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}],
                                          **{"max_tokens": 24, "temperature": 0, **options})


TOOLS = [
    {"type": "function", "function": {"name": "find_page", "description": "Finds a page", "parameters": {
        "type": "object", "properties": {"title": {"type": "string", "maxLength": 12}, "page": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["title", "page"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}},
]


class Completions(unittest.TestCase):
    def test_answer(self):
        answer = complete()
        self.assertEqual(answer.object, "text_completion")
        self.assertEqual(answer.model, MODEL)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 24)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 24)

    def test_default_max_tokens(self):
        answer = client.completions.create(model=MODEL, prompt="The", temperature=0, extra_body={"ignore_eos": True})
        self.assertEqual(answer.usage.completion_tokens, 16)

    def test_prompt_forms(self):
        ids = post("/tokenize", {"model": MODEL, "prompt": "The function returns"})[0]["tokens"]
        text = complete().choices[0].text
        self.assertEqual(complete(ids).choices[0].text, text)
        both = complete(["The function returns", "A module is"])
        self.assertEqual([c.index for c in both.choices], [0, 1])
        self.assertEqual(both.choices[0].text, text)
        self.assertEqual([c.text for c in complete([ids, ids]).choices], [text, text])

    def test_streamed_equals_whole(self):
        for options in ({}, {"n": 3, "temperature": 1, "seed": 4}, {"echo": True}, {"stop": ["the", "of"]}, {"logprobs": 2},
                        {"prompt": ["One", "Two"], "n": 2, "temperature": 0.7, "seed": 1}, {"presence_penalty": 1.5, "frequency_penalty": 1},
                        {"logit_bias": {"100": 5, "200": -100}}, {"extra_body": {"repetition_penalty": 1.3, "min_tokens": 5}}):
            with self.subTest(options=options):
                whole = complete(**options)
                texts, reasons, tokens = {}, {}, {}
                for chunk in complete(stream=True, **options):
                    for choice in chunk.choices:
                        texts[choice.index] = texts.get(choice.index, "") + choice.text
                        if choice.finish_reason:
                            reasons[choice.index] = choice.finish_reason
                        if choice.logprobs:
                            tokens.setdefault(choice.index, []).extend(choice.logprobs.tokens)
                for choice in whole.choices:
                    self.assertEqual(texts[choice.index], choice.text)
                    self.assertEqual(reasons[choice.index], choice.finish_reason)
                    if choice.logprobs:
                        self.assertEqual(tokens[choice.index], choice.logprobs.tokens)

    def test_usage_chunk(self):
        chunks = list(complete(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage, complete().usage.model_copy(update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}))
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        running = list(complete(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
        self.assertEqual([c.usage.completion_tokens for c in running if c.choices], list(range(1, 25)))

    def test_seed(self):
        once, again, other = (complete(temperature=1, seed=seed).choices[0].text for seed in (5, 5, 6))
        self.assertEqual(once, again)
        self.assertNotEqual(once, other)

    def test_stop(self):
        text = complete().choices[0].text
        stop = text[10:14]
        stopped = complete(stop=stop).choices[0]
        self.assertEqual(stopped.text, text[:text.index(stop)])
        self.assertEqual(stopped.finish_reason, "stop")
        self.assertEqual(stopped.stop_reason, stop)
        kept = complete(stop=[stop], extra_body={"include_stop_str_in_output": True}).choices[0]
        self.assertEqual(kept.text, text[:text.index(stop)] + stop)

    def test_logprobs(self):
        logprobs = complete(logprobs=3).choices[0].logprobs
        self.assertEqual(len(logprobs.tokens), 24)
        self.assertEqual("".join(logprobs.tokens), complete().choices[0].text)
        for token, value, top, offset in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset):
            self.assertAlmostEqual(top[token], value)
            self.assertLessEqual(max(top.values()), value + 1e-6)  # greedy
            self.assertGreaterEqual(offset, 0)

    def test_logit_bias(self):
        token = post("/tokenize", {"model": MODEL, "prompt": " the", "add_special_tokens": False})[0]["tokens"][0]
        self.assertEqual(complete(max_tokens=3, logit_bias={str(token): 100}).choices[0].text, " the the the")

    def test_echo_and_best_of(self):
        self.assertTrue(complete(echo=True).choices[0].text.startswith("The function returns"))
        self.assertEqual(complete(echo=True, max_tokens=0).choices[0].text, "The function returns")
        # Each token of an echoed prompt has the probability that it would have had as an answer to those before it.
        scored = complete(prompt="The function returns a list", echo=True, logprobs=5, max_tokens=2).choices[0]
        found = scored.logprobs
        self.assertEqual("".join(found.tokens).lstrip("<s>").strip()[-len(scored.text) + 1:], scored.text[1:])
        self.assertIsNone(found.token_logprobs[0])
        self.assertEqual(len(found.tokens), len(found.top_logprobs))
        ids = post("/tokenize", {"model": MODEL, "prompt": "The function returns a list"})[0]["tokens"]
        for i in range(1, len(ids)):
            one = complete(prompt=ids[:i], max_tokens=1, logprobs=5).choices[0].logprobs
            for token, value in one.top_logprobs[0].items():
                self.assertAlmostEqual(found.top_logprobs[i].get(token, value), value, places=3)
        alone = complete(prompt="The function returns a list", echo=True, logprobs=5, max_tokens=0).choices[0].logprobs
        self.assertEqual(alone.tokens, found.tokens[: len(ids)])
        self.assertEqual(len(complete(best_of=4, n=2, temperature=1).choices), 2)

    def test_vllm_fields(self):
        answer = complete(extra_body={"top_k": 1, "min_p": 0.1, "ignore_eos": True, "min_tokens": 3, "priority": 1, "skip_special_tokens": False,
                                      "return_token_ids": True}, temperature=1)
        self.assertEqual(answer.choices[0].text, complete(extra_body={"ignore_eos": True}).choices[0].text)
        self.assertEqual(len(answer.choices[0].token_ids), 24)
        self.assertEqual(len(answer.choices[0].prompt_token_ids), answer.usage.prompt_tokens)
        third = answer.choices[0].token_ids[2]
        self.assertEqual(complete(extra_body={"stop_token_ids": [third]}).choices[0].stop_reason, third)


class Chat(unittest.TestCase):
    def test_answer(self):
        answer = chat()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_streamed_equals_whole(self):
        for options in ({}, {"n": 2, "temperature": 1, "seed": 3}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["the"]}):
            with self.subTest(options=options):
                whole = chat(**options)
                texts, roles = {}, {}
                for chunk in chat(stream=True, **options):
                    for choice in chunk.choices:
                        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
                        if choice.delta.role:
                            roles[choice.index] = choice.delta.role
                for choice in whole.choices:
                    self.assertEqual(texts[choice.index], choice.message.content)
                    self.assertEqual(roles[choice.index], "assistant")

    def test_stream_helper(self):
        stop = chat().choices[0].message.content[20:24]
        with client.chat.completions.stream(model=MODEL, messages=[{"role": "user", "content": "What is a list?"}], max_tokens=24,
                                            temperature=0, stop=stop) as stream:
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, chat(stop=stop).choices[0].message.content)

    def test_roles_and_parts(self):
        answer = client.chat.completions.create(model=MODEL, max_completion_tokens=4, messages=[
            {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Call."}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "stop", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "done"}, {"role": "user", "content": "So?"}])
        self.assertLessEqual(answer.usage.completion_tokens, 4)

    def test_logprobs(self):
        content = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
        self.assertEqual(bytes(byte for item in content for byte in item.bytes).decode(errors="replace"), chat().choices[0].message.content)
        for item in content:
            self.assertEqual(len(item.top_logprobs), 3)
            self.assertEqual(item.top_logprobs[0].token, item.token)

    def test_tools(self):
        arguments = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
        num_cut = 0
        for choice in ("required", {"type": "function", "function": {"name": "find_page"}}):
            for seed in range(10):
                with self.subTest(choice=choice, seed=seed):
                    options = {"tools": TOOLS, "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 500}
                    whole = chat(**options).choices[0]
                    calls = whole.message.tool_calls
                    self.assertTrue(calls)
                    self.assertIsNone(whole.message.content)
                    is_cut = whole.finish_reason == "length"
                    num_cut += is_cut
                    for call in calls[:-1] if is_cut else calls:
                        jsonschema.validate(json.loads(call.function.arguments), arguments[call.function.name])
                        if choice != "required":
                            self.assertEqual(call.function.name, "find_page")
                    if not is_cut:
                        self.assertEqual(whole.finish_reason, "tool_calls" if choice == "required" else "stop")
                    calls = []
                    for chunk in chat(stream=True, **options):
                        for delta in chunk.choices[0].delta.tool_calls or []:
                            if delta.id:
                                self.assertEqual(delta.index, len(calls))
                                calls.append([delta.function.name, ""])
                            calls[delta.index][1] += delta.function.arguments or ""
                    self.assertEqual(calls, [[c.function.name, c.function.arguments] for c in whole.message.tool_calls])
        self.assertLess(num_cut, 5)
        one = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1, max_tokens=400).choices[0]
        self.assertEqual(len(one.message.tool_calls), 1)

    def test_tools_auto_and_none(self):
        self.assertEqual(chat(tools=TOOLS, tool_choice="none").choices[0].message.content, chat().choices[0].message.content)
        whole = chat(tools=TOOLS, tool_choice="auto").choices[0]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chat(tools=TOOLS, stream=True))
        self.assertEqual(text, whole.message.content)


class StructuredOutput(unittest.TestCase):
    def test_json_object(self):
        for seed in range(10):
            answer = chat("Write JSON.", response_format={"type": "json_object"}, temperature=1, seed=seed, max_tokens=600).choices[0]
            if answer.finish_reason == "stop":
                self.assertIsInstance(json.loads(answer.message.content), dict)

    def test_guided(self):
        self.assertIn(chat(extra_body={"guided_choice": ["red", "green"]}).choices[0].message.content, ("red", "green"))
        self.assertRegex(complete(extra_body={"guided_regex": "[0-9]{3}-[a-z]+x"}, temperature=1, max_tokens=200).choices[0].text, r"^[0-9]{3}-[a-z]+")
        self.assertIn(complete(extra_body={"guided_grammar": 'root ::= "yes" | "no"'}).choices[0].text, ("yes", "no"))
        self.assertIn(complete(extra_body={"structured_outputs": {"choice": ["a", "b"]}}).choices[0].text, ("a", "b"))
        self.assertIsInstance(json.loads(complete(extra_body={"guided_json": {"type": "integer", "minimum": 0, "maximum": 9}}).choices[0].text), int)

    def test_schemas_always_hold(self):
        """500 prompts at temperature 1: what ends by itself parses and validates."""
        count = int(os.environ.get("TOKAMAK_SCHEMA_PROMPTS", "500"))
        schemas = make_schemas()
        words = (ROOT / "README.md").read_text().split()
        asynchronous = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key=KEY, max_retries=0, timeout=300)
        ended = []

        async def ask(i, gate):
            chooser = random.Random(i)
            schema = schemas[i % len(schemas)]
            prompt = " ".join(chooser.choices(words, k=chooser.randrange(1, 40)))
            async with gate:
                answer = await asynchronous.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": prompt}], temperature=1, seed=i,
                    response_format={"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}})
            choice = answer.choices[0]
            if choice.finish_reason == "stop":
                jsonschema.validate(json.loads(choice.message.content), schema)
                ended.append(i)
            else:
                self.assertEqual(choice.finish_reason, "length")

        async def ask_all():
            gate = asyncio.Semaphore(32)
            await asyncio.gather(*(ask(i, gate) for i in range(count)))

        start = time.time()
        asyncio.run(ask_all())
        print(f"{len(ended)} of {count} answers ended before the context did, all valid; {time.time() - start:.0f} s", file=sys.stderr)
        self.assertGreaterEqual(len(ended), count * 0.98)


def make_schemas():
    short = {"type": "string", "maxLength": 20}
    return [
        {"type": "object", "properties": {"name": short, "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name", "age"],
         "additionalProperties": False},
        {"type": "object", "properties": {"items": {"type": "array", "items": short, "minItems": 1, "maxItems": 4}, "done": {"type": "boolean"}},
         "required": ["items", "done"], "additionalProperties": False},
        {"type": "object", "properties": {"kind": {"enum": ["a", "b", 3, None]}, "value": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
         "required": ["kind", "value"], "additionalProperties": False},
        {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 5}, "maxItems": 6},
        {"$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "label": short},
                             "required": ["x"], "additionalProperties": False}},
         "type": "object", "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}, "required": ["from", "to"],
         "additionalProperties": False},
        {"type": "object", "properties": {"date": {"type": "string", "format": "date"}, "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}},
         "required": ["date", "code"], "additionalProperties": False},
    ]


class Errors(unittest.TestCase):
    def refused(self, kind, call, **options):
        with self.assertRaises(kind) as caught:
            call(**options)
        return caught.exception

    def test_fields(self):
        for options, param in (({"temperature": 2.5}, "temperature"), ({"n": 0}, "n"), ({"top_p": -1}, "top_p"), ({"logprobs": 50}, "logprobs"),
                               ({"presence_penalty": 3}, "presence_penalty"), ({"logit_bias": {"x": 1}}, "logit_bias"), ({"max_tokens": -1}, "max_tokens"),
                               ({"suffix": "s"}, "suffix"), ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
                               ({"stream_options": {"include_usage": True}}, "stream_options")):
            with self.subTest(options=options):
                error = self.refused(openai.BadRequestError, complete, **options)
                self.assertEqual(error.body["param"], param)
                self.assertEqual(error.body["type"], "invalid_request_error")

    def test_context_length(self):
        error = self.refused(openai.BadRequestError, complete, max_tokens=5000)
        self.assertIn("1024", error.body["message"])
        self.assertEqual(error.body["code"], "context_length_exceeded")

    def test_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client.completions.create(model="other", prompt="x")
        self.assertEqual(caught.exception.body["code"], "model_not_found")

    def test_key(self):
        for key in ("wrong", "a-ke", "a-keyy"):
            stranger = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
            with self.assertRaises(openai.AuthenticationError):
                stranger.models.list()
        urllib.request.urlopen(server.url + "/health").close()

    def test_embeddings(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input="x")
        self.assertIn("language model", caught.exception.body["message"])
        with self.assertRaises((openai.BadRequestError, openai.NotFoundError)):
            client.completions.create(model=ENCODER, prompt="x")

    def test_bodies(self):
        for body in (b"", b"{", b"[]", b"[" * 100000, b'{"model": "\xff"}', b'{"model": 1e999}'):
            request = urllib.request.Request(server.url + "/v1/completions", body, {"Authorization": f"Bearer {KEY}"})
            with self.assertRaises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request)
            self.assertEqual(caught.exception.code, 400)
            self.assertIn("error", json.load(caught.exception))
            caught.exception.close()
        complete()


@unittest.skipUnless(ENCODER_FOLDER.exists(), "needs the encoder among the shared models")
class Embeddings(unittest.TestCase):
    def test_mean_of_the_hidden_states(self):
        case = numpy.load(ENCODER_FOLDER / "case_0.npz")
        rows = [ids[:mask.sum()].tolist() for ids, mask in zip(case["in:input_ids"], case["in:attention_mask"])]
        answer = client.embeddings.create(model=ENCODER, input=rows)  # the client asks for base64
        floats = client.embeddings.create(model=ENCODER, input=rows, encoding_format="float")
        self.assertEqual(answer.usage.prompt_tokens, sum(map(len, rows)))
        for row, hidden, one, other in zip(rows, case["out:hidden"], answer.data, floats.data):
            expected = hidden[:len(row)].mean(axis=0)
            expected /= numpy.linalg.norm(expected)
            numpy.testing.assert_allclose(one.embedding, expected, atol=2e-4)
            numpy.testing.assert_allclose(other.embedding, one.embedding, atol=1e-6)

    def test_refusals(self):
        for options, param in (({"input": "text"}, "input"), ({"input": [1, 2], "dimensions": 5}, "dimensions"), ({"input": []}, "input")):
            with self.assertRaises(openai.BadRequestError) as caught:
                client.embeddings.create(model=ENCODER, **options)
            self.assertEqual(caught.exception.body["param"], param)


class Server(unittest.TestCase):
    def test_models(self):
        models = client.models.list().data
        self.assertIn(MODEL, [model.id for model in models])
        self.assertEqual(client.models.retrieve(MODEL).id, MODEL)
        self.assertEqual(client.models.retrieve(MODEL).max_model_len, 1024)

    def test_tokenize(self):
        text = "Some text, naïve: 世界"
        tokens, _ = post("/tokenize", {"model": MODEL, "prompt": text, "add_special_tokens": False, "return_token_strs": True})
        self.assertEqual(len(tokens["token_strs"]), tokens["count"])
        self.assertEqual(post("/detokenize", {"model": MODEL, "tokens": tokens["tokens"]})[0]["prompt"], text)
        messages = [{"role": "user", "content": "What is a list?"}]
        self.assertEqual(post("/tokenize", {"messages": messages})[0]["count"], chat().usage.prompt_tokens)

    def test_request_id(self):
        _, headers = post("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}, {"X-Request-Id": "my-id-7"})
        self.assertEqual(headers["X-Request-Id"], "my-id-7")
        self.assertTrue(complete()._request_id)

    def test_many_at_once(self):
        alone = {i: complete(f"Number {i} is", max_tokens=32).choices[0].text for i in range(8)}
        failures = []

        def ask(i):
            prompt = f"Number {i % 8} is"
            if i % 2:
                text = complete(prompt, max_tokens=32).choices[0].text
            else:
                text = "".join(chunk.choices[0].text for chunk in complete(prompt, max_tokens=32, stream=True))
            if text != alone[i % 8]:
                failures.append((i, text, alone[i % 8]))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_leaving_frees_the_cache(self):
        self.wait_for_idle()
        for stream in (True, False):
            with self.subTest(stream=stream):
                begun = server.metric("vllm:generation_tokens_total")
                if stream:
                    answer = complete(max_tokens=900, stream=True, extra_body={"ignore_eos": True})
                    chunks = iter(answer)
                    for _ in range(8):  # statistics are of the step before
                        next(chunks)
                    self.assertGreater(server.metric("vllm:kv_cache_usage_perc"), 0)
                    answer.close()
                else:
                    with self.assertRaises(openai.APITimeoutError):
                        client.with_options(timeout=0.05).completions.create(model=MODEL, prompt="x", max_tokens=900, extra_body={"ignore_eos": True})
                left = time.time()
                self.wait_for_idle()
                generated = server.metric("vllm:generation_tokens_total") - begun
                print(f"cache free {1e3 * (time.time() - left):.1f} ms after the client left (metrics polled), {generated:.0f} tokens were made",
                      file=sys.stderr)
                self.assertLess(generated, 800)

    def wait_for_idle(self):
        for _ in range(2000):
            if server.metric("vllm:kv_cache_usage_perc") == 0 and server.metric("vllm:num_requests_running") == 0:
                return
            time.sleep(0.002)
        self.fail("the KV cache is still in use")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--server", default=f"{ROOT}/build/release/bin/tokamak serve --http-port 0 --grpc-port 0 --metrics-port 0")
    known, rest = parser.parse_known_args()
    SERVER = known.server
    unittest.main(argv=[sys.argv[0], *rest])
