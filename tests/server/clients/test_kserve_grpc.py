#!/usr/bin/env python3
"""`tritonclient.grpc`, unmodified, against `tokamak serve`: sync, asyncio and streaming, every datatype, management, shared memory.

usage: test_kserve_grpc.py [--server COMMAND | --url HOST:PORT] [unittest arguments]; needs tritonclient[grpc] and numpy. COMMAND is
started over a repository of small models of the python backend, written to a temporary folder; the default is the release build's
`tokamak serve`. HOST:PORT is a server that has those models already.
"""

import argparse
import asyncio
import pathlib
import queue
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy as np
import tritonclient.grpc as client
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ROOT = pathlib.Path(__file__).resolve().parents[3]
SERVER = None  # the command
URL = None
TYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}

ECHO = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT0", pb_utils.get_input_tensor_by_name(request, "IN0").as_numpy())])
                for request in requests]
"""

SLOW = """
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for _ in range(200):
            if all(request.is_cancelled() for request in requests):
                break
            time.sleep(0.02)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT0", pb_utils.get_input_tensor_by_name(request, "IN0").as_numpy())])
                for request in requests]
"""

REPEAT = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for value in pb_utils.get_input_tensor_by_name(request, "IN0").as_numpy():
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT0", np.array([value], np.int32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def write_models(folder):
    def write(name, datatype, code, more=""):
        version = pathlib.Path(folder) / name / "1"
        version.mkdir(parents=True)
        config_type = "STRING" if datatype == "BYTES" else datatype
        (version / "model.py").write_text(code)
        (version.parent / "config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 0\n{more}'
            f'input {{ name: "IN0" data_type: TYPE_{config_type} dims: -1 }}\n'
            f'output {{ name: "OUT0" data_type: TYPE_{config_type} dims: -1 }}\n')

    for datatype in TYPES:
        write(f"echo_{datatype}", datatype, ECHO)
    write("slow", "INT32", SLOW)
    write("repeat", "INT32", REPEAT, "model_transaction_policy { decoupled: true }\n")


class ServerProcess:
    def __init__(self, folder):
        command = shlex.split(SERVER) + ["--model-repository", folder, "--model-control-mode", "explicit", "--load-model", "*",
                                         "--allow-client-shm", "true", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log, self.url, self.has_url = [], None, threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.has_url.wait(60) or self.url is None:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"GRPC\w* at (\S+):(\d+)", line)
            if found and self.url is None:
                self.url = f"127.0.0.1:{found[2]}"
                self.has_url.set()
        self.has_url.set()

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)


def setUpModule():
    global URL, server, folder
    server = None
    if URL is None:
        folder = tempfile.TemporaryDirectory()
        write_models(folder.name)
        server = ServerProcess(folder.name)
        URL = server.url
    with client.InferenceServerClient(URL) as triton:
        for _ in range(600):
            try:
                if triton.is_server_ready():
                    return
            except InferenceServerException:
                pass
            time.sleep(0.1)
    raise RuntimeError("the server is not ready")


def tearDownModule():
    if server:
        status = server.stop()
        folder.cleanup()
        if status != 0:
            raise RuntimeError(f"the server ended with {status}:\n" + "".join(server.log[-50:]))


def inputs_of(values, kind=client):
    tensor = kind.InferInput("IN0", list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    return [tensor]


def values_for(datatype):
    if datatype == "BYTES":
        return np.array([b"", b"a\0b", "äöü".encode(), b"x" * 3000], dtype=np.object_)
    if datatype == "BOOL":
        return np.array([True, False, True])
    kind = TYPES[datatype]
    if datatype.startswith("FP"):
        return np.array([0.0, -1.5, np.inf, -np.inf, np.nan, np.finfo(kind).max], dtype=kind)
    return np.array([0, 1, np.iinfo(kind).min, np.iinfo(kind).max], dtype=kind)


INTS = np.array([3, 1, 2], dtype=np.int32)


class Sync(unittest.TestCase):
    def setUp(self):
        self.triton = client.InferenceServerClient(URL)

    def tearDown(self):
        self.triton.close()

    def test_health_and_metadata(self):
        self.assertTrue(self.triton.is_server_live())
        self.assertTrue(self.triton.is_model_ready("echo_FP32"))
        self.assertTrue(self.triton.is_model_ready("echo_FP32", "1"))
        self.assertFalse(self.triton.is_model_ready("no_model"))
        metadata = self.triton.get_server_metadata()
        for extension in ("sequence", "statistics", "system_shared_memory", "logging"):
            self.assertIn(extension, metadata.extensions)
        metadata = self.triton.get_model_metadata("echo_BYTES")
        self.assertEqual((metadata.inputs[0].name, metadata.inputs[0].datatype, list(metadata.inputs[0].shape)), ("IN0", "BYTES", [-1]))
        config = self.triton.get_model_config("repeat").config
        self.assertTrue(config.model_transaction_policy.decoupled)
        self.assertEqual(self.triton.get_model_config("repeat", as_json=True)["config"]["name"], "repeat")

    def test_every_datatype(self):
        for datatype in TYPES:
            with self.subTest(datatype):
                values = values_for(datatype)
                result = self.triton.infer(f"echo_{datatype}", inputs_of(values), request_id="7")
                np.testing.assert_array_equal(result.as_numpy("OUT0"), values)
                self.assertEqual(result.get_response().id, "7")
                self.assertEqual(result.get_output("OUT0").datatype, datatype)

    def test_empty_and_large(self):
        np.testing.assert_array_equal(self.triton.infer("echo_FP32", inputs_of(np.zeros(0, np.float32))).as_numpy("OUT0"), [])
        values = np.arange(16 << 20, dtype=np.float32)
        np.testing.assert_array_equal(self.triton.infer("echo_FP32", inputs_of(values)).as_numpy("OUT0"), values)

    def test_compression(self):
        values = np.zeros(1 << 20, np.float32)
        for algorithm in ("gzip", "deflate"):
            result = self.triton.infer("echo_FP32", inputs_of(values), compression_algorithm=algorithm)
            np.testing.assert_array_equal(result.as_numpy("OUT0"), values)

    def test_classification(self):
        outputs = [client.InferRequestedOutput("OUT0", class_count=2)]
        result = self.triton.infer("echo_FP32", inputs_of(np.array([0.5, 2.0, 1.0], np.float32)), outputs=outputs)
        classes = [text.decode().split(":")[:2] for text in result.as_numpy("OUT0").flatten()]
        self.assertEqual([(float(value), int(index)) for value, index in classes], [(2.0, 1), (1.0, 2)])

    def test_errors(self):
        def status_of(**arguments):
            with self.assertRaises(InferenceServerException) as context:
                self.triton.infer(**({"model_name": "echo_INT32", "inputs": inputs_of(INTS)} | arguments))
            self.assertTrue(context.exception.message())
            return context.exception.status()

        self.assertEqual(status_of(model_name="no_model"), "StatusCode.NOT_FOUND")
        self.assertEqual(status_of(model_version="9"), "StatusCode.NOT_FOUND")
        self.assertEqual(status_of(model_version="one"), "StatusCode.INVALID_ARGUMENT")
        self.assertEqual(status_of(model_name="echo_FP32"), "StatusCode.INVALID_ARGUMENT")
        self.assertEqual(status_of(outputs=[client.InferRequestedOutput("OUT9")]), "StatusCode.INVALID_ARGUMENT")
        twice = [client.InferRequestedOutput("OUT0"), client.InferRequestedOutput("OUT0")]
        self.assertEqual(status_of(outputs=twice), "StatusCode.INVALID_ARGUMENT")
        wrong = client.InferInput("IN0", [4], "INT32")
        wrong.set_data_from_numpy(np.zeros(4, np.int32))
        wrong.set_shape([-4])
        self.assertEqual(status_of(inputs=[wrong]), "StatusCode.INVALID_ARGUMENT")
        self.assertEqual(status_of(model_name="repeat"), "StatusCode.UNIMPLEMENTED")
        self.assertTrue(self.triton.is_server_ready())

    def test_async_infer_and_cancel(self):
        results = queue.Queue()
        self.triton.async_infer("echo_INT32", inputs_of(INTS), lambda result, error: results.put((result, error)))
        result, error = results.get(timeout=30)
        self.assertIsNone(error)
        np.testing.assert_array_equal(result.as_numpy("OUT0"), INTS)
        call = self.triton.async_infer("slow", inputs_of(INTS), lambda result, error: results.put((result, error)))
        time.sleep(0.2)
        call.cancel()
        _, error = results.get(timeout=30)
        self.assertEqual(error.status(), "StatusCode.CANCELLED")

    def test_deadline(self):
        with self.assertRaises(InferenceServerException) as context:
            self.triton.infer("slow", inputs_of(INTS), client_timeout=0.3)
        self.assertEqual(context.exception.status(), "StatusCode.DEADLINE_EXCEEDED")

    def test_management(self):
        rows = {(row.name, row.state) for row in self.triton.get_model_repository_index().models}
        self.assertIn(("echo_FP32", "READY"), rows)
        self.triton.unload_model("echo_UINT8")
        self.assertFalse(self.triton.is_model_ready("echo_UINT8"))
        self.triton.load_model("echo_UINT8")
        self.assertTrue(self.triton.is_model_ready("echo_UINT8"))
        with self.assertRaises(InferenceServerException):
            self.triton.load_model("no_model")
        before = self.triton.get_inference_statistics("echo_INT16").model_stats[0].inference_count
        for _ in range(3):
            self.triton.infer("echo_INT16", inputs_of(np.array([1], np.int16)))
        after = self.triton.get_inference_statistics("echo_INT16").model_stats[0].inference_count
        self.assertEqual(after - before, 3)

    def test_settings(self):
        self.assertIn("trace_rate", self.triton.get_trace_settings().settings)
        self.triton.update_trace_settings(settings={"trace_rate": "11"})
        self.assertEqual(self.triton.get_trace_settings().settings["trace_rate"].value[0], "11")
        self.triton.update_trace_settings(settings={"trace_rate": None})
        self.assertNotEqual(self.triton.get_trace_settings().settings["trace_rate"].value[0], "11")
        self.assertEqual(self.triton.update_log_settings({"log_verbose_level": 1}).settings["log_verbose_level"].uint32_param, 1)
        self.assertEqual(self.triton.update_log_settings({"log_verbose_level": 0}).settings["log_verbose_level"].uint32_param, 0)
        with self.assertRaises(InferenceServerException):
            self.triton.update_log_settings({"log_file": "elsewhere"})

    def test_system_shared_memory(self):
        import tritonclient.utils.shared_memory as shm

        values = np.arange(16, dtype=np.float32)
        source = shm.create_shared_memory_region("source", "/tokamak_test_source", values.nbytes)
        target = shm.create_shared_memory_region("target", "/tokamak_test_target", values.nbytes)
        try:
            shm.set_shared_memory_region(source, [values])
            self.triton.register_system_shared_memory("source", "/tokamak_test_source", values.nbytes)
            self.triton.register_system_shared_memory("target", "/tokamak_test_target", values.nbytes)
            self.assertEqual(len(self.triton.get_system_shared_memory_status().regions), 2)
            with self.assertRaises(InferenceServerException):
                self.triton.register_system_shared_memory("source", "/tokamak_test_source", values.nbytes)
            tensor = client.InferInput("IN0", [16], "FP32")
            tensor.set_shared_memory("source", values.nbytes)
            output = client.InferRequestedOutput("OUT0")
            output.set_shared_memory("target", values.nbytes)
            result = self.triton.infer("echo_FP32", [tensor], outputs=[output])
            self.assertEqual(result.get_output("OUT0").parameters["shared_memory_region"].string_param, "target")
            np.testing.assert_array_equal(shm.get_contents_as_numpy(target, np.float32, [16]), values)
            output.set_shared_memory("target", 4)
            with self.assertRaises(InferenceServerException):
                self.triton.infer("echo_FP32", [tensor], outputs=[output])
        finally:
            self.triton.unregister_system_shared_memory()
            shm.destroy_shared_memory_region(source)
            shm.destroy_shared_memory_region(target)
        self.assertEqual(len(self.triton.get_system_shared_memory_status().regions), 0)


class Stream(unittest.TestCase):
    def setUp(self):
        self.triton = client.InferenceServerClient(URL)
        self.results = queue.Queue()

    def tearDown(self):
        self.triton.close()

    def start(self, **arguments):
        self.triton.start_stream(lambda result, error: self.results.put((result, error)), **arguments)

    def next(self):
        result, error = self.results.get(timeout=30)
        if error:
            raise error
        return result

    def test_responses_in_order(self):
        self.start()
        for i in range(50):
            self.triton.async_stream_infer("echo_INT32", inputs_of(np.array([i], np.int32)), request_id=str(i))
        for i in range(50):
            result = self.next()
            self.assertEqual(result.get_response().id, str(i))
            self.assertEqual(result.as_numpy("OUT0")[0], i)
            self.assertTrue(result.get_response().parameters["triton_final_response"].bool_param)
        self.triton.stop_stream()

    def test_decoupled(self):
        self.start()
        self.triton.async_stream_infer("repeat", inputs_of(INTS), request_id="a", enable_empty_final_response=True)
        self.assertEqual([self.next().as_numpy("OUT0")[0] for _ in INTS], list(INTS))
        final = self.next().get_response()
        self.assertTrue(final.parameters["triton_final_response"].bool_param)
        self.assertEqual(len(final.outputs), 0)
        self.triton.async_stream_infer("repeat", inputs_of(np.zeros(0, np.int32)))
        self.triton.async_stream_infer("repeat", inputs_of(INTS[:1]), request_id="b")
        self.assertEqual(self.next().get_response().id, "b")
        self.triton.stop_stream()

    def test_errors_do_not_end_the_stream(self):
        self.start()
        self.triton.async_stream_infer("no_model", inputs_of(INTS))
        with self.assertRaises(InferenceServerException):
            self.next()
        self.triton.async_stream_infer("echo_INT32", inputs_of(INTS))
        np.testing.assert_array_equal(self.next().as_numpy("OUT0"), INTS)
        self.triton.stop_stream()

    def test_errors_end_the_stream_of_those_who_ask(self):
        self.start(headers={"triton_grpc_error": "true"})
        self.triton.async_stream_infer("no_model", inputs_of(INTS))
        with self.assertRaises(InferenceServerException) as context:
            self.next()
        self.assertEqual(context.exception.status(), "StatusCode.NOT_FOUND")
        self.triton.stop_stream()

    def test_cancel(self):
        self.start()
        self.triton.async_stream_infer("slow", inputs_of(INTS))
        time.sleep(0.2)
        begin = time.monotonic()
        self.triton.stop_stream(cancel_requests=True)
        self.assertLess(time.monotonic() - begin, 2)
        with self.assertRaises(InferenceServerException) as context:
            self.next()
        self.assertEqual(context.exception.status(), "StatusCode.CANCELLED")


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.triton = aio.InferenceServerClient(URL)

    async def asyncTearDown(self):
        await self.triton.close()

    async def test_many_at_once(self):
        async def one(i):
            values = np.array([i, -i], np.int32)
            result = await self.triton.infer("echo_INT32", inputs_of(values, aio))
            np.testing.assert_array_equal(result.as_numpy("OUT0"), values)

        self.assertTrue(await self.triton.is_model_ready("echo_INT32"))
        await asyncio.gather(*(one(i) for i in range(64)))

    async def test_stream(self):
        async def requests():
            yield {"model_name": "echo_INT32", "inputs": inputs_of(INTS, aio), "request_id": "1"}
            yield {"model_name": "repeat", "inputs": inputs_of(INTS, aio), "request_id": "2"}

        got = {"1": [], "2": []}
        async for result, error in self.triton.stream_infer(requests()):
            self.assertIsNone(error)
            got[result.get_response().id] += list(result.as_numpy("OUT0"))
        self.assertEqual(got, {"1": list(INTS), "2": list(INTS)})

    async def test_cancel(self):
        task = asyncio.create_task(self.triton.infer("slow", inputs_of(INTS, aio)))
        await asyncio.sleep(0.2)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(await self.triton.is_server_ready())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=f"{ROOT}/build/release/bin/tokamak serve")
    parser.add_argument("--url")
    options, rest = parser.parse_known_args()
    SERVER, URL = options.server, options.url
    unittest.main(argv=[sys.argv[0], *rest])
