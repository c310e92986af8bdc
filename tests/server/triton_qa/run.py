#!/usr/bin/env python3
"""What Triton's own qa directories observe, re-created as checks of `tokamak serve` through unmodified clients (tritonclient, sockets).

usage: run.py [--server COMMAND] [--only REGEX] [--table FILE]

Needs tritonclient[all], numpy and onnx; python models run with the interpreter that runs this. --table writes the page
docs/triton-compatibility.md: one row for each directory of Triton's qa.
"""

import argparse
import os
import pathlib
import shlex
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # python models run with this interpreter

import data_path  # noqa: E402
import harness  # noqa: E402
import lifecycle  # noqa: E402
import protocol  # noqa: E402
import scheduling  # noqa: E402

HEAD = """# What Triton's tests observe, checked here

Written by `tests/server/triton_qa/run.py --table`, which `./dev clients` runs: tritonclient (HTTP and gRPC, sync, asyncio and streams) and plain sockets
against `tokamak serve`. A row is a directory of Triton's qa folder; the checks are our own, of what can be seen from outside.

"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="the command, without the flags of a check")
    parser.add_argument("--only", help="checks whose directory and text match")
    parser.add_argument("--table", help="write the table to this file")
    options = parser.parse_args()
    if options.server:
        harness.COMMAND = shlex.split(options.server)
    failed = harness.run([data_path, scheduling, protocol, lifecycle], options.only)
    checked = [b for b in harness.BEHAVIOURS if options.only is None or b.ran]
    print(f"{len(checked)} behaviours, {len(checked) - len(failed)} passed")
    for b in failed:
        print(f"FAILED {b.directory}: {b.text}\n    {b.error}")
    if options.table:
        pathlib.Path(options.table).write_text(HEAD + harness.table())
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
