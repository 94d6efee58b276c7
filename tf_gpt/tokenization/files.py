"""The files of a tokenizer, read with care and written whole.

vocab.json               piece -> id
merges.txt               one merge a line, best first, under a version line
tokenizer.json           all of it, as the `tokenizers` library keeps it
tokenizer_config.json    flavour, special tokens, limits, sides
special_tokens_map.json  special tokens (older files)
added_tokens.json        token -> id of tokens beyond the vocabulary (older files)
"""

import json
import os
import pathlib

from tf_gpt import hub
from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization.bpe import END_OF_WORD
from tf_gpt.tokenization.vocabulary import SPECIAL_TOKENS, to_token

VOCAB = "vocab.json"
MERGES = "merges.txt"
TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"

ALL = (VOCAB, MERGES, TOKENIZER, CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)

VERSION_LINE = "#version: 0.2"


def find(name_or_path, **hub_options):
    """Returns the paths of a tokenizer's files, by file name.

    Args:
        name_or_path: A directory, the name of a bundled preset, or a repository
            on the Hub.
        hub_options: Those of `tf_gpt.hub.resolve_files`.

    Returns:
        Dict of file name -> path, of those among `ALL` that are there.

    Raises:
        HubError: If there is no such directory, preset or repository.
        TokenizerError: If there are neither vocabulary and merges nor a
            tokenizer.json.
    """
    found = hub.resolve_files(str(name_or_path), ALL, **hub_options)
    if TOKENIZER not in found and not {VOCAB, MERGES} <= found.keys():
        raise TokenizerError(
            f"A tokenizer needs {VOCAB} and {MERGES}, or {TOKENIZER}. "
            f"Received: {str(name_or_path)!r}, which has "
            f"{', '.join(sorted(found)) or 'none of its files'}."
        )
    return found


def read_json(path):
    """Returns the object in a JSON file.

    Raises:
        TokenizerError: If it is missing or holds something else.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text("utf-8"))
    except FileNotFoundError as error:
        raise TokenizerError(f"No such file: {str(path)!r}.") from error
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{str(path)!r} is not readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise TokenizerError(
            f"{str(path)!r} must hold a JSON object. "
            f"Received: {type(content).__name__}."
        )
    return content


def read_merges(path):
    """Returns the merges in a merges.txt as a list of (left, right).

    Raises:
        TokenizerError: If it is missing or a line is not two pieces.
    """
    try:
        # Not splitlines(): it also cuts at characters that pieces may hold.
        lines = pathlib.Path(path).read_text("utf-8").split("\n")
    except FileNotFoundError as error:
        raise TokenizerError(f"No such file: {str(path)!r}.") from error
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{str(path)!r} is not readable text: {error}.") from error
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(pair):
            raise TokenizerError(
                "A line of merges must be two pieces with a space between. "
                f"Received: {line!r} (line {number} of {str(path)!r})."
            )
        merges.append(pair)
    return merges


def vocabulary(vocab_file, merges_file, vocab, merges):
    """Returns (vocab, merges), read from files where they are not given.

    Raises:
        TokenizerError: If both forms are given, or neither.
    """
    if (vocab is None) != (merges is None) or (vocab is None) == (vocab_file is None):
        raise TokenizerError(
            "A tokenizer needs either `vocab_file` and `merges_file`, or `vocab` and "
            f"`merges`. Received: vocab_file={vocab_file!r}, "
            f"merges_file={merges_file!r}, vocab={type(vocab).__name__}, "
            f"merges={type(merges).__name__}."
        )
    if vocab is None:
        return read_json(vocab_file), read_merges(merges_file)
    return dict(vocab), [tuple(merge) for merge in merges]


def check_vocabulary(vocab, merges, unk_token):
    """Checks that vocabulary and merges fit together.

    Raises:
        TokenizerError: If ids repeat or leave gaps, a merge names a piece that
            is not in the vocabulary or appears twice, or `unk_token` is missing.
    """
    for piece, index in vocab.items():
        if type(index) is not int or index < 0:
            raise TokenizerError(
                "Ids must be whole numbers from 0 on. "
                f"Received: {index!r} for piece {piece!r}."
            )
    ids = sorted(vocab.values())
    if ids != list(range(len(ids))):
        wrong = next(i for i, index in enumerate(ids) if i != index)
        problem = "twice" if ids.count(ids[wrong]) > 1 else "after a gap"
        raise TokenizerError(
            "The ids of a vocabulary must be 0 to its size less one, each once. "
            f"Received: {ids[wrong]} {problem}, of {len(ids)} entries."
        )
    if unk_token not in vocab:
        raise TokenizerError(
            "`unk_token` must be in the vocabulary: characters it does not know "
            f"become this token. Received: {unk_token!r}."
        )
    for left, right in merges:
        for piece in (left, right, left + right):
            if piece not in vocab:
                raise TokenizerError(
                    "A merge must join pieces of the vocabulary to one of the "
                    f"vocabulary. Received: merge {left!r} {right!r}; {piece!r} is "
                    "not in it."
                )
    if len(set(merges)) != len(merges):
        twice = next(m for i, m in enumerate(merges) if m in merges[:i])
        raise TokenizerError(f"A merge must appear once. Received: {twice!r} twice.")


def vocabulary_from_json(tokenizer, path):
    """Returns (vocab, merges) of a tokenizer.json's contents.

    Raises:
        TokenizerError: If its model is not a byte-pair encoding with `</w>`.
    """
    model = tokenizer.get("model") or {}
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise TokenizerError(
            "A GPT tokenizer is a BPE model whose `end_of_word_suffix` is '</w>'. "
            f"Received: type {model.get('type')!r}, suffix "
            f"{model.get('end_of_word_suffix')!r} in {str(path)!r}. "
            "(GPT-2 has no such suffix.)"
        )
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        for merge in model["merges"]
    ]
    return model["vocab"], merges


def saved_arguments(saved, older):
    """Returns the arguments of `TokenizerBase` that saved files state."""
    arguments = {}
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    ):
        if saved.get(name) is not None:
            arguments[name] = saved[name]
    special = {**older, **saved}
    for name in SPECIAL_TOKENS:
        if special.get(name) is not None:
            arguments[name] = to_token(special[name], special=True)
    extra = special.get("additional_special_tokens")
    # Newer transformers call it `extra_special_tokens`, a list or a table.
    extra = extra or special.get("extra_special_tokens") or []
    extra = extra.values() if isinstance(extra, dict) else extra
    arguments["additional_special_tokens"] = [to_token(t, special=True) for t in extra]
    return arguments


def added_tokens(saved, found):
    """Returns [(id, AddedToken)] of the saved files, in the order of ids."""
    added = {
        int(index): to_token(token)
        for index, token in saved.get("added_tokens_decoder", {}).items()
    }
    if not added and TOKENIZER in found and VOCAB not in found:
        table = read_json(found[TOKENIZER])
        for entry in table.get("added_tokens", []):
            index = entry.pop("id")
            added[index] = to_token(entry)
    if ADDED_TOKENS in found:
        for token, index in read_json(found[ADDED_TOKENS]).items():
            added.setdefault(index, to_token(token))
    return sorted(added.items())


def train(pipeline, texts, length, **options):
    """Returns (vocab, merges) of byte pairs trained on texts.

    Args:
        pipeline: `tokenizers.Tokenizer` that splits the texts into words.
        texts: Iterable of str.
        length: How many there are, or None.
        options: Those of `tokenizers.trainers.BpeTrainer`.
    """
    from tokenizers import trainers

    trainer = trainers.BpeTrainer(end_of_word_suffix=END_OF_WORD, **options)
    pipeline.train_from_iterator(texts, trainer, length)
    return vocabulary_from_json(json.loads(pipeline.to_str()), TOKENIZER)


def dump_json(content, **options):
    return json.dumps(content, ensure_ascii=False, indent=2, **options) + "\n"


def dump_merges(merges):
    return "\n".join([VERSION_LINE, *map(" ".join, merges)]) + "\n"


def remove(directory, names, prefix=None):
    """Removes those of the named files that are there."""
    for name in names:
        path = pathlib.Path(directory) / (f"{prefix}-{name}" if prefix else name)
        path.unlink(missing_ok=True)


def write(directory, contents, prefix=None):
    """Writes texts into a directory, each to a temporary name and then renamed.

    Args:
        directory: Created if it is missing.
        contents: Dict of file name -> text.
        prefix: Put before each file name, with a hyphen.

    Returns:
        Tuple of the paths written, as str.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise TokenizerError(
            f"`save_directory` must be a directory. Received: {str(directory)!r}."
        )
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in contents.items():
        path = directory / (f"{prefix}-{name}" if prefix else name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, "utf-8", newline="\n")
        temporary.replace(path)
        paths.append(str(path))
    return tuple(paths)
