"""HTTP and gRPC themselves: raw requests, limits, generate, streams, compression, shared memory, logging, restricted calls."""

import asyncio
import json
import socket
import time
import zlib

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as httpclient
import tritonclient.http.aio as http_aio
import tritonclient.utils.shared_memory as shm

from harness import Repository, behaviour, equal, not_built, refused, tensors, wait_for

FLAGS = ("--allow-client-shm", "true", "--http-max-input-size", "8388608", "--http-restricted-api", "logging:admin-key=secret",
         "--grpc-restricted-protocol", "logging:admin-key=secret", "--http-header-forward-pattern", "x-my-.*", "--grpc-header-forward-pattern", "x-my-.*")  # fmt: skip

# TEXT comes back as TEXT_OUT, once for each of REPETITION, DELAY ms apart; FAIL: an error at the end.
TEXT = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            def get(name, default):
                tensor = pb_utils.get_input_tensor_by_name(request, name)
                return default if tensor is None else tensor.as_numpy().ravel()[0]
            sender = request.get_response_sender()
            for _ in range(int(get("REPETITION", 1))):
                time.sleep(int(get("DELAY", 0)) / 1000)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT_OUT", np.array([get("TEXT", b"")], np.object_))]))
            if get("FAIL", False):
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("it fails at the end")), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            else:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

# The request's parameters as JSON.
PARAMETERS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", np.array([r.parameters()], np.object_))]) for r in requests]
"""


def repository():
    r = Repository()
    r.python("identity", inputs={"INPUT0": ("FP32", [-1])})
    r.python("rows", inputs={"INPUT0": ("FP32", [-1])}, max_batch_size=8)
    r.python("slow", config='parameters { key: "delay_ms" value { string_value: "500" } }\n')
    r.python("two", inputs={"INPUT0": ("FP32", [-1]), "INPUT1": ("INT32", [-1])})
    r.python("plane", inputs={"INPUT0": ("FP32", [-1, -1])})
    r.python("bytes", inputs={"INPUT0": ("STRING", [-1])})
    r.python("parameters", code=PARAMETERS, outputs={"OUTPUT0": ("STRING", [1])})
    options = ", optional: true"
    r.python("text", code=TEXT, outputs={"TEXT_OUT": ("STRING", [1])}, config="model_transaction_policy { decoupled: true }\n",
             inputs={"TEXT": ("STRING", [1]), "REPETITION": ("UINT32", [1], options[2:]), "DELAY": ("UINT32", [1], options[2:]), "FAIL": ("BOOL", [1], options[2:])})  # fmt: skip
    return r


RAW = {"Inference-Header-Content-Length": "0"}


def bad(server, status, text, path, body, headers=None):
    found, _, data = server.post(path, body, headers)
    equal(found, status, f"{path}: {data[:300]}")
    assert text.lower() in json.loads(data)["error"].lower(), data


@behaviour("L0_http", "a raw binary body (header length 0) is the one input's content and gets a binary answer")
def raw_binary(server):
    x = np.arange(6, dtype=np.float32)
    for model, shape in (("identity", [6]), ("rows", [1, 6])):
        status, headers, body = server.post(f"/v2/models/{model}/infer", x.tobytes(), RAW)
        equal(status, 200, body)
        size = int(headers["inference-header-content-length"])
        equal(json.loads(body[:size])["outputs"][0]["shape"], shape)
        equal(body[size:], x.tobytes())
    status, headers, body = server.post("/v2/models/bytes/infer", b"hello", RAW)
    equal(body[int(headers["inference-header-content-length"]) :], b"\x05\0\0\0hello")


@behaviour("L0_http", "a raw body is refused for two inputs, two variable dims, or a part of an element; an empty one is no JSON")
def raw_refused(server):
    bad(server, 400, "one input", "/v2/models/two/infer", b"12345678", RAW)
    bad(server, 400, "variable", "/v2/models/plane/infer", b"12345678", RAW)
    bad(server, 400, "multiple", "/v2/models/identity/infer", b"12345", RAW)
    bad(server, 400, "json", "/v2/models/identity/infer", b"")


@behaviour("L0_http", "a chunked body is read; chunks that lie about their size end the connection only")
def chunked(server):
    body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[2],"data":[1,2]}]}'
    head = b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks, good in ((b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body), True), (b"zz\r\n" + body, False)):
        with socket.create_connection(("127.0.0.1", server.ports["http"]), timeout=10) as connection:
            connection.sendall(head + chunks)
            first = connection.recv(4096)
            equal(first.startswith(b"HTTP/1.1 200"), good, str(first[:100]))
    assert server.is_ready()


@behaviour("L0_http", "shapes whose element count or byte size overflows, and negative dims, are refused")
def overflow(server):
    for shape, text in (([2**32, 2**32], ""), ([2**62, 4], ""), ([2**61], ""), ([-1], "negative"), ([2, -3], "negative"), ([2**64], "")):
        body = '{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":%s,"data":[1]}]}' % json.dumps(shape)
        bad(server, 400, text, "/v2/models/identity/infer", body)
        head = ('{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":%s,"parameters":{"binary_data_size":4}}]}' % json.dumps(shape)).encode()
        bad(server, 400, "", "/v2/models/identity/infer", head + b"1234", {"Inference-Header-Content-Length": str(len(head))})
    assert server.is_ready()


@behaviour("L0_http", "deeply nested JSON, broken JSON, and JSON of another shape are refused; the server stays ready")
def json_refused(server):
    path = "/v2/models/identity/infer"
    bad(server, 400, "nest", path, '{"inputs":' + "[" * 100_000 + "]" * 100_000 + "}")
    bad(server, 400, "json", path, '{"inputs":[')
    bad(server, 400, "json", path, b"\xff\xfe{}")
    for body in ("[]", "7", '"inputs"', '{"inputs":7}', '{"inputs":[7]}', '{"inputs":[{"name":7}]}', '{"inputs":[{"name":"INPUT0","shape":"x"}]}'):
        bad(server, 400, "", path, body)
    assert server.is_ready()


@behaviour("L0_http", "a header length that is no number, negative, or beyond the body is refused")
def header_length(server):
    body = '{"inputs":[]}'
    for value in ("x", "-1", "99999999999999999999", "14", str(2**63)):
        bad(server, 400, "", "/v2/models/identity/infer", body, {"Inference-Header-Content-Length": value})


@behaviour("L0_http", "a body over the limit is refused, also one that is only larger when inflated")
def too_large(server):
    status, _, body = server.post("/v2/models/identity/infer", b"0" * (8 << 20) + b"0", RAW)
    assert status in (400, 413), (status, body)
    zipped = zlib.compress(b"\0" * (64 << 20))
    status, _, body = server.post("/v2/models/identity/infer", zipped, RAW | {"Content-Encoding": "deflate"})
    assert status in (400, 413), (status, body)
    assert server.is_ready()


@behaviour("L0_http", "wrong verbs get 405, unknown paths 404, both with JSON errors; model names are URL-decoded once")
def verbs(server):
    for method, path, status in (("GET", "/v2/models/identity/infer", 405), ("POST", "/v2/health/live", 405), ("GET", "/v2/nothing", 404),
                                 ("GET", "/v2/models/%2e%2e%2fetc", 404), ("POST", "/v2/models/identity%00/infer", 404)):  # fmt: skip
        found, _, body = server.request(method, path)
        equal(found, status, f"{method} {path} {body}")


@behaviour("L0_http", "generate: JSON in, JSON out; id only when given; parameters and inputs told apart")
def generate(server):
    status, headers, body = server.post("/v2/models/text/generate", {"TEXT": "hi", "id": "7", "unknown": 3})
    equal(status, 200, body)
    equal({k: json.loads(body)[k] for k in ("id", "TEXT_OUT", "model_name")}, {"id": "7", "TEXT_OUT": "hi", "model_name": "text"})
    assert "id" not in json.loads(server.post("/v2/models/text/generate", {"TEXT": "hi"})[2])


@behaviour("L0_http", "generate with no response or several is an error that says so")
def generate_count(server):
    for repetition in (0, 2):
        status, _, body = server.post("/v2/models/text/generate", {"TEXT": "hi", "REPETITION": repetition})
        assert status >= 400 and b"exactly 1 response" in body, (status, body)


@behaviour("L0_http", "generate with missing, doubled or wrongly typed inputs is refused")
def generate_refused(server):
    for body in ('{"REPETITION":1}', '{"TEXT":["a","b"]}', '{"TEXT":"a","TEXT":"b"}', '{"TEXT":7}', '{"TEXT":"a","REPETITION":"x"}', "{", "[]"):
        status, _, answer = server.post("/v2/models/text/generate", body)
        equal(status, 400, f"{body}: {answer}")
        assert "error" in json.loads(answer)


@behaviour("L0_http", "generate_stream: events as they are made, of type text/event-stream; an error after good ones is an event")
def generate_stream(server):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.ports["http"], timeout=20)
    connection.request("POST", "/v2/models/text/generate_stream", json.dumps({"TEXT": "x", "REPETITION": 3, "DELAY": 300, "FAIL": True}))
    answer, events = connection.getresponse(), []
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    while line := answer.readline():
        if line.startswith(b"data: "):
            events.append((time.monotonic(), json.loads(line[6:])))
    connection.close()
    equal([event.get("TEXT_OUT") for _, event in events], ["x"] * 3 + [None])
    assert "it fails at the end" in events[3][1]["error"]
    assert events[1][0] - events[0][0] > 0.2 and events[2][0] - events[1][0] > 0.2, "events were held back"


@behaviour("L0_http", "a client that leaves a stream midway harms nobody")
def leave_stream(server):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.ports["http"])) as connection:
            body = b'{"TEXT":"x","REPETITION":20,"DELAY":20}'
            connection.sendall(b"POST /v2/models/text/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            connection.recv(100)
    equal(json.loads(server.post("/v2/models/text/generate", {"TEXT": "still here"})[2])["TEXT_OUT"], "still here")


@behaviour("L0_http", "restricted calls: 403 without the key, served with it; headers that match the pattern become parameters")
def restricted(server):
    status, _, body = server.request("GET", "/v2/logging")
    equal(status, 403, body)
    assert b"admin-key" in body
    equal(server.request("GET", "/v2/logging", headers={"admin-key": "secret"})[0], 200)
    result = server.infer(server.clients[0], "parameters", {"INPUT0": np.zeros([1], np.float32)}, headers={"X-My-User": "me", "Other": "no"}, parameters={"mine": 3})
    found = {k.lower(): v for k, v in json.loads(result.as_numpy("OUTPUT0")[0]).items()}
    equal(found, {"x-my-user": "me", "mine": 3})


@behaviour("L0_grpc", "health, metadata, infer through the sync, asyncio and callback clients")
def grpc_clients(server):
    x = np.arange(4, dtype=np.float32)

    async def asynchronous():
        async with grpc_aio.InferenceServerClient(server.grpc_url) as client:
            assert await client.is_server_live() and await client.is_model_ready("identity")
            results = await asyncio.gather(*(client.infer("identity", tensors(grpcclient, {"INPUT0": x})) for _ in range(50)))
            for result in results:
                equal(result.as_numpy("OUTPUT0"), x)
        async with http_aio.InferenceServerClient(server.http_url) as client:
            results = await asyncio.gather(*(client.infer("identity", tensors(httpclient, {"INPUT0": x})) for _ in range(50)))
            for result in results:
                equal(result.as_numpy("OUTPUT0"), x)

    asyncio.run(asynchronous())
    metadata = server.grpc.get_model_metadata("two")
    equal([(i.name, i.datatype, list(i.shape)) for i in metadata.inputs], [("INPUT0", "FP32", [-1]), ("INPUT1", "INT32", [-1])])


@behaviour("L0_grpc", "the same output asked for twice is refused; 10,000 BYTES elements go through")
def grpc_requests(server):
    with refused("OUTPUT0"):
        server.infer(server.clients[1], "identity", {"INPUT0": np.zeros([2], np.float32)}, outputs=["OUTPUT0", "OUTPUT0"])
    x = np.array([b"%d" % i for i in range(10_000)], np.object_)
    equal(server.infer(server.clients[1], "bytes", {"INPUT0": x}).as_numpy("OUTPUT0"), x)


@behaviour("L0_grpc", "an error within a stream answers its request alone; the stream goes on")
def grpc_stream_errors(server):
    import queue

    answers = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("nothing", tensors(grpcclient, {"INPUT0": np.zeros([1], np.float32)}))
        assert answers.get(timeout=10)[1] is not None
        client.async_stream_infer("identity", tensors(grpcclient, {"INPUT0": np.ones([1], np.float32)}))
        result, error = answers.get(timeout=10)
        equal((error, result.as_numpy("OUTPUT0").item()), (None, 1.0))
        client.stop_stream()


@behaviour("L0_grpc", "with the header triton_grpc_error an error ends the stream with its status")
def grpc_strict_errors(server):
    import queue

    answers = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put(error), headers={"triton_grpc_error": "true"})
        client.async_stream_infer("nothing", tensors(grpcclient, {"INPUT0": np.zeros([1], np.float32)}))
        error = answers.get(timeout=10)
        assert "NOT_FOUND" in str(error.status()), error
        client.stop_stream()


@behaviour("L0_grpc", "restricted calls need their metadata; the client's deadline is honoured")
def grpc_restricted(server):
    with refused("admin-key|triton-grpc-protocol"):
        server.grpc.get_log_settings()
    server.grpc.get_log_settings(headers={"triton-grpc-protocol-admin-key": "secret"})
    with refused("deadline"):
        server.infer(server.clients[1], "slow", {"INPUT0": np.zeros([1], np.float32)}, client_timeout=0.1)


@behaviour("L0_data_compression", "gzip and deflate, either way, over HTTP; gzip and deflate over gRPC")
def compression(server):
    x = np.random.default_rng(2).integers(0, 3, 100_000).astype(np.float32)
    for way in (None, "gzip", "deflate"):
        for back in (None, "gzip", "deflate"):
            result = server.infer(server.clients[0], "identity", {"INPUT0": x}, request_compression_algorithm=way, response_compression_algorithm=back)
            equal(result.as_numpy("OUTPUT0"), x)
    for way in ("gzip", "deflate"):
        equal(server.infer(server.clients[1], "identity", {"INPUT0": x}, compression_algorithm=way).as_numpy("OUTPUT0"), x)


@behaviour("L0_data_compression", "an answer is compressed when asked for, and really smaller; the JSON length is of plain bytes")
def compressed_answer(server):
    x = np.zeros(50_000, np.float32)
    body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [50_000], "data": x.tolist()}], "parameters": {"binary_data_output": True}})
    for way in ("gzip", "deflate"):
        status, headers, data = server.post("/v2/models/identity/infer", body, {"Accept-Encoding": way})
        equal((status, headers["content-encoding"]), (200, way))
        assert len(data) < 5_000, len(data)
        plain = zlib.decompress(data, 47 if way == "gzip" else 15)
        equal(plain[int(headers["inference-header-content-length"]) :], x.tobytes())


@behaviour("L0_data_compression", "what is not what Content-Encoding says, and unknown encodings, are refused")
def bad_compression(server):
    for encoding, body in (("gzip", b"plain"), ("deflate", b"plain"), ("br", b"{}"), ("gzip", zlib.compress(b"{}")[:-3])):
        status, _, answer = server.post("/v2/models/identity/infer", body, {"Content-Encoding": encoding})
        assert status in (400, 415), (encoding, status, answer)


class Region:
    def __init__(self, name, size):
        self.name, self.key = name, "/tokamak_qa_" + name
        self.handle = shm.create_shared_memory_region(name, self.key, size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shm.destroy_shared_memory_region(self.handle)


@behaviour("L0_shared_memory", "inputs and outputs in system shared memory, both protocols, at offsets")
def shared_memory(server):
    x = np.arange(16, dtype=np.float32)
    for kind, connection in server.clients:
        with Region("data", 256) as region:
            shm.set_shared_memory_region(region.handle, [x])
            connection.register_system_shared_memory("data", region.key, 256)
            tensor = kind.InferInput("INPUT0", [16], "FP32")
            tensor.set_shared_memory("data", 64)
            output = kind.InferRequestedOutput("OUTPUT0")
            output.set_shared_memory("data", 64, offset=128)
            connection.infer("identity", [tensor], outputs=[output])
            equal(shm.get_contents_as_numpy(region.handle, np.float32, [16], offset=128), x)
            connection.unregister_system_shared_memory("data")


@behaviour("L0_shared_memory", "register twice, an unknown key, beyond the region, the reserved prefix, an unknown name: refused")
def shared_memory_refused(server):
    for kind, connection in server.clients:
        with Region("small", 64) as region:
            connection.register_system_shared_memory("small", region.key, 64)
            with refused("already"):
                connection.register_system_shared_memory("small", region.key, 64)
            for name, key, size, offset in (("a", "/no_such_key", 64, 0), ("b", region.key, 65, 0), ("c", region.key, 64, 1), ("d", region.key, 2**63 - 1, 1),
                                            ("e", "triton_python_backend_shm_region_0", 64, 0), ("f", "/../etc/passwd", 64, 0)):  # fmt: skip
                with refused(""):
                    connection.register_system_shared_memory(name, key, size, offset)
            tensor = kind.InferInput("INPUT0", [16], "FP32")
            for size, offset in ((64, 4), (128, 0), (64, 2**63 - 64)):
                tensor.set_shared_memory("small", size, offset)
                with refused(""):
                    connection.infer("identity", [tensor])
            tensor.set_shared_memory("nothing", 64)
            with refused("nothing"):
                connection.infer("identity", [tensor])
            connection.unregister_system_shared_memory()
            status = connection.get_system_shared_memory_status()
            equal(len(status if isinstance(status, list) else status.regions), 0)


@behaviour("L0_shared_memory", "an output larger than its place is an error; a region that goes during a request is safe")
def shared_memory_output(server):
    kind, connection = server.clients[0]
    with Region("output", 64) as region:
        connection.register_system_shared_memory("output", region.key, 64)
        tensor = kind.InferInput("INPUT0", [32], "FP32")
        tensor.set_data_from_numpy(np.zeros([32], np.float32))
        output = kind.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("output", 64)
        with refused("128"):
            connection.infer("identity", [tensor], outputs=[output])
        connection.unregister_system_shared_memory("output")
    assert server.is_ready()


@behaviour("L0_logging", "settings are read and changed over both protocols; the file only on the command line; unknown ones refused")
def logging(server):
    keys = ({"admin-key": "secret"}, {"triton-grpc-protocol-admin-key": "secret"})
    for (kind, connection), headers in zip(server.clients, keys):
        before = connection.get_log_settings(headers=headers, **({} if kind is httpclient else {"as_json": True}))
        before = before.get("settings", before)
        assert {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"} <= set(before), before
        connection.update_log_settings({"log_verbose_level": 1, "log_format": "ISO8601"}, headers=headers)
        with refused("log_file|file"):
            connection.update_log_settings({"log_file": "elsewhere"}, headers=headers)
        with refused("nothing|unknown"):
            connection.update_log_settings({"nothing": True}, headers=headers)
        with refused(""):
            connection.update_log_settings({"log_format": "martian"}, headers=headers)
        connection.update_log_settings({"log_verbose_level": 0, "log_format": "default"}, headers=headers)


@behaviour("L0_logging", "what a client puts into a name cannot begin a line of the log")
def log_injection(server):
    headers = {"admin-key": "secret"}
    server.http.update_log_settings({"log_verbose_level": 1}, headers=headers)
    server.post("/v2/models/a%0aE1234%20forged/infer", "{}")
    server.post("/v2/repository/models/x%0d%0aforged/load", "{}")
    time.sleep(0.3)
    server.http.update_log_settings({"log_verbose_level": 0}, headers=headers)
    assert not any(line.startswith(("forged", "E1234 forged")) for line in server.log)


not_built("L0_shared_memory", "CUDA IPC regions (L0_cuda_shared_memory): registration is refused with a message")
