"""Examples from lists, files and data sets of other libraries.

    for example, where in read_examples("train.jsonl.gz", ("text", "label")):
        ...     # {"text": "a line", "label": "good"}, "train.jsonl.gz:1"

Files are read line by line: they may be larger than memory.
"""

import csv
import json
import pathlib

from tf_gpt.tokenization.corpus import read_documents, read_lines

PACKED = (".gz", ".xz", ".bz2")
TABLES = {".csv": ",", ".tsv": "\t"}


def read_examples(source, fields, optional=(), documents="lines"):
    """Yields each example of a source, and where it stands.

    Args:
        source: One of
            a list of dicts, of tuples in the order of `fields`, or of str if
                there is one field (the optional ones apart);
            a path: .jsonl, an object a line; .csv or .tsv with a line of names
                first (a .tsv has no quotes: a cell is what stands between
                tabs); .txt, plain text for one field. Each may be packed: .gz,
                .xz, .bz2. UTF-8;
            a split of Hugging Face's `datasets`: an index of a `ClassLabel`
                becomes its name, and -1, which says that there is no label,
                None;
            a `tf.data.Dataset` of dicts, not batched.
        fields: Names of the fields.
        optional: Those of the fields that may be missing.
        documents: Of a .txt: "lines", each line is an example; "paragraphs",
            examples stand between empty lines. Empty ones are left out.

    Yields:
        `(example, where)`: a dict with the `fields` alone, without the optional
        ones that are missing or None; and "file:line", or "row i", from 0. Cells
        of a table are str.

    Raises:
        ValueError: If the source is of another kind or empty, or a row is
            broken or lacks a field; it names the place.
        OSError: If a file cannot be read.
    """
    fields = tuple(fields)
    is_empty = True
    for row, where in _rows(source, fields, optional, documents):
        is_empty = False
        yield _example(row, where, fields, optional), where
    if is_empty:
        raise ValueError(
            f"`source` must have at least one example. Received: {describe(source)}, "
            "which is empty."
        )


def describe(source):
    """Returns a short name of a source, for messages."""
    if isinstance(source, (str, pathlib.Path)):
        return repr(str(source))
    if isinstance(source, (list, tuple)):
        return f"a {type(source).__name__} of {len(source)}"
    return f"a {type(source).__name__}"


def is_file(source):
    """Returns whether a source is a path."""
    return isinstance(source, (str, pathlib.Path))


def _rows(source, fields, optional, documents):
    """Returns an iterator of (dict, where)."""
    if is_file(source):
        return _file_rows(pathlib.Path(source), fields, optional, documents)
    if isinstance(source, (list, tuple)):
        return _list_rows(source, fields, optional)
    if hasattr(source, "element_spec"):
        return _tensor_rows(source)
    if isinstance(getattr(source, "column_names", None), dict):
        raise ValueError(
            "`source` must be one split of a data set, as `data['train']`. Received: "
            f"a {type(source).__name__} of {sorted(source.column_names)}."
        )
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _dataset_rows(source)
    raise ValueError(
        "`source` must be a list, the path of a file, a split of Hugging Face's "
        f"`datasets` or a `tf.data.Dataset`. Received: {describe(source)}."
    )


def _example(row, where, fields, optional):
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: an example must be a dict of {', '.join(fields)}. "
            f"Received: {type(row).__name__}."
        )
    example = {name: row[name] for name in fields if row.get(name) is not None}
    for name in fields:
        if name not in example and name not in optional:
            raise ValueError(
                f"{where}: an example must have `{name}`. "
                f"Received: the fields {', '.join(map(str, row)) or '(none)'}"
                f"{', of which it is None' if name in row else ''}."
            )
    return example


def _list_rows(source, fields, optional):
    required = [name for name in fields if name not in optional]
    for i, row in enumerate(source):
        where = f"row {i}"
        if isinstance(row, str) and len(required) == 1:
            row = {required[0]: row}
        elif isinstance(row, (list, tuple)):
            if len(row) not in (len(required), len(fields)):
                raise ValueError(
                    f"{where}: a tuple must be ({', '.join(fields)}). "
                    f"Received: {len(row)} values."
                )
            names = required if len(row) < len(fields) else fields
            row = dict(zip(names, row, strict=True))
        if isinstance(row, dict):
            row = {name: _plain(value) for name, value in row.items()}
        yield row, where


def _tensor_rows(source):
    for i, row in enumerate(source.as_numpy_iterator()):
        where = f"row {i}"
        if isinstance(row, dict):
            row = {name: _plain(value, where, name) for name, value in row.items()}
        yield row, where


def _dataset_rows(source):
    names = {
        name: feature.names
        for name, feature in (source.features or {}).items()
        if getattr(feature, "names", None)
    }
    for i, row in enumerate(source):
        row = {name: _plain(value) for name, value in row.items()}
        for name, labels in names.items():
            index = row.get(name)
            if isinstance(index, int):
                row[name] = labels[index] if index >= 0 else None
        yield row, f"row {i}"


def _plain(value, where="", name=""):
    """Returns a NumPy value as a Python one, bytes as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item, where, name) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}: `{name}` must be UTF-8. Received: {error}."
            ) from error
    return value


def _file_rows(path, fields, optional, documents):
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind == ".jsonl":
        return read_json_lines(path)
    if kind in TABLES:
        return _table_rows(path, TABLES[kind])
    required = [name for name in fields if name not in optional]
    if kind == ".txt" and len(required) == 1:
        return _text_rows(path, required[0], documents)
    raise ValueError(
        "A file of examples must be a .jsonl, .csv or .tsv"
        + (", or a .txt" if len(required) == 1 else "")
        + f", plain or packed ({', '.join(PACKED)}). Received: {str(path)!r}."
    )


def _lines(path):
    """Yields (number, text) without a byte-order mark, as spreadsheets write one."""
    for line in read_lines(path):
        text = line.text.removeprefix("\ufeff") if line.line == 1 else line.text
        yield line.line, text


def _text_rows(path, field, documents):
    for document in read_documents(path, documents):
        text = document.text
        if document.line == 1:
            text = text.removeprefix("\ufeff")
        if text.strip():
            yield {field: text}, f"{path}:{document.line}"


def read_json_lines(path):
    """Yields (value, "file:line") of each line of JSON that is not empty.

    Raises:
        ValueError: Naming the place, if a line is not JSON or not UTF-8.
        OSError: If the file cannot be read.
    """
    for number, text in _lines(path):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not a line of JSON: {error}.") from error
        yield row, where


def _table_rows(path, delimiter):
    if delimiter == "\t":
        rows = ((number, text.split("\t")) for number, text in _lines(path) if text)
    else:
        rows = _quoted_rows(path)
    _, names = next(rows, (1, []))
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(
            f"{path}:1: the first line must be the names of the columns, each once. "
            f"Received: {names}."
        )
    for number, cells in rows:
        where = f"{path}:{number}"
        if len(cells) != len(names):
            raise ValueError(
                f"{where}: a row must have the {len(names)} columns "
                f"{', '.join(names)}. Received: {len(cells)}."
            )
        # A table has no other way to say that a value is missing.
        pairs = zip(names, cells, strict=True)
        yield {name: None if cell == "" else cell for name, cell in pairs}, where


def _quoted_rows(path):
    """Yields (number of its first line, cells) of each row of a .csv."""
    reader = csv.reader((f"{text}\n" for _, text in _lines(path)), strict=True)
    number = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}:{number}: not a row of a table: {error}."
            ) from error
        if cells is None:
            return
        if cells:
            yield number, cells
        number = reader.line_num + 1
