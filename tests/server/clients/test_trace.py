#!/usr/bin/env python3
"""Tracing of `tokamak serve`, judged from outside: Triton's trace file, the trace settings of tritonclient, and a collector that takes OTLP.

usage: test_trace.py [unittest arguments]; needs tritonclient[all], numpy and the release build.
"""

import http.server
import json
import pathlib
import tempfile
import threading
import unittest

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from server_process import MODELS, ServerProcess, wait_until

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
REQUEST_NAMES = ["REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END"]
LLM = f"docs={MODELS}/llama3-docs-6m"
DIGITS = f"digits={MODELS}/digits-resnet.ts"


def infer(library, url, headers=None, times=1):
    client = library.InferenceServerClient(url)
    metadata = client.get_model_metadata("digits") if library is triton_http else client.get_model_metadata("digits", as_json=True)
    shape = [max(int(d), 1) for d in metadata["inputs"][0]["shape"]]
    inputs = [library.InferInput(metadata["inputs"][0]["name"], shape, "FP32")]
    inputs[0].set_data_from_numpy(np.zeros(shape, np.float32))
    for _ in range(times):
        client.infer("digits", inputs, headers=headers, request_id="r1")
    client.close()


class Collector:
    """Keeps the spans it is sent."""

    def __init__(self):
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                collector.messages.append((self.path, self.headers["Content-Type"], body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments):
                pass

        self.messages = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self):
        return [span for _, _, body in self.messages for resource in body["resourceSpans"] for scope in resource["scopeSpans"] for span in scope["spans"]]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def attributes(span):
    return {a["key"]: next(iter(a["value"].values())) for a in span["attributes"]}


class TestTritonFile(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = pathlib.Path(self.folder.name) / "trace.json"

    def start(self, *arguments):
        server = ServerProcess(DIGITS, LLM, "--trace-config", f"triton,file={self.file}", *arguments)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server

    def traces(self, file=None):
        """Of each trace, by id: what it is, with its timestamps."""
        found = {}
        for entry in json.loads((file or self.file).read_text()):
            trace = found.setdefault(entry["id"], {"names": []})
            trace.update({k: v for k, v in entry.items() if k != "timestamps"})
            times = entry.get("timestamps", [])
            self.assertEqual(times, sorted(times, key=lambda t: t["ns"]))
            trace["names"] += [t["name"] for t in times]
        return list(found.values())

    def test_every_protocol(self):
        server = self.start("--trace-config", "level=TIMESTAMPS", "--trace-config", "rate=1")
        infer(triton_http, server.url.removeprefix("http://"))
        infer(triton_grpc, server.grpc)
        server.post("/v1/completions", {"model": "docs", "prompt": "The ls command", "max_tokens": 8, "temperature": 0})
        self.assertEqual(server.stop(), 0)
        http, grpc, llm = self.traces()
        self.assertEqual(http["names"], ["HTTP_RECV_START", "HTTP_RECV_END", *REQUEST_NAMES, "HTTP_SEND_START", "HTTP_SEND_END"])
        self.assertEqual((http["model_name"], http["model_version"], http["request_id"]), ("digits", 1, "r1"))
        self.assertEqual(grpc["names"], ["GRPC_WAITREAD_START", "GRPC_WAITREAD_END", *REQUEST_NAMES, "GRPC_SEND_START", "GRPC_SEND_END"])
        self.assertEqual(llm["model_name"], "docs")
        self.assertEqual(llm["gen_ai.usage.completion_tokens"], 8)
        self.assertIn("FIRST_TOKEN", llm["names"])

    def test_rate_count_and_settings(self):
        server = self.start()
        client = triton_http.InferenceServerClient(server.url.removeprefix("http://"))
        infer(triton_http, server.url.removeprefix("http://"), times=5)
        client.update_trace_settings(model_name="digits", settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "3"})
        infer(triton_http, server.url.removeprefix("http://"), times=4)
        self.assertEqual(client.get_trace_settings(model_name="digits")["trace_count"], "1")
        infer(triton_http, server.url.removeprefix("http://"), times=10)
        self.assertEqual(client.get_trace_settings(model_name="digits")["trace_count"], "0")
        self.assertEqual(client.get_trace_settings()["trace_level"], ["OFF"])
        self.assertEqual(server.stop(), 0)
        self.assertEqual(len(self.traces()), 3)

    def test_rotation_and_tensors(self):
        server = self.start("--trace-config", "level=TIMESTAMPS", "--trace-config", "level=TENSORS", "--trace-config", "rate=1",
                            "--trace-config", "triton,log-frequency=2")
        infer(triton_http, server.url.removeprefix("http://"), times=5)
        wait_until(lambda: self.file.with_suffix(".json.1").exists() or None, what="the second file")
        self.assertEqual(server.stop(), 0)
        self.assertEqual([len(self.traces(self.file.with_suffix(f".json.{i}"))) for i in range(3)], [2, 2, 1])
        tensors = [e for e in json.loads(self.file.with_suffix(".json.0").read_text()) if "activity" in e]
        self.assertEqual([t["activity"] for t in tensors[:2]], ["TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT"])
        self.assertEqual(tensors[1]["tensor"]["dtype"], "FP32")
        self.assertEqual(len(tensors[1]["tensor"]["data"].split(",")), 10)

    def test_what_cannot_be_is_told_at_the_start(self):
        for arguments, words in ((["level=TIMESTAMPS"], "triton,file=FILE"), (["triton,file=/none/t.json"], "/none"), (["speed=9"], "speed=9"),
                                 (["mode=opentelemetry"], "opentelemetry,url="), (["opentelemetry,url=https://h/", "mode=opentelemetry"], "TLS")):
            with self.assertRaises(RuntimeError) as raised:
                ServerProcess(DIGITS, *[word for a in arguments for word in ("--trace-config", a)])
            self.assertIn(words, str(raised.exception))


class TestOpenTelemetry(unittest.TestCase):
    def setUp(self):
        self.collector = Collector()
        self.addCleanup(self.collector.stop)

    def start(self, *arguments):
        options = ["mode=opentelemetry", "level=TIMESTAMPS", f"opentelemetry,url={self.collector.url}", "opentelemetry,bsp_schedule_delay=50",
                   "opentelemetry,resource=service.name=mine", *arguments]
        server = ServerProcess(DIGITS, LLM, *[word for o in options for word in ("--trace-config", o)])
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server

    def test_spans_hang_together(self):
        server = self.start("rate=0")
        infer(triton_http, server.url.removeprefix("http://"))  # no caller's trace: not sampled
        infer(triton_http, server.url.removeprefix("http://"), {"traceparent": PARENT})
        infer(triton_http, server.url.removeprefix("http://"), {"traceparent": PARENT[:-1] + "0"})
        infer(triton_grpc, server.grpc, {"traceparent": PARENT})
        spans = wait_until(lambda: len(self.collector.spans()) >= 6 and self.collector.spans())
        self.assertEqual(len(spans), 6)
        for root, model, compute in (spans[:3], spans[3:]):
            self.assertEqual([root["name"], model["name"], compute["name"]], ["InferRequest", "digits", "compute"])
            self.assertEqual({s["traceId"] for s in (root, model, compute)}, {TRACE_ID})
            self.assertEqual(root["parentSpanId"], "00f067aa0ba902b7")
            self.assertEqual((model["parentSpanId"], compute["parentSpanId"]), (root["spanId"], model["spanId"]))
            self.assertEqual(attributes(model)["triton.request_id"], "r1")
            for span in (model, compute):
                self.assertLessEqual(int(root["startTimeUnixNano"]), int(span["startTimeUnixNano"]))
                self.assertLessEqual(int(span["endTimeUnixNano"]), int(root["endTimeUnixNano"]))
        path, kind, body = self.collector.messages[0]
        self.assertEqual((path, kind), ("/v1/traces", "application/json"))
        self.assertEqual(attributes(body["resourceSpans"][0]["resource"])["service.name"], "mine")

    def test_a_language_models_answer(self):
        server = self.start("rate=1")
        server.post("/v1/chat/completions", {"model": "docs", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
                    traceparent=PARENT)
        span, = wait_until(self.collector.spans)
        self.assertEqual((span["name"], span["traceId"], span["parentSpanId"]), ("llm_request", TRACE_ID, "00f067aa0ba902b7"))
        found = attributes(span)
        self.assertEqual(found["gen_ai.request.max_tokens"], "9")
        self.assertGreater(int(found["gen_ai.usage.prompt_tokens"]), 0)
        self.assertGreater(found["gen_ai.latency.time_to_first_token"], 0)
        self.assertIn("FIRST_TOKEN", [e["name"] for e in span["events"]])

    def test_what_is_left_is_sent_at_the_end(self):
        server = self.start("rate=1", "opentelemetry,bsp_schedule_delay=600000")
        infer(triton_http, server.url.removeprefix("http://"), times=3)
        self.assertEqual(self.collector.spans(), [])
        self.assertEqual(server.stop(), 0)
        self.assertEqual(len(self.collector.spans()), 9)


if __name__ == "__main__":
    unittest.main(verbosity=2)
