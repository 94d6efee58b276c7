"""Big text files to shards of ids, in several processes.

    tokenize_file("books.txt.xz", "books-ids", tokenizer)
    arrays = load_shards("books-ids")      # memory-mapped NumPy arrays

A directory of shards has an `index.json` that says how it was made and which
shards are whole. A run that was stopped goes on where it was.
"""

import bz2
import collections
import concurrent.futures
import gzip
import itertools
import lzma
import multiprocessing
import os
import pathlib
import zlib
from typing import NamedTuple

import numpy as np

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files

INDEX = "index.json"
FORMATS = ("npy", "tfrecord")
DOCUMENTS = ("lines", "paragraphs")

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}

_tokenizer = None  # of a worker process


def tokenize_file(
    path,
    output_dir,
    tokenizer,
    *,
    file_format="npy",
    documents="lines",
    end_token=None,
    shard_bytes=8_000_000,
    num_workers=None,
    overwrite=False,
    progress=False,
):
    """Writes the ids of a text file as shards.

    Args:
        path: A UTF-8 text file, plain or compressed (.gz, .xz, .bz2).
        output_dir: Directory for the shards; created if it is missing.
        tokenizer: `OpenAIGPTTokenizer` or `OpenAIGPTTokenizerFast`.
        file_format: "npy": one array of all ids of a shard, uint16 where they
            fit and int32 otherwise. "tfrecord": one `tf.train.Example` for each
            document, with `input_ids`.
        documents: "lines": each line is a document. "paragraphs": documents
            stand between empty lines, and their line breaks are kept. Documents
            without a token are left out.
        end_token: A token to put after each document, or None.
        shard_bytes: Bytes of text for each shard, about.
        num_workers: Processes; by default one for each processor. 1 works in
            this process.
        overwrite: Whether to start anew where another run's shards are.
        progress: Whether to show a progress bar on standard error.

    Returns:
        Dict with `shards`, `documents`, `tokens` (how many of each) and `path`.

    Raises:
        TokenizerError: If an argument is of no use, the file is not UTF-8, or
            `output_dir` holds the shards of another run.
        OSError: If the file cannot be read.
    """
    check_choice("file_format", file_format, FORMATS)
    check_choice("documents", documents, DOCUMENTS)
    for name, value in (("shard_bytes", shard_bytes), ("num_workers", num_workers)):
        if value is not None and value < 1:
            raise TokenizerError(f"`{name}` must be 1 or more. Received: {value!r}.")
    if end_token is not None and end_token not in tokenizer.get_vocab():
        raise TokenizerError(
            f"`end_token` must be in the vocabulary. Received: {end_token!r}."
        )
    path, output_dir = pathlib.Path(path), pathlib.Path(output_dir)
    made_from = {
        "source": path.name,
        "source_bytes": path.stat().st_size,
        "source_modified": path.stat().st_mtime_ns,
        "file_format": file_format,
        "documents": documents,
        "end_token": end_token,
        "shard_bytes": shard_bytes,
        "tokenizer": type(tokenizer).__name__,
        "pre_tokenizer": tokenizer.pre_tokenizer,
        "n_tokens": len(tokenizer),
        "dtype": "uint16" if len(tokenizer) <= 2**16 else "int32",
    }
    index = _start(output_dir, made_from, overwrite)
    job = {
        "end_id": None
        if end_token is None
        else tokenizer.convert_tokens_to_ids(end_token),
        "dtype": made_from["dtype"],
        "file_format": file_format,
    }
    n_workers = num_workers or os.cpu_count() or 1
    with _bar(path, progress) as bar, _Workers(n_workers, tokenizer) as submit:
        running = collections.deque()
        for number, (texts, position) in enumerate(
            _batches(path, documents, shard_bytes)
        ):
            name = f"{path.name.split('.')[0]}-{number:05d}.{file_format}"
            if name in index["shards"]:
                bar.update(position - bar.n)
                continue
            # A few in advance keep every worker busy; more would fill the memory.
            if len(running) > n_workers:
                _finish(output_dir, index, bar, *running.popleft())
            future = submit(_write_shard, output_dir / name, texts, job)
            running.append((name, future, position))
        while running:
            _finish(output_dir, index, bar, *running.popleft())
        index["complete"] = True
        files.write(output_dir, {INDEX: files.dump_json(index)})
    counts = index["shards"].values()
    return {
        "path": str(output_dir),
        "shards": len(counts),
        "documents": sum(shard["documents"] for shard in counts),
        "tokens": sum(shard["tokens"] for shard in counts),
    }


def load_shards(directory):
    """Returns the arrays of a directory of "npy" shards, memory-mapped, in order.

    Raises:
        TokenizerError: If the directory is none, or its shards are not whole.
    """
    directory = pathlib.Path(directory)
    index = files.read_json(directory / INDEX)
    if not index.get("complete"):
        raise TokenizerError(
            "The shards must be whole: run `tokenize_file` again, and it goes on. "
            f"Received: {str(directory)!r} with {len(index.get('shards', ()))} shards."
        )
    if index["made_from"]["file_format"] != "npy":
        raise TokenizerError(
            "Only 'npy' shards are arrays; read TFRecords with "
            f"`tf.data.TFRecordDataset`. Received: {str(directory)!r}."
        )
    return [
        np.load(directory / name, mmap_mode="r") for name in sorted(index["shards"])
    ]


class Text(NamedTuple):
    """A line, or a document, of a text file.

    Entries:
        text: Without the line break at its end.
        line: The number of its (first) line, from 1.
        n_bytes: Its size in bytes, uncompressed, with its line breaks.
        position: Bytes of the file that have been read so far.
    """

    text: str
    line: int
    n_bytes: int
    position: int


def read_lines(path):
    """Yields each line of a UTF-8 file, plain or compressed, as a `Text`.

    Args:
        path: The file; .gz, .xz and .bz2 are unpacked.

    Raises:
        TokenizerError: If a line is not UTF-8, or the packing is damaged.
        OSError: If the file cannot be read.
    """
    opener = _OPENERS.get(pathlib.Path(path).suffix)
    with open(path, "rb") as raw:
        number = 0
        try:
            for number, line in enumerate(opener(raw) if opener else raw, 1):
                # Not rstrip(): it would take other white space too.
                text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
                yield Text(text, number, len(line), raw.tell())
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"A text file must be UTF-8. Received: line {number} of "
                f"{str(path)!r}: {error}."
            ) from error
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            # An error of the system has a number; one of the packing has none.
            if getattr(error, "errno", None) is not None:
                raise
            raise TokenizerError(
                f"A compressed file must be whole. Received: {str(path)!r}, damaged "
                f"after line {number}: {error}."
            ) from error


def read_documents(path, documents="lines"):
    """Yields each document of a UTF-8 file, plain or compressed, as a `Text`.

    Args:
        path: As for `read_lines`.
        documents: "lines": each line is a document. "paragraphs": documents
            stand between empty lines, and their line breaks are kept. Either
            way there are empty documents where empty lines follow each other.

    Raises:
        TokenizerError: As `read_lines`, and if `documents` is neither.
        OSError: If the file cannot be read.
    """
    check_choice("documents", documents, DOCUMENTS)
    if documents == "lines":
        yield from read_lines(path)
        return
    lines = []
    for line in read_lines(path):
        lines.append(line)
        if not line.text.strip():
            yield _document(lines[:-1], lines)
            lines = []
    if lines:
        yield _document(lines, lines)


def _document(lines, read):
    """Returns the document of some lines; `read` has the empty one after it too."""
    return Text(
        text="\n".join(line.text for line in lines),
        line=read[0].line,
        n_bytes=sum(line.n_bytes for line in read),
        position=read[-1].position,
    )


def check_choice(name, value, choices):
    """Raises TokenizerError unless `value` is one of `choices`."""
    if value not in choices:
        raise TokenizerError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}."
        )


def _start(output_dir, made_from, overwrite):
    """Returns the index to go on from."""
    if (output_dir / INDEX).exists() and not overwrite:
        index = files.read_json(output_dir / INDEX)
        if index.get("made_from") != made_from:
            raise TokenizerError(
                "`output_dir` holds shards that were made otherwise; pass "
                "`overwrite=True` or another directory. Received: "
                f"{str(output_dir)!r}, made from {index.get('made_from')}; asked for "
                f"{made_from}."
            )
        there = {n: s for n, s in index["shards"].items() if (output_dir / n).exists()}
        return {**index, "shards": there, "complete": False}
    index = {"made_from": made_from, "shards": {}, "complete": False}
    files.write(output_dir, {INDEX: files.dump_json(index)})
    return index


def _batches(path, documents, shard_bytes):
    """Yields (texts of one shard, bytes of the file read so far)."""
    texts, size = [], 0
    for document in read_documents(path, documents):
        texts.append(document.text)
        size += document.n_bytes
        if size >= shard_bytes:
            yield texts, document.position
            texts, size = [], 0
    if texts:
        yield texts, document.position


def _write_shard(path, texts, job):
    """Writes one shard; returns (documents, tokens)."""
    rows = []
    for ids in _tokenizer(texts, verbose=False)["input_ids"]:
        if ids:
            rows.append(ids if job["end_id"] is None else [*ids, job["end_id"]])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if job["file_format"] == "npy":
        flat = np.fromiter(itertools.chain.from_iterable(rows), job["dtype"])
        with open(temporary, "wb") as file:
            np.save(file, flat)
    else:
        _write_records(temporary, rows)
    temporary.replace(path)
    return len(rows), sum(map(len, rows))


def _write_records(path, rows):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for ids in rows:
            values = tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
            features = tf.train.Features(feature={"input_ids": values})
            writer.write(tf.train.Example(features=features).SerializeToString())


def _finish(output_dir, index, bar, name, future, position):
    n_documents, n_tokens = future.result()
    index["shards"][name] = {"documents": n_documents, "tokens": n_tokens}
    files.write(output_dir, {INDEX: files.dump_json(index)})
    bar.update(position - bar.n)


class _Workers:
    """Gives a `submit` that works in other processes, or in this one for 1."""

    def __init__(self, n_workers, tokenizer):
        self._pool = None
        if n_workers > 1:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                n_workers,
                # A fork of a process with TensorFlow's threads can hang.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(tokenizer,),
            )
        else:
            _set_tokenizer(tokenizer)

    def __enter__(self):
        return self._pool.submit if self._pool else _submit_here

    def __exit__(self, *error):
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        _set_tokenizer(None)


def _submit_here(function, *args):
    future = concurrent.futures.Future()
    future.set_result(function(*args))
    return future


def _start_worker(tokenizer):
    # One process for each processor is enough; `tokenizers` would add its threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _set_tokenizer(tokenizer)


def _set_tokenizer(tokenizer):
    global _tokenizer
    _tokenizer = tokenizer


def _bar(path, progress):
    import tqdm

    return tqdm.tqdm(
        total=path.stat().st_size,
        desc=path.name,
        unit="B",
        unit_scale=True,
        disable=not progress,
    )
