"""Runs one instance of a model.py for the server: messages over a socket, tensors in shared memory.

A message is two 32-bit lengths, JSON, and bytes. File descriptors: 3 the socket, 4 inputs, 5 outputs, 6 a byte for each request, not 0 when it
was cancelled.
"""

import importlib.util
import json
import mmap
import os
import socket
import struct
import sys
import threading
import traceback

import triton_python_backend_utils as pb_utils  # needs numpy, and says so
import numpy as np

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class Region:
    """Shared memory that grows: `writable` by this side, else by the other."""

    def __init__(self, fd, writable):
        self.fd, self.writable, self.map = fd, writable, None

    def view(self, size):
        if size and (self.map is None or len(self.map) < size):
            if self.writable:
                size = max(size + size // 2, 1 << 16)
                os.ftruncate(self.fd, size)
            else:
                size = os.fstat(self.fd).st_size
            # Arrays of earlier requests may still refer to the old mapping, which then lives as long as they do.
            self.map = mmap.mmap(self.fd, size)
        return self.map


class Connection:
    def __init__(self, fd):
        self.socket, self.lock = socket.socket(fileno=fd), threading.Lock()

    def send(self, message, tail=b""):
        text = json.dumps(message).encode("utf-8")
        with self.lock:
            self.socket.sendall(struct.pack("<II", len(text), len(tail)) + text + tail)

    def read(self, size):
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self.socket.recv_into(view)
            if count == 0:
                raise EOFError
            view = view[count:]
        return data

    def receive(self):
        length, _ = struct.unpack("<II", self.read(8))
        return json.loads(self.read(length))


class Sender:
    """Of one request: as many responses as the model likes, the last one flagged."""

    def __init__(self, worker, number):
        self.worker, self.number, self.is_closed = worker, number, False

    def send(self, response=None, flags=0):
        if self.is_closed:
            raise pb_utils.TritonModelException("the request already had its final response")
        if response is None and not flags & FINAL:
            raise pb_utils.TritonModelException("a response that is not the final one must not be None")
        message, parts = self.worker.describe_response(response)
        self.is_closed = bool(flags & FINAL)
        message.update(op="response", r=self.number, final=self.is_closed)
        at = 0
        for output, data in zip(message["outputs"], parts):
            output["offset"] = at
            at += len(data)
        self.worker.connection.send(message, b"".join(parts))


class Worker:
    def __init__(self):
        self.connection = Connection(3)
        self.inputs, self.outputs = Region(4, False), Region(5, True)
        self.flags = mmap.mmap(6, os.fstat(6).st_size)
        self.model, self.is_decoupled, self.output_types = None, False, {}

    def load_class(self, path):
        sys.path.insert(0, os.path.dirname(path))
        spec = importlib.util.spec_from_file_location("model", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["model"] = module
        spec.loader.exec_module(module)
        if not hasattr(module, "TritonPythonModel"):
            raise pb_utils.TritonModelException(f"'{path}' has no class TritonPythonModel")
        return module.TritonPythonModel

    def describe(self, message):
        own = self.load_class(message["path"])
        if not hasattr(own, "auto_complete_config"):
            return {}
        config = own.auto_complete_config(pb_utils.ModelConfig(json.loads(message["config"])))
        if not isinstance(config, pb_utils.ModelConfig):
            raise pb_utils.TritonModelException("auto_complete_config() must return the ModelConfig that it was given")
        return {"config": config.as_dict()}

    def initialize(self, message):
        config = json.loads(message["args"]["model_config"])
        self.is_decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self.output_types = {io["name"]: io["data_type"] for io in config.get("output", [])}
        self.model = self.load_class(message["path"])()
        if not hasattr(self.model, "execute"):
            raise pb_utils.TritonModelException("TritonPythonModel has no method execute()")
        if hasattr(self.model, "initialize"):
            self.model.initialize(message["args"])
        return {}

    def read_tensor(self, field):
        shape, size = field["shape"], field["size"]
        data = memoryview(self.inputs.map)[field["offset"] : field["offset"] + size] if size else b""
        if field["dtype"] == "BYTES":
            array = pb_utils.deserialize_bytes_tensor(data).reshape(shape)
        else:
            array = np.frombuffer(data, dtype=pb_utils.triton_string_to_numpy(field["dtype"])).reshape(shape)
            if self.is_decoupled:
                array = array.copy()  # responses may be made long after the memory is another request's
        return pb_utils.Tensor(field["name"], array)

    def describe_response(self, response):
        """Fields of the message, and the bytes of each output."""
        message, parts = {"outputs": []}, []
        if response is None:
            return message, parts
        if not isinstance(response, pb_utils.InferenceResponse):
            raise pb_utils.TritonModelException(f"a response must be an InferenceResponse, not {type(response).__name__}")
        if response.has_error():
            error = response.error()
            is_error = isinstance(error, pb_utils.TritonError)
            message["error"] = error.message() if is_error else str(error)
            message["code"] = error.code() if is_error else pb_utils.TritonError.INTERNAL
            return message, parts
        message["parameters"] = response._parameters
        for tensor in response.output_tensors():
            array = tensor.as_numpy()
            dtype = pb_utils.numpy_to_triton_string(array.dtype)
            if dtype == "UINT16" and self.output_types.get(tensor.name()) == "TYPE_BF16":
                dtype = "BF16"
            data = pb_utils.serialize_byte_tensor(array) if dtype == "BYTES" else np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            message["outputs"].append({"name": tensor.name(), "dtype": dtype, "shape": list(array.shape), "size": len(data)})
            parts.append(data)
        return message, parts

    def execute(self, message):
        self.inputs.view(message["in_size"])
        requests = [
            pb_utils.InferenceRequest(r, [self.read_tensor(t) for t in r["inputs"]], Sender(self, r["r"]), self.flags)
            for r in message["requests"]
        ]
        responses = self.model.execute(requests)
        rescheduled = [i for i, r in enumerate(requests) if r._is_rescheduled()]
        if responses is None:
            if not self.is_decoupled and not all(r.get_response_sender().is_closed or r._is_rescheduled() for r in requests):
                raise pb_utils.TritonModelException("execute() returned None, and not every request had its final response")
            return {"responses": [], "rescheduled": rescheduled}
        if self.is_decoupled:
            raise pb_utils.TritonModelException("execute() of a decoupled model must return None; its responses go through response senders")
        if not isinstance(responses, (list, tuple)) or len(responses) != len(requests):
            count = len(responses) if isinstance(responses, (list, tuple)) else type(responses).__name__
            raise pb_utils.TritonModelException(f"execute() must return a list of {len(requests)} responses, one a request; it returned {count}")
        if any(responses[i] is not None for i in rescheduled):
            raise pb_utils.TritonModelException("the response of a rescheduled request must be None")
        described = [self.describe_response(r) for r in responses]
        total = sum((len(part) + 63) & ~63 for _, parts in described for part in parts)
        region, at = self.outputs.view(total), 0
        for fields, parts in described:
            for output, part in zip(fields["outputs"], parts):
                if len(part):
                    region[at : at + len(part)] = part
                output["offset"] = at
                at += (len(part) + 63) & ~63
        return {"responses": [fields for fields, _ in described], "out_size": total, "rescheduled": rescheduled}

    def run(self):
        steps = {"describe": self.describe, "initialize": self.initialize, "execute": self.execute}
        while True:
            try:
                message = self.connection.receive()
            except (EOFError, ConnectionError):
                return  # the server is gone
            if message["op"] == "finalize":
                if self.model is not None and hasattr(self.model, "finalize"):
                    self.model.finalize()
                self.connection.send({"op": "done"})
                return
            try:
                reply = steps[message["op"]](message)
            except Exception as error:  # of the user's code: it becomes the requests' answer
                if not isinstance(error, pb_utils.TritonModelException):
                    traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}" if not isinstance(error, pb_utils.TritonModelException) else str(error)}
            reply["op"] = "done"
            self.connection.send(reply)


if __name__ == "__main__":
    Worker().run()
    sys.stderr.flush()
    os._exit(0)  # threads of the model's own do not keep the process
