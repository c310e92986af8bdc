"""KServe v2 over HTTP, judged by tritonclient (sync and asyncio) and by plain sockets.

usage: test_kserve_http.py KSERVE_SERVER_BINARY [unittest arguments]

The binary is build/release/bin/kserve_server; needs tritonclient[http] and numpy.
"""

import asyncio
import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

BINARY = None
URL = None
TYPES = [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]


def setUpModule():
    global SERVER, FOLDER, URL
    FOLDER = tempfile.TemporaryDirectory()
    SERVER = subprocess.Popen([BINARY, FOLDER.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    URL = f"127.0.0.1:{int(SERVER.stdout.readline())}"


def tearDownModule():
    SERVER.stdin.close()
    status = SERVER.wait(20)
    FOLDER.cleanup()
    assert status == 0, f"the server ended with {status}"


def post(path, body=b"", headers=None, method="POST"):
    connection = http.client.HTTPConnection(URL, timeout=20)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data


def get(path):
    return post(path, None, method="GET")


def values(dtype, shape):
    count = int(np.prod(shape))
    if dtype == np.bool_:
        return (np.arange(count) % 2 == 0).reshape(shape)
    return (np.arange(count) % 100).astype(dtype).reshape(shape)


class Case(unittest.TestCase):
    def setUp(self):
        self.client = triton.InferenceServerClient(URL)

    def tearDown(self):
        self.assertTrue(self.client.is_server_ready())
        self.client.close()

    def refused(self, status, text, path, body=b"", headers=None, method="POST"):
        found, _, data = post(path, body, headers, method)
        self.assertEqual(found, status, data)
        self.assertIn(text, json.loads(data)["error"])


def identity(client, name, array, datatype, binary_in=True, binary_out=True, output="OUTPUT0", **arguments):
    tensor = triton.InferInput("INPUT0", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary_in)
    wanted = triton.InferRequestedOutput(output, binary_data=binary_out)
    return client.infer(name, [tensor], outputs=[wanted], **arguments)


class Health(Case):
    def test_health_and_metadata(self):
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_model_ready("identity_FP32"))
        self.assertTrue(self.client.is_model_ready("identity_FP32", "1"))
        self.assertFalse(self.client.is_model_ready("identity_FP32", "2"))
        self.assertFalse(self.client.is_model_ready("nothing"))
        self.assertIn("binary_tensor_data", self.client.get_server_metadata()["extensions"])
        metadata = self.client.get_model_metadata("identity_FP32")
        self.assertEqual(metadata["versions"], ["1"])
        self.assertEqual(metadata["inputs"], [{"name": "INPUT0", "datatype": "FP32", "shape": [-1, -1]}])
        self.assertEqual(self.client.get_model_config("identity_FP32")["max_batch_size"], 8)
        with self.assertRaises(InferenceServerException):
            self.client.get_model_metadata("nothing")

    def test_statuses(self):
        self.assertEqual(get("/v2/models/nothing")[0], 404)
        self.assertEqual(get("/v2/models/identity_FP32/versions/9")[0], 404)
        self.assertEqual(get("/v2/models/identity_FP32/versions/x")[0], 400)
        self.assertEqual(get("/v2/models/identity_FP32/infer")[0], 405)
        self.assertEqual(get("/nothing")[0], 404)
        self.assertEqual(get("/v2/models/..%2f..%2fetc")[0], 404)


class Infer(Case):
    def test_every_type(self):
        for dtype in TYPES:
            datatype = np_to_triton_dtype(np.dtype(dtype))
            for batch in (1, 8):
                array = values(dtype, [batch, 5])
                for binary_in in (True, False) if dtype != np.float16 else (True,):
                    for binary_out in (True, False) if dtype != np.float16 else (True,):
                        result = identity(self.client, f"identity_{datatype}", array, datatype, binary_in, binary_out)
                        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)

    def test_bytes(self):
        array = np.array([["a", "\u00e9\u20ac", "nul\0nul", ""]], dtype=np.object_)
        expected = [text.encode() for text in array[0]]
        for binary_in in (True, False):
            for binary_out in (True, False):
                result = identity(self.client, "identity_STRING", array, "BYTES", binary_in, binary_out).as_numpy("OUTPUT0")
                self.assertEqual([x if isinstance(x, bytes) else x.encode() for x in result[0]], expected)

    def test_bfloat16(self):
        # Two bytes a value, as they are: the upper halves of 1, -2.5 and 256 as float32.
        data = np.array([0x3F80, 0xC020, 0x4380], np.uint16).tobytes()
        tensor = {"name": "INPUT0", "datatype": "BF16", "shape": [1, 3], "parameters": {"binary_data_size": 6}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        path, header = "/v2/models/identity_BF16/infer", "Inference-Header-Content-Length"
        status, headers, body = post(path, head + data, {header: str(len(head))})
        self.assertEqual((status, body[int(headers[header.lower()]) :]), (200, data))
        del tensor["parameters"]
        status, _, body = post(path, json.dumps({"inputs": [tensor | {"data": [1, -2.5, 256]}]}))
        self.assertEqual(json.loads(body)["outputs"][0]["data"], [1, -2.5, 256])

    def test_empty_and_special(self):
        array = np.zeros([1, 0], np.float32)
        self.assertEqual(identity(self.client, "identity_FP32", array, "FP32").as_numpy("OUTPUT0").shape, (1, 0))
        special = np.array([[np.nan, np.inf, -np.inf, 0.1]], np.float32)
        for binary_in in (True, False):
            for binary_out in (True, False):
                result = identity(self.client, "identity_FP32", special, "FP32", binary_in, binary_out)
                np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), special)

    def test_two_tensors_and_defaults(self):
        a, b = values(np.float32, [3]), values(np.int32, [4])
        inputs = [triton.InferInput("INPUT0", [3], "FP32"), triton.InferInput("INPUT1", [4], "INT32")]
        inputs[0].set_data_from_numpy(a)
        inputs[1].set_data_from_numpy(b, binary_data=False)
        result = self.client.infer("identity_two", inputs, request_id="77")
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), b)
        self.assertEqual(result.get_response()["id"], "77")
        self.assertEqual(result.get_response()["model_version"], "1")

    def test_large_and_compressed(self):
        array = np.random.default_rng(1).integers(0, 4, [1, 200_000]).astype(np.float32)
        for way in (None, "gzip", "deflate"):
            for back in (None, "gzip", "deflate"):
                result = identity(
                    self.client,
                    "identity_FP32",
                    array,
                    "FP32",
                    request_compression_algorithm=way,
                    response_compression_algorithm=back,
                )
                np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
        self.refused(400, "gzip", "/v2/models/identity_FP32/infer", b"not gzip", {"Content-Encoding": "gzip"})

    def test_parameters_and_sequence(self):
        array = values(np.float32, [1, 2])
        result = identity(
            self.client, "identity_FP32", array, "FP32", sequence_id=5, sequence_start=True, priority=1, timeout=10**6, parameters={"mine": 3}
        )
        self.assertEqual(result.get_response()["parameters"], {"mine": 3, "seen_sequence": 5})
        forwarded = identity(self.client, "identity_FP32", array, "FP32", headers={"X-Forwarded-User": "me"})
        self.assertEqual({k.lower(): v for k, v in forwarded.get_response()["parameters"].items()}, {"x-forwarded-user": "me"})

    def test_wrong_requests(self):
        path = "/v2/models/identity_two/infer"
        self.refused(404, "nothing", "/v2/models/nothing/infer", b"{}")
        self.refused(400, "JSON", path, b"")
        self.refused(400, "JSON", path, b'{"inputs":')
        self.refused(400, "nested", path, b'{"inputs":' + b"[" * 200 + b"]" * 200 + b"}")
        one = {"name": "INPUT0", "datatype": "FP32", "shape": [2], "data": [1, 2]}
        for change, text in (
            ({"shape": [-2]}, "negative"),
            ({"shape": [2**62, 2**62]}, "elements"),
            ({"shape": [3]}, "expected 3 values"),
            ({"datatype": "F"}, "datatype"),
            ({"data": ["a", "b"]}, "a string"),
            ({"name": 7}, "name"),
        ):
            self.refused(400, text, path, json.dumps({"inputs": [one | change]}))
        for header, text in (("x", "number"), ("1000", "whole body"), ("-1", "number")):
            self.refused(400, text, path, json.dumps({"inputs": [one]}), {"Inference-Header-Content-Length": header})
        self.refused(501, "decoupled", "/v2/models/repeat/infer", json.dumps({"inputs": [one]}))

    def test_raw_requests(self):
        array = values(np.float32, [6])
        raw = {"Inference-Header-Content-Length": "0"}
        status, headers, body = post("/v2/models/identity_FP32/infer", array.tobytes(), raw)
        self.assertEqual(status, 200, body)
        size = int(headers["inference-header-content-length"])
        self.assertEqual(json.loads(body[:size])["outputs"][0]["shape"], [1, 6])
        self.assertEqual(body[size:], array.tobytes())
        status, headers, body = post("/v2/models/text/infer", b"hello", raw)
        size = int(headers["inference-header-content-length"])
        self.assertEqual(body[size:], b"\x05\0\0\0hello")
        self.refused(400, "one input", "/v2/models/identity_two/infer", b"1234", raw)
        self.refused(400, "variable dimension", "/v2/models/identity_2d/infer", b"1234", raw)
        self.refused(400, "multiple", "/v2/models/identity_FP32/infer", b"12345", raw)

    def test_chunked_body(self):
        body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
        connection = http.client.HTTPConnection(URL, timeout=20)
        connection.request("POST", "/v2/models/identity_FP32/infer", iter([body[:10], body[10:]]), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        answer = connection.getresponse()
        self.assertEqual(json.loads(answer.read())["outputs"][0]["data"], [1.0, 2.0])
        connection.close()

    def num_cancelled(self):
        return json.loads(post("/v2/models/text/generate", json.dumps({"TEXT": "", "ask_cancelled": True}))[2])["num_cancelled"]

    def test_disconnect_cancels(self):
        before = self.num_cancelled()
        body = json.dumps({"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()
        host, port = URL.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.1)
        deadline = time.time() + 3
        while self.num_cancelled() == before and time.time() < deadline:
            time.sleep(0.02)
        self.assertEqual(self.num_cancelled(), before + 1)

    def test_async_infer(self):
        array = values(np.float32, [1, 4])
        tensor = triton.InferInput("INPUT0", [1, 4], "FP32")
        tensor.set_data_from_numpy(array)
        with triton.InferenceServerClient(URL, concurrency=8) as client:
            pending = [client.async_infer("identity_FP32", [tensor]) for _ in range(64)]
            for one in pending:
                np.testing.assert_array_equal(one.get_result().as_numpy("OUTPUT0"), array)


class Generate(Case):
    def test_generate(self):
        status, headers, body = post("/v2/models/text/generate", json.dumps({"id": "a", "TEXT": "hi", "temperature": 0.5}))
        self.assertEqual(status, 200, body)
        self.assertEqual(headers["content-type"], "application/json")
        answer = json.loads(body)
        self.assertEqual((answer["id"], answer["TEXT_OUT"], answer["temperature"]), ("a", "hi", 0.5))
        self.assertNotIn("id", json.loads(post("/v2/models/text/generate", json.dumps({"TEXT": "hi"}))[2]))

    def test_number_of_responses(self):
        for count in (0, 2):
            self.refused(500, "exactly 1 response", "/v2/models/repeat/generate", json.dumps({"IN": list(range(count))}))
        self.assertEqual(json.loads(post("/v2/models/repeat/generate", json.dumps({"IN": [9]}))[2])["OUT"], 9)

    def events(self, body):
        status, headers, data = post("/v2/models/repeat/generate_stream", json.dumps(body))
        self.assertEqual(status, 200, data)
        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
        return [json.loads(event.removeprefix(b"data: ")) for event in data.strip().split(b"\n\n") if event]

    def test_stream(self):
        self.assertEqual([event["OUT"] for event in self.events({"IN": [1, 2, 3]})], [1, 2, 3])
        self.assertEqual(self.events({"IN": []}), [])
        last = self.events({"IN": [1, 2], "fail_last": True})
        self.assertEqual(last[0]["OUT"], 1)
        self.assertIn("fails", last[1]["error"])
        self.refused(500, "fails", "/v2/models/repeat/generate_stream", json.dumps({"IN": [1], "fail_last": True}))

    def test_events_arrive_as_they_are_made(self):
        connection = http.client.HTTPConnection(URL, timeout=20)
        begin = time.time()
        connection.request("POST", "/v2/models/repeat/generate_stream", json.dumps({"IN": [1, 2, 3], "delay_ms": 300}))
        answer, times = connection.getresponse(), []
        while line := answer.readline():
            if line.strip():
                times.append(time.time() - begin)
        self.assertEqual(len(times), 3)
        self.assertGreater(times[1] - times[0], 0.2)
        connection.close()

    def test_leave_midway(self):
        connection = http.client.HTTPConnection(URL, timeout=20)
        connection.request("POST", "/v2/models/repeat/generate_stream", json.dumps({"IN": list(range(50)), "delay_ms": 20}))
        connection.getresponse().readline()
        connection.close()

    def test_wrong_requests(self):
        path = "/v2/models/text/generate_stream"
        self.refused(400, "JSON", path, b"{")
        self.refused(400, "object", path, b"[1]")
        self.refused(400, "a number", path, json.dumps({"TEXT": 7}))
        self.refused(400, "duplicate", path, b'{"TEXT":"a","TEXT":"b"}')
        self.refused(400, "shape", path, json.dumps({"TEXT": ["a", "b"]}))


class Management(Case):
    def test_statistics(self):
        before = self.client.get_inference_statistics("identity_INT8")["model_stats"][0]
        identity(self.client, "identity_INT8", values(np.int8, [1, 2]), "INT8")
        after = self.client.get_inference_statistics("identity_INT8", "1")["model_stats"][0]
        self.assertEqual(after["inference_stats"]["success"]["count"], before["inference_stats"]["success"]["count"] + 1)
        self.assertGreater(len(self.client.get_inference_statistics()["model_stats"]), 10)

    def test_repository(self):
        rows = {row["name"]: row for row in self.client.get_model_repository_index()}
        self.assertEqual(rows["text"]["state"], "READY")
        self.client.unload_model("identity_2d")
        deadline = time.time() + 5
        while self.client.is_model_ready("identity_2d") and time.time() < deadline:
            time.sleep(0.02)
        self.assertFalse(self.client.is_model_ready("identity_2d"))
        self.client.load_model("identity_2d")
        self.assertTrue(self.client.is_model_ready("identity_2d"))
        with self.assertRaises(InferenceServerException):
            self.client.load_model("nothing")
        config = json.dumps(self.client.get_model_config("identity_2d") | {"max_batch_size": 3})
        self.client.load_model("identity_2d", config=config, files={"file:1/model.any": b"bytes"})
        self.assertEqual(self.client.get_model_config("identity_2d")["max_batch_size"], 3)
        self.client.load_model("identity_2d")
        self.refused(400, "base64", "/v2/repository/models/text/load", json.dumps({"parameters": {"config": "{}", "file:1/x": "?"}}))

    def test_logging(self):
        before = self.client.get_log_settings()
        self.assertEqual(self.client.update_log_settings({"log_verbose_level": 2, "log_info": False})["log_verbose_level"], 2)
        self.client.update_log_settings({"log_verbose_level": before["log_verbose_level"], "log_info": before["log_info"]})
        with self.assertRaises(InferenceServerException):
            self.client.update_log_settings({"log_file": "elsewhere"})
        with self.assertRaises(InferenceServerException):
            self.client.update_log_settings({"nothing": True})

    def test_trace(self):
        self.assertIn("trace_rate", self.client.get_trace_settings())
        changed = self.client.update_trace_settings("text", {"trace_rate": "7", "trace_level": ["TIMESTAMPS"]})
        self.assertEqual((changed["trace_rate"], changed["trace_level"]), ("7", ["TIMESTAMPS"]))
        cleared = self.client.update_trace_settings("text", {"trace_rate": None, "trace_level": None})
        self.assertNotEqual(cleared["trace_rate"], "7")
        with self.assertRaises(InferenceServerException):
            self.client.get_trace_settings("nothing")

    def test_shared_memory(self):
        array = values(np.float32, [1, 4])
        region = shm.create_shared_memory_region("region", "/tokamak_kserve_http", 64)
        try:
            shm.set_shared_memory_region(region, [array])
            self.client.register_system_shared_memory("region", "/tokamak_kserve_http", 64)
            self.assertEqual(self.client.get_system_shared_memory_status()[0]["byte_size"], 64)
            with self.assertRaises(InferenceServerException):
                self.client.register_system_shared_memory("region", "/tokamak_kserve_http", 64)
            tensor = triton.InferInput("INPUT0", [1, 4], "FP32")
            tensor.set_shared_memory("region", 16)
            output = triton.InferRequestedOutput("OUTPUT0")
            output.set_shared_memory("region", 16, offset=32)
            self.client.infer("identity_FP32", [tensor], outputs=[output])
            np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.float32, [1, 4], offset=32), array)
            output.set_shared_memory("region", 8, offset=32)
            with self.assertRaisesRegex(InferenceServerException, "16 bytes"):
                self.client.infer("identity_FP32", [tensor], outputs=[output])
            tensor.set_shared_memory("region", 16, offset=60)
            with self.assertRaisesRegex(InferenceServerException, "beyond"):
                self.client.infer("identity_FP32", [tensor])
            self.client.unregister_system_shared_memory("region")
            self.assertEqual(self.client.get_system_shared_memory_status(), [])
            with self.assertRaises(InferenceServerException):
                self.client.infer("identity_FP32", [tensor])
        finally:
            shm.destroy_shared_memory_region(region)
        self.assertEqual(self.client.get_cuda_shared_memory_status(), [])
        with self.assertRaises(InferenceServerException):
            self.client.register_cuda_shared_memory("c", base64.b64encode(b"0" * 64), 0, 64)


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_all(self):
        async with triton_aio.InferenceServerClient(URL) as client:
            self.assertTrue(await client.is_server_ready())
            self.assertEqual((await client.get_model_config("text"))["name"], "text")
            array = values(np.int64, [2, 3])
            tensor = triton_aio.InferInput("INPUT0", [2, 3], "INT64")
            tensor.set_data_from_numpy(array)
            results = await asyncio.gather(*(client.infer("identity_INT64", [tensor]) for _ in range(50)))
            for result in results:
                np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array)
            zipped = await client.infer("identity_INT64", [tensor], request_compression_algorithm="gzip", response_compression_algorithm="gzip")
            np.testing.assert_array_equal(zipped.as_numpy("OUTPUT0"), array)
            with self.assertRaises(InferenceServerException):
                await client.infer("nothing", [tensor])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARY = sys.argv.pop(1)
    unittest.main()
