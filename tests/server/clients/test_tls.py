#!/usr/bin/env python3
"""`tokamak serve` with TLS, HTTP and gRPC, judged by Python's ssl, the openai client, tritonclient and grpcio.

usage: test_tls.py [unittest arguments]; needs openssl, openai, tritonclient[all], numpy and the release build.
"""

import pathlib
import socket
import ssl
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import grpc
import numpy as np
import openai
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from server_process import MODELS, ServerProcess

LLM = f"docs={MODELS}/llama3-docs-6m"
DIGITS = f"digits={MODELS}/digits-resnet.ts"
DIGITS_SHAPE = [1, 1, 32, 32]


def make_certificates(folder):
    """An authority, and certificates of it for the server and a client; and another authority with a client."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for authority in ("ca", "other-ca"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={authority}",
                "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other-ca")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.csr")
        openssl("x509", "-req", "-days", "2", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
                "-extfile", "names", "-out", f"{name}.pem")


def client_context(ca, client=None):
    context = ssl.create_default_context(cafile=str(ca))
    if client:
        context.load_cert_chain(client.with_suffix(".pem"), client.with_suffix(".key"))
    return context


class TestTls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.files.name)
        make_certificates(cls.folder)
        tls = ["--tls-cert", cls.folder / "server.pem", "--tls-key", cls.folder / "server.key"]
        cls.server = ServerProcess(LLM, DIGITS, *tls, scheme="https")
        cls.mutual = ServerProcess(LLM, DIGITS, *tls, "--tls-client-ca", cls.folder / "ca.pem", scheme="https")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.mutual.stop()
        cls.files.cleanup()

    def get(self, server, context):
        with urllib.request.urlopen(f"{server.url}/v2/models/digits", context=context, timeout=20) as answer:
            return answer.read()

    def test_http(self):
        self.assertIn(b"digits", self.get(self.server, client_context(self.folder / "ca.pem")))
        with self.assertRaises(urllib.error.URLError) as refused:  # who trusts another authority
            self.get(self.server, client_context(self.folder / "other-ca.pem"))
        self.assertIn("CERTIFICATE_VERIFY_FAILED", str(refused.exception))

    def test_streams_and_large_bodies(self):
        with openai.DefaultHttpxClient(verify=client_context(self.folder / "ca.pem")) as transport:
            client = openai.OpenAI(base_url=self.server.url + "/v1", api_key="none", http_client=transport)
            pieces = [c.choices[0].text for c in client.completions.create(model="docs", prompt="The ls command", max_tokens=32, stream=True) if c.choices]
            self.assertGreater(len(pieces), 4)
        context = client_context(self.folder / "ca.pem")
        client = triton_http.InferenceServerClient(self.server.url.removeprefix("https://"), ssl=True, ssl_context_factory=lambda: context)
        rows = 4
        images = np.random.default_rng(0).random((rows, *DIGITS_SHAPE[1:]), np.float32)
        tensor = triton_http.InferInput("image", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images)
        for _ in range(20):
            self.assertEqual(client.infer("digits", [tensor]).as_numpy("logits").shape, (rows, 10))
        client.close()

    def test_plain_clients_and_old_versions_are_refused(self):
        with socket.create_connection(("127.0.0.1", self.server.ports["HTTPService"]), timeout=10) as plain:
            plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertNotIn(b"200", plain.recv(1000))
        old = client_context(self.folder / "ca.pem")
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with self.assertRaises((urllib.error.URLError, ssl.SSLError)):
            self.get(self.server, old)
        self.get(self.server, client_context(self.folder / "ca.pem"))

    def test_mutual_http(self):
        ca = self.folder / "ca.pem"
        self.assertIn(b"digits", self.get(self.mutual, client_context(ca, self.folder / "client")))
        for nobody in (None, self.folder / "stranger"):
            with self.assertRaises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                self.get(self.mutual, client_context(ca, nobody))

    def infer_grpc(self, server, **files):
        client = triton_grpc.InferenceServerClient(server.grpc, ssl=True, **{k: str(self.folder / v) for k, v in files.items()})
        try:
            tensor = triton_grpc.InferInput("image", DIGITS_SHAPE, "FP32")
            tensor.set_data_from_numpy(np.zeros(DIGITS_SHAPE, np.float32))
            return client.infer("digits", [tensor], client_timeout=10).as_numpy("logits").shape
        finally:
            client.close()

    def test_grpc(self):
        self.assertEqual(self.infer_grpc(self.server, root_certificates="ca.pem"), (1, 10))
        with self.assertRaises(triton_grpc.InferenceServerException):
            self.infer_grpc(self.server, root_certificates="other-ca.pem")

    def test_mutual_grpc(self):
        self.assertEqual(self.infer_grpc(self.mutual, root_certificates="ca.pem", private_key="client.key", certificate_chain="client.pem"), (1, 10))
        with self.assertRaises(triton_grpc.InferenceServerException):
            self.infer_grpc(self.mutual, root_certificates="ca.pem")
        with self.assertRaises(triton_grpc.InferenceServerException):
            self.infer_grpc(self.mutual, root_certificates="ca.pem", private_key="stranger.key", certificate_chain="stranger.pem")
        with grpc.insecure_channel(self.mutual.grpc) as channel, self.assertRaises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=2)

    def test_files_that_do_not_fit_are_told_at_the_start(self):
        for arguments, words in ((["--tls-cert", "server.pem", "--tls-key", "client.key"], "belong together"),
                                 (["--tls-cert", "server.pem", "--tls-key", "names"], "belong together"),
                                 (["--tls-cert", "server.pem"], "TLS needs both --tls-cert and --tls-key")):
            paths = [a if a.startswith("--") else self.folder / a for a in arguments]
            with self.assertRaises(RuntimeError) as raised:
                ServerProcess(DIGITS, *paths)
            self.assertIn(words, str(raised.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)
