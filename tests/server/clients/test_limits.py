#!/usr/bin/env python3
"""What `tokamak serve` does with clients that are many, slow, large or gone, and how it ends under load.

usage: test_limits.py [unittest arguments]; needs tritonclient[grpc], numpy and the release build.
"""

import json
import resource
import signal
import socket
import threading
import time
import unittest
import urllib.request

import numpy as np
import tritonclient.grpc as triton

from server_process import MODELS, ServerProcess, wait_until

LLM = f"docs={MODELS}/llama3-docs-6m"
DIGITS = f"digits={MODELS}/digits-resnet.ts"
NUM_CONNECTIONS = 10_000


def read_all(connection):
    pieces = []
    while True:
        piece = connection.recv(65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def ask(connection, path="/v2/health/live", method="GET", body=b"", more=""):
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class TestCase(unittest.TestCase):
    def connect(self, server):
        connection = socket.create_connection(("127.0.0.1", server.ports["HTTPService"]), timeout=20)
        self.addCleanup(connection.close)
        return connection


class TestLimits(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess(DIGITS, LLM, "--header-timeout-secs", "2", "--body-timeout-secs", "2", "--idle-timeout-secs", "60",
                                   "--http-max-input-size", "1M")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def check_it_serves(self, seconds=5):
        begin = time.monotonic()
        self.assertIn("docs", self.server.get("/v1/models"))
        self.assertLess(time.monotonic() - begin, seconds)

    def test_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < NUM_CONNECTIONS + 100:
            self.skipTest(f"the limit of open files is {hard}: {NUM_CONNECTIONS} connections cannot be made")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        connections = []
        try:
            before = resident_bytes(self.server)
            for number in range(NUM_CONNECTIONS):
                connections.append(self.connect(self.server))
                if number % 1000 == 0:
                    ask(connections[-1])  # some have had an answer
            self.check_it_serves()
            each = (resident_bytes(self.server) - before) / NUM_CONNECTIONS
            print(f"\n{NUM_CONNECTIONS} idle connections: {each / 1024:.1f} KiB each")
            self.assertLess(each, 64 << 10)
            for connection in connections[::997]:
                ask(connection)
                self.assertIn(b"200 OK", connection.recv(4096))
            self.check_it_serves()
        finally:
            for connection in connections:
                connection.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.check_it_serves()

    def test_slow_headers_and_bodies_are_closed_and_others_served(self):
        slow = [self.connect(self.server) for _ in range(200)]
        for i, connection in enumerate(slow):
            connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: " if i % 2 else b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
        begin = time.monotonic()
        open_ones = set(slow)
        while open_ones and time.monotonic() - begin < 15:
            for connection in list(open_ones):
                try:
                    if slow.index(connection) % 2:
                        connection.sendall(b"a")  # a header that goes on for ever
                    connection.settimeout(0.001)
                    if connection.recv(100) == b"":
                        open_ones.remove(connection)
                except TimeoutError:
                    pass
                except OSError:
                    open_ones.remove(connection)
            self.check_it_serves()
            time.sleep(0.2)
        self.assertEqual(len(open_ones), 0)
        self.assertGreater(time.monotonic() - begin, 1.5)

    def test_a_client_that_closes_its_half(self):
        """It gets what is there at once. Longer work is cancelled: who leaves altogether looks the same, and must not cost anything."""
        connection = self.connect(self.server)
        ask(connection, "/v1/models", more="Connection: close\r\n")
        connection.shutdown(socket.SHUT_WR)
        self.assertIn(b'"docs"', read_all(connection))
        connection = self.connect(self.server)
        ask(connection, "/v1/completions", "POST", json.dumps({"model": "docs", "prompt": "The", "max_tokens": 400, "ignore_eos": True}).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = read_all(connection)
        self.assertIn(b"499", answer.split(b"\r\n")[0])
        self.assertIn(b"the client closed", answer)

    def test_sizes_are_bounded(self):
        for head, status in ((b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"431"),
                             (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
                             (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000, b"413"),
                             (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
                             (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400")):  # TLS to a port without it
            connection = self.connect(self.server)
            try:
                connection.sendall(head)
            except OSError:
                pass  # refused before all of it was sent
            self.assertIn(status, connection.recv(200).split(b"\r\n")[0], head[:40])
            connection.close()
        self.check_it_serves()

    def test_clients_that_leave_cost_nothing(self):
        def blocks_used():
            text = self.server.metrics()
            return float(next(l for l in text.splitlines() if l.startswith("tokamak:llm_kv_blocks_used")).split()[-1])

        for _ in range(20):
            connection = self.connect(self.server)
            ask(connection, "/v1/completions", "POST", json.dumps({"model": "docs", "prompt": "The", "max_tokens": 400, "stream": True,
                                                                  "ignore_eos": True}).encode())
            connection.recv(200)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a good-bye
            connection.close()
        wait_until(lambda: blocks_used() == 0, 20, "an empty KV cache")
        self.check_it_serves()


class TestMaxConnections(TestCase):
    def test_more_are_turned_away(self):
        server = ServerProcess(DIGITS, "--max-connections", "5")
        try:
            held = [self.connect(server) for _ in range(5)]
            for connection in held:
                ask(connection)
                connection.recv(4096)
            extra = self.connect(server)
            self.assertIn(b"503", read_all(extra))
            held[0].close()
            wait_until(lambda: b"200 OK" in self.answer(server), 10, "a free place")
        finally:
            server.stop()

    def answer(self, server):
        with self.connect(server) as connection:
            try:
                ask(connection, more="Connection: close\r\n")
                return read_all(connection)
            except OSError:
                return b""


class TestDrain(TestCase):
    """SIGTERM while answers are on their way, over both protocols."""

    def test_what_is_in_flight_finishes(self):
        server = ServerProcess(DIGITS, LLM, "--exit-timeout-secs", "60")
        results = {"http": [], "grpc": [], "whole": []}
        begun = threading.Barrier(17)

        def stream(number):
            body = {"model": "docs", "prompt": "The ls command", "max_tokens": 300, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
            request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                first = answer.readline()
                begun.wait(60)
                text = (first + answer.read()).decode()
            results["http"].append("[DONE]" in text and '"completion_tokens":300' in text)

        def whole(number):
            body = {"model": "docs", "prompt": "The cp command", "max_tokens": 300, "ignore_eos": True}
            begun.wait(60)
            answer, _ = server.post("/v1/completions", body)
            results["whole"].append(answer["usage"]["completion_tokens"] == 300)

        def grpc(number):
            client = triton.InferenceServerClient(server.grpc)
            found = []
            client.start_stream(lambda result, error: found.append(error or result))
            inputs = [triton.InferInput("text_input", [1], "BYTES"), triton.InferInput("sampling_parameters", [1], "BYTES"), triton.InferInput("stream", [1], "BOOL")]
            inputs[0].set_data_from_numpy(np.array([b"The mv command"], object))
            inputs[1].set_data_from_numpy(np.array([b'{"max_tokens": 300, "ignore_eos": true}'], object))
            inputs[2].set_data_from_numpy(np.array([True]))
            client.async_stream_infer("docs", inputs, enable_empty_final_response=True)
            wait_until(lambda: found, 60, "a first response")
            begun.wait(60)
            # Then the stream itself ends with UNAVAILABLE: its client should find another server.
            wait_until(lambda: isinstance(found[-1], Exception), 100, "the end of the stream")
            is_final = [r.get_response().parameters["triton_final_response"].bool_param for r in found[:-1]]
            results["grpc"].append(is_final[-1] and not any(is_final[:-1]) and "shutting down" in str(found[-1]))
            client.stop_stream()
            client.close()

        threads = [threading.Thread(target=kind, args=(i,)) for kind, count in ((stream, 8), (whole, 4), (grpc, 4)) for i in range(count)]
        for thread in threads:
            thread.start()
        begun.wait(60)
        time.sleep(0.2)  # the whole ones are under way
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("finishing what is in flight")
        wait_until(lambda: self.is_refused(server), 10, "new connections refused")
        for thread in threads:
            thread.join(120)
        self.assertEqual(results, {"http": [True] * 8, "whole": [True] * 4, "grpc": [True] * 4})
        self.assertEqual(server.process.wait(60), 0)
        server.stop()
        self.assertTrue(any("stopped" in line for line in server.log[-5:]))

    def is_refused(self, server):
        try:
            self.connect(server).close()
            return False
        except OSError:
            return True

    def test_it_does_not_wait_for_ever(self):
        server = ServerProcess(LLM, "--exit-timeout-secs", "1")
        connection = self.connect(server)
        ask(connection, "/v1/completions", "POST", json.dumps({"model": "docs", "prompt": "The", "max_tokens": 100000, "ignore_eos": True, "stream": True,
                                                              "n": 8}).encode())
        connection.recv(100)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        self.assertLess(time.monotonic() - begin, 10)
        server.stop()


if __name__ == "__main__":
    unittest.main(verbosity=2)
