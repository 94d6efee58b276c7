"""Measures an export behind a server: requests a second, latency, and losses.

    python scripts/maintain/benchmark_serving.py --model mini
    python scripts/maintain/benchmark_serving.py --model random-full --requests 32
    python scripts/maintain/benchmark_serving.py --url grpc://localhost:8500

Without --url, a model is exported and served, in a process of its own, by the
stand-in of the tests with the server's batching: what is measured is TensorFlow's
core with the server's rules, and Python's overhead for both ends of the wire.
Every request is a prompt of its own with its own options; its answer is compared
with the one it gets alone. It prints a table in Markdown.
"""

import argparse
import concurrent.futures
import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

from tf_gpt.serving import ServingClient, ServingError

STANDIN = pathlib.Path(__file__).resolve().parents[2] / "tests/serving/standin.py"
CONCURRENCY = (1, 8, 32)
BATCHING = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
pad_variable_length_inputs: true
"""


def export(name, folder):
    """Exports a preset, a folder, a Hub repository, or `random-full`: 116M weights."""
    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    from tf_gpt.serving import export_saved_model

    if name == "random-full":
        model = OpenAIGPTLMHeadModel(OpenAIGPTConfig())
    else:
        model = OpenAIGPTLMHeadModel.from_pretrained(name)
    export_saved_model(model, folder)
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"export: {n_bytes / 1e6:.0f} MB", flush=True)


@contextlib.contextmanager
def served(folder, batching):
    """Runs the stand-in; yields its gRPC and REST urls."""
    command = [
        sys.executable,
        str(STANDIN),
        "--model_name=gpt",
        f"--model_base_path={folder}",
        "--port=0",
    ]
    if batching:
        path = folder.parent / "batching.txt"
        path.write_text(BATCHING)
        command += ["--enable_batching", f"--batching_parameters_file={path}"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        print(f"loaded in {time.monotonic() - start:.1f} s", flush=True)
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        megabytes = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3
        print(f"memory of the server after loading: {megabytes:.0f} MB", flush=True)
        yield re.findall(r"\w+://\S+", line)
    finally:
        process.terminate()
        process.wait()


def requests_of(n, n_prompt, n_new, vocab_size):
    """Returns n requests: prompts around a length, every other one sampled."""
    rng = np.random.default_rng(0)
    return [
        {
            "prompts": [
                rng.integers(vocab_size, size=rng.integers(n_prompt // 2, n_prompt + 1))
            ],
            "max_new_tokens": n_new,
            "temperature": 0.8 * (i % 2),
            "top_k": 40 * (i % 2),
            "seed": i,
            "eos_token_id": -1,
        }
        for i in range(n)
    ]


def measure(client, requests, n_clients):
    """Returns (requests a second, latencies in seconds, answers or errors)."""

    def ask(request):
        start = time.perf_counter()
        try:
            answer = client.generate(**request)[0]
        except ServingError as error:
            answer = error
        return time.perf_counter() - start, answer

    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        start = time.perf_counter()
        results = list(pool.map(ask, requests))
        seconds = time.perf_counter() - start
    latencies, answers = zip(*results, strict=True)
    return len(requests) / seconds, np.array(latencies), answers


def compare(url, requests):
    """Prints the table of one url."""
    with ServingClient(url, timeout=600) as client:
        for request in requests[:2]:  # the first of each kind prepares the graph
            client.generate(**request)
        expected = None
        for n_clients in CONCURRENCY:
            rate, latencies, answers = measure(client, requests, n_clients)
            expected = expected or answers  # of one client: each was alone
            lost = sum(isinstance(answer, ServingError) for answer in answers)
            other = sum(a != b for a, b in zip(answers, expected, strict=True))
            median, late = np.percentile(latencies, [50, 99]) * 1e3
            cells = (
                url.partition(":")[0],
                n_clients,
                f"{rate:.1f}",
                f"{median:.0f}",
                f"{late:.0f}",
                lost,
                other,
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main():
    """Parses, exports, serves and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--url", action="append", help="a server that runs already")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=20)
    parser.add_argument("--no-batching", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        urls = given.url
        if not urls:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            folder = pathlib.Path(folder) / "gpt"
            export(given.model, folder)
            urls = stack.enter_context(served(folder, not given.no_batching))
        with ServingClient(urls[0]) as client:
            (logits,) = client.last_logits([[0]])
        sizes = given.prompt_tokens, given.new_tokens, len(logits)
        requests = requests_of(given.requests, *sizes)
        print(
            "| interface | clients | requests/s | median ms | 99th percentile ms |"
            " lost | other tokens |"
        )
        print("|---|---|---|---|---|---|---|")
        for url in urls:
            compare(url, requests)


if __name__ == "__main__":
    main()
