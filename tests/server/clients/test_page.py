#!/usr/bin/env python3
"""The live page in a browser, over a real server under load: what it shows, chatting, trying a model, its look on a phone.

usage: test_page.py [--screenshots FOLDER] [unittest arguments]; needs Chromium, websocket-client and the release build. With a FOLDER the
page is taken there as it looks at 1440 and 390 px: docs/images.
"""

import json
import pathlib
import sys
import threading
import time
import unittest

from browser import CHROMIUM, Browser
from server_process import MODELS, SHARED_MODELS, ServerProcess, wait_until

SCREENSHOTS = None


def sample(server, model):
    """A request that the model takes."""
    inputs = []
    for tensor in json.loads(server.get(f"/v2/models/{model}"))["inputs"]:
        shape = [max(d, 1) for d in tensor["shape"]]
        count = 1
        for d in shape:
            count *= d
        inputs.append({**tensor, "shape": shape, "data": [0.5] * count})
    return {"inputs": inputs}


class Load:
    """Requests from threads of its own, until stop()."""

    def __init__(self, server, llm):
        self.is_over = threading.Event()
        jobs = [(f"/v2/models/{model}/infer", sample(server, model), pause) for model, pause in (("digits", 0.03), ("vit", 0.2))]
        chat = {"model": llm, "messages": [{"role": "user", "content": "How do I list files?"}], "max_tokens": 48}
        jobs += [("/v1/chat/completions", chat, 0.01)] * 3
        self.threads = [threading.Thread(target=self._run, args=(server, *job), daemon=True) for job in jobs]
        for thread in self.threads:
            thread.start()

    def _run(self, server, path, body, pause):
        while not self.is_over.wait(pause):
            server.post(path, body)

    def stop(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(30)


@unittest.skipUnless(CHROMIUM, "no Chromium is installed")
class TestPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        large = SHARED_MODELS / "llm/llama2-docs-27m"
        cls.llm = "docs"
        cls.server = ServerProcess(f"digits={MODELS}/digits-resnet.ts", f"vit={MODELS}/vit.ts",
                                   f"docs={large if large.exists() else MODELS / 'llama3-docs-6m'}")
        cls.load = Load(cls.server, cls.llm)
        cls.browser = Browser()
        cls.browser.look(1440, 900)
        cls.browser.open(cls.server.url + "/")
        time.sleep(8)  # rates need some seconds

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.load.stop()
        cls.server.stop()

    def tile(self, name):
        return self.browser.run(f"[...document.querySelectorAll('.tile')].find(t => t.firstChild.textContent === '{name}').querySelector('b').textContent")

    def row(self, table, name):
        """A table's row as {column: text}."""
        return self.browser.run(f"""(() => {{
            const row = [...document.querySelectorAll('#{table} tr')].find(r => r.cells[0].textContent === '{name}');
            return Object.fromEntries([...row.cells].map(c => [c.dataset.name, c.textContent]));
        }})()""")

    def test_1_it_shows_what_happens(self):
        browser = self.browser
        self.assertIn("ready, 3 models", browser.run("document.querySelector('#state').textContent"))
        self.assertGreater(float(self.tile("requests/s")), 1)
        self.assertGreater(float(self.tile("output tokens/s").split()[0]), 1)
        for name in ("latency P99", "first token P95", "next token P95"):
            self.assertRegex(self.tile(name), r"^[\d.]+ ?ms$")
        self.assertRegex(self.tile("waiting"), r"^\d+$")
        has_gpu = "nv_gpu_utilization" in self.server.metrics()
        self.assertRegex(self.tile("GPU busy"), r"%$" if has_gpu else "^n/a$")
        self.assertRegex(self.tile("KV cache"), r"^[\d.]+ ?%$")
        digits = self.row("models", "digits")
        self.assertEqual(digits["state"], "READY")
        for column in ("requests/s", "P50 ms", "P99 ms", "queue ms", "compute ms", "batch"):
            self.assertGreater(float(digits[column]), 0, column)
        self.assertLessEqual(float(digits["P50 ms"]), float(digits["P99 ms"]))
        llm = self.row("llms", self.llm)
        for column in ("tokens/s", "first P50 ms", "first P99 ms", "next P50 ms", "whole P99 s", "running"):
            self.assertGreater(float(llm[column]), 0, column)

    def test_2_an_answer_is_streamed(self):
        browser = self.browser
        browser.type("#chat-text", "How do I copy a file?")
        browser.press_enter()
        lengths = set()
        wait_until(lambda: lengths.add(browser.run("(document.querySelector('#talk .user + div') || {textContent: ''}).textContent.length"))
                   or browser.run("/tokens in/.test((document.querySelector('#talk .note') || {textContent: ''}).textContent)"), 60, "the answer")
        self.assertGreater(len(lengths), 3, "it came in pieces")
        self.assertEqual(browser.run("document.querySelector('#talk .user').textContent"), "How do I copy a file?")
        self.assertEqual(browser.run("document.querySelector('#chat-send').textContent"), "Send")
        # A second one remembers the first, and stops when asked to.
        browser.run("document.querySelector('#chat-max').value = 300")
        browser.type("#chat-text", "And a folder?")
        browser.press_enter()
        wait_until(lambda: browser.run("document.querySelectorAll('#talk .user + div')[1]?.textContent.length > 10"), 60, "the second answer")
        browser.click("#chat-send")
        wait_until(lambda: browser.run("[...document.querySelectorAll('#talk .note')].at(-1).textContent") == "stopped", 20, "the stop")
        browser.run("document.querySelector('#chat-max').value = 128")
        wait_until(lambda: "abort\"} 0" not in self.server.metrics(), 20, "the server's word that the client left")

    def test_3_a_model_is_tried(self):
        browser = self.browser
        self.assertEqual(browser.run("[...document.querySelector('#try-model').options].map(o => o.value).sort()"), ["digits", "docs", "vit"])
        browser.run("document.querySelector('#try-model').value = 'digits'; document.querySelector('#try-model').onchange()")
        wait_until(lambda: browser.run("document.querySelector('#try-body').value.includes('image')"), 20, "the sample")
        browser.click("#try button")
        wait_until(lambda: browser.run("/^200 in/.test(document.querySelector('#try-time').textContent)"), 20, "the answer")
        self.assertIn('"logits"', browser.run("document.querySelector('#try-answer').textContent"))

    def test_4_it_looks_well(self):
        browser = self.browser
        for width, height, ratio in ((1440, 900, 1), (1000, 800, 1), (390, 1200, 2)):
            browser.look(width, height, pixel_ratio=ratio)
            time.sleep(1.5)
            self.assertEqual(browser.run("document.documentElement.scrollWidth"), width, "no horizontal scrolling")
            cut = browser.run("[...document.querySelectorAll('td, .tile b, button')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)")
            self.assertEqual(cut, [], f"cut off at {width} px")
            if SCREENSHOTS and width != 1000:
                browser.run("scrollTo(0, 0)")
                browser.screenshot(SCREENSHOTS / f"server-{'desktop' if width > 500 else 'phone'}.png", whole=width > 500)
        # What is there does not move while numbers change.
        places = "JSON.stringify([...document.querySelectorAll('.tile, td, th, section')].map(e => [e.offsetLeft, e.offsetTop, e.offsetWidth]))"
        before = browser.run(places)
        time.sleep(3)
        self.assertEqual(browser.run(places), before)
        browser.look(1440, 900, dark=True)
        self.assertNotEqual(browser.run("getComputedStyle(document.body).backgroundColor"), "rgb(244, 246, 248)")

    def test_5_nothing_is_wrong_and_nobody_else_is_asked(self):
        self.assertEqual(self.browser.problems, [])
        outside = [u for u in self.browser.urls if not u.startswith((self.server.url, "data:"))]
        self.assertEqual(outside, [])
        self.assertGreater(len(self.browser.urls), 10)


if __name__ == "__main__":
    if "--screenshots" in sys.argv:
        at = sys.argv.index("--screenshots")
        SCREENSHOTS = pathlib.Path(sys.argv[at + 1])
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        del sys.argv[at:at + 2]
    unittest.main(verbosity=2)
