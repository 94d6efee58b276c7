"""Measures LiteRT on a CPU beside llama.cpp and CTranslate2, in one run.

    python scripts/maintain/benchmark_litert.py \\
        --peer llama-cpp=/path/to/venv/bin/python \\
        --peer ctranslate2=/path/to/venv/bin/python --out litert.md
    python scripts/maintain/benchmark_litert.py --perplexity TEXTS.txt.xz

The first decodes greedily at batch 1 with random weights of GPT-1's sizes; the others
run GPT-2's architecture with the same sizes. Each model file is written beforehand, by
another process, so that the peak of memory is that of running it. The time to the
first token is that of the prompt and one token. Contestants take turns, as in
benchmark.py; figures are medians.

The second prints the perplexity of the bundled model on lines of text, in float32,
float16 and int8.
"""

import argparse
import datetime
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import benchmark

# GPT-1's, for all of them.
benchmark.GPT2_VOCABULARY = benchmark.GPT1_VOCABULARY
FILES = "BENCHMARK_LITERT_FILES"  # environment variable: the folder of model files

DESCRIPTIONS = {
    "litert-float32": "tf_gpt on LiteRT, float32",
    "litert-int8": "tf_gpt on LiteRT, int8",
    "llama-cpp-f32": "llama.cpp, f32",
    "llama-cpp-q8_0": "llama.cpp, q8_0",
    "ctranslate2-float32": "CTranslate2, float32",
    "ctranslate2-int8": "CTranslate2, int8",
}
# Whose Python: what stands before the last hyphen.
PEERS = ("llama-cpp", "ctranslate2")


# Each writes the files of two contestants into a folder.


def prepare_litert(folder):
    sys.path.insert(0, str(benchmark.ROOT))
    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    from tf_gpt.serving import export_litert

    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig())
    export_litert(model, folder / "float32.tflite")
    export_litert(model, folder / "int8.tflite", "int8")


def prepare_llama_cpp(folder):
    import llama_cpp

    benchmark._write_gguf(folder / "f32.gguf")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    failed = llama_cpp.llama_model_quantize(
        str(folder / "f32.gguf").encode(),
        str(folder / "q8_0.gguf").encode(),
        parameters,
    )
    if failed:
        raise SystemExit("llama.cpp could not quantize the model")


def prepare_ctranslate2(folder):
    from ctranslate2.converters import TransformersConverter
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=benchmark.GPT1_VOCABULARY,
        n_positions=benchmark.SIZES["n_positions"],
        bos_token_id=benchmark.GPT1_VOCABULARY - 1,
        eos_token_id=benchmark.GPT1_VOCABULARY - 1,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "torch")
    benchmark._write_gpt2_vocabulary(folder / "torch")
    for kind in ("float32", "int8"):
        converter = TransformersConverter(str(folder / "torch"))
        converter.convert(str(folder / kind), quantization=kind)


PREPARE = {
    "litert": prepare_litert,
    "llama-cpp": prepare_llama_cpp,
    "ctranslate2": prepare_ctranslate2,
}


# Each returns `(generate, bytes of the file)`, as in benchmark.py.


def make_litert(path):
    sys.path.insert(0, str(benchmark.ROOT))
    from tf_gpt.serving import LiteRTGenerator

    # As from the second start on: the packed weights are there.
    generator = LiteRTGenerator(path, cache_dir=path.parent / "packed")

    def generate(ids, n_new):
        return generator.generate(ids, max_new_tokens=n_new, eos_token_id=None)

    return generate, path.stat().st_size


def make_llama_cpp(path):
    import llama_cpp

    model = llama_cpp.Llama(
        str(path),
        n_ctx=benchmark.SIZES["n_positions"],
        n_threads=os.cpu_count(),
        n_threads_batch=os.cpu_count(),
        verbose=False,
    )

    def generate(ids, n_new):
        model.reset()
        made = []
        for token in model.generate(ids[0].tolist(), top_k=1, temp=0.0):
            made.append(token)
            if len(made) == n_new:
                return np.array([made])

    return generate, path.stat().st_size


def make_ctranslate2(path):
    import ctranslate2

    generator = ctranslate2.Generator(
        str(path), inter_threads=1, intra_threads=os.cpu_count(), compute_type=path.name
    )

    def generate(ids, n_new):
        results = generator.generate_batch(
            [[f"<t{i}>" for i in ids[0]]],
            max_length=n_new,
            min_length=n_new,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return np.array([results[0].sequences_ids[0]])

    return generate, (path / "model.bin").stat().st_size


def make(name):
    library, kind = name.rsplit("-", 1)
    folder = pathlib.Path(os.environ[FILES]) / library
    if library == "litert":
        return make_litert(folder / f"{kind}.tflite")
    if library == "llama-cpp":
        return make_llama_cpp(folder / f"{kind}.gguf")
    return make_ctranslate2(folder / kind)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worker", choices=DESCRIPTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", choices=PREPARE, help=argparse.SUPPRESS)
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"a library and its Python; names: {', '.join(PEERS)}",
    )
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--files", type=pathlib.Path, help="keep the model files here for the next run"
    )
    parser.add_argument("--perplexity", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--max-lines", type=int, default=200, help="of the texts")
    parser.add_argument("--out", type=pathlib.Path, help="write the Markdown here too")
    arguments = parser.parse_args()
    if arguments.worker:
        benchmark.MAKERS[arguments.worker] = lambda: make(arguments.worker)
        return benchmark.work(arguments.worker)
    if arguments.prepare:
        return PREPARE[arguments.prepare](arguments.files)
    if arguments.perplexity:
        text = perplexity(arguments.perplexity, arguments.max_lines)
    elif arguments.files:
        text = speed(arguments, arguments.files)
    else:
        with tempfile.TemporaryDirectory() as folder:
            text = speed(arguments, pathlib.Path(folder))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def speed(arguments, folder):
    """Returns the Markdown of speed, first token and memory."""
    pythons = {"litert": sys.executable}
    pythons.update(peer.split("=", 1) for peer in arguments.peer)
    for library, python in pythons.items():
        if not (folder / library).is_dir():
            _log(f"writing the files of {library}")
            (folder / library).mkdir(parents=True)
            command = [python, __file__, "--prepare", library, "--files"]
            subprocess.run([*command, folder / library], check=True, stdout=sys.stderr)
    names = [n for n in DESCRIPTIONS if n.rsplit("-", 1)[0] in pythons]

    def start(name):
        _log(f"loading {name}")
        python = pythons[name.rsplit("-", 1)[0]]
        return benchmark.Contestant(name, python, __file__, **{FILES: str(folder)})

    for name in names:
        if name.startswith("litert"):
            start(name).close()  # packs the weights
    contestants = [start(name) for name in names]
    cases = {
        "all": (1, arguments.prompt, arguments.new),
        "first": (1, arguments.prompt, 1),
    }
    seconds = {(name, case): [] for name in names for case in cases}
    arrays = [np.ones(2**26, "float32") for _ in range(os.cpu_count())]
    bandwidths = []
    for repetition in range(-1, arguments.repetitions):
        bandwidths.append(benchmark.bandwidth(len(arrays), arrays))
        for contestant in contestants:
            for case, order in cases.items():
                taken = contestant.seconds(*order)
                _log(f"{repetition} {contestant.name} {case} {taken:.3f}")
                if repetition >= 0:  # the first warms up
                    seconds[contestant.name, case].append(taken)
    for contestant in contestants:
        contestant.close()
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return table(contestants, medians, bandwidths, arguments)


def table(contestants, medians, bandwidths, arguments):
    memory = statistics.median(bandwidths)
    header = ["", "tokens/s", "of the limit", "first token, ms", "load s"]
    header += ["file MB", "peak MB"]
    lines = [
        f"Prompt {arguments.prompt}, {arguments.new} new tokens, greedy, batch 1, "
        f"random weights of GPT-1's sizes; {datetime.date.today()}, "
        f"{benchmark._cpu()}, {os.cpu_count()} threads. Memory read: "
        f"{memory / 1e9:.1f} GB/s (from {min(bandwidths) / 1e9:.1f} to "
        f"{max(bandwidths) / 1e9:.1f} between the repetitions).",
        "",
        benchmark._row(header),
        benchmark._row(["---"] * len(header)),
    ]
    for contestant in contestants:
        rate = arguments.new / medians[contestant.name, "all"]
        cells = [
            DESCRIPTIONS[contestant.name],
            f"{rate:.1f}",
            f"{rate * contestant.bytes / memory:.2f}",
            f"{1000 * medians[contestant.name, 'first']:.0f}",
            f"{contestant.load_s:.2f}",
            f"{contestant.bytes / 1e6:.0f}",
            f"{contestant.peak / 1e6:.0f}",
        ]
        lines.append(benchmark._row(cells))
    return "\n".join(lines) + "\n"


def perplexity(path, max_lines):
    """Returns the Markdown of the bundled model's perplexity in each form."""
    sys.path.insert(0, str(benchmark.ROOT))
    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
    from tf_gpt.serving import LiteRTGenerator, export_litert
    from tf_gpt.tokenization.corpus import read_lines

    model = OpenAIGPTLMHeadModel.from_pretrained("mini")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    texts = [line.text for line in read_lines(path) if line.text.strip()][:max_lines]
    rows = [row[: model.config.n_positions] for row in tokenizer(texts)["input_ids"]]
    rows = [row for row in rows if len(row) > 1]
    n_scored = sum(len(row) - 1 for row in rows)
    lines = [
        f"{path.name}: {len(rows)} lines, {n_scored} tokens scored.",
        "",
        benchmark._row(["mini", "file MB", "perplexity", "beside float32"]),
        benchmark._row(["---"] * 4),
    ]
    first = None
    with tempfile.TemporaryDirectory() as folder:
        for kind in (None, "float16", "int8"):
            file = export_litert(model, pathlib.Path(folder) / "m.tflite", kind)
            generator = LiteRTGenerator(file)
            loss = sum(_loss(generator.logits(row), row) for row in rows) / n_scored
            first = loss if first is None else first
            cells = [kind or "float32", f"{file.stat().st_size / 1e6:.1f}"]
            cells += [f"{np.exp(loss):.3f}", f"{100 * np.expm1(loss - first):+.2f} %"]
            lines.append(benchmark._row(cells))
            _log(lines[-1])
    return "\n".join(lines) + "\n"


def _loss(logits, row):
    logits = logits[:-1].astype("float64")
    logits -= logits.max(axis=1, keepdims=True)
    of_next = logits[np.arange(len(row) - 1), row[1:]]
    return (np.log(np.exp(logits).sum(axis=1)) - of_next).sum()


def _log(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
