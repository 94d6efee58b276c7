"""Files of rows: texts in, JSON lines out, a row a line, and a run that goes on."""

import hashlib
import json
import os
import pathlib

from tf_gpt.finetuning.readers import read_json_lines
from tf_gpt.tokenization import files
from tf_gpt.tokenization.corpus import read_lines

_MADE_FROM = ".run.json"


def read_texts(path, field):
    """Returns the texts of a file, in order, and where each stands.

    Args:
        path: A text file, one text a line; or .jsonl: strings, or objects with
            the text under `field`. Also packed: .gz, .xz, .bz2.
        field: Name of the text in JSON lines.

    Returns:
        List of `(text, "file:line")`.

    Raises:
        ValueError: If the file is not UTF-8 or empty, or a line is no text; the
            message has the line's number.
    """
    path = pathlib.Path(path)
    if ".jsonl" in path.suffixes:
        rows = [(_text(row, field, at), at) for row, at in read_json_lines(path)]
    else:
        rows = [(line.text, f"{path}:{line.line}") for line in read_lines(path)]
    if not rows:
        raise ValueError(f"{path} is empty.")
    return rows


def _text(row, field, where):
    text = row.get(field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise ValueError(
            f'{where}: must be a string, or an object with a string "{field}". '
            f"Received: {json.dumps(row)[:80]}"
        )
    return text


class RowsFile:
    """JSON lines that grow as rows are finished, and that a later run goes on with.

    What the rows are made from is kept beside them, in NAME.run.json: a run with
    other settings is refused rather than mixed in.

    Args:
        path: The file. Its folder is made if it does not exist.
        source: The file that the rows are made from; its content counts.
        settings: Dict of JSON values that the rows depend on. A `seed` of None is
            open: it may be drawn with `keep`, and a later run takes it over.
        overwrite: Whether to start anew over another run's rows.

    Attributes:
        n_done: Rows that are there.
        settings: Those of the run that is gone on with, else the given ones.

    Raises:
        ValueError: If the file holds rows that were made otherwise.
    """

    def __init__(self, path, source, settings, overwrite=False):
        self.path = pathlib.Path(path)
        self._settings_path = self.path.with_name(self.path.name + _MADE_FROM)
        digest = hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest()
        self.settings = {"source": digest, **settings}
        self.n_done = 0
        if self.path.exists() and not overwrite:
            self._go_on()
            return
        self._write_settings()  # which makes the folder
        self.path.write_bytes(b"")

    def keep(self, name, value):
        """Sets a setting that was left open, for a later run too; returns it."""
        self.settings[name] = value
        self._write_settings()
        return value

    def write(self, rows):
        """Appends rows, dicts of JSON values, and hands them to the disk."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.n_done += len(rows)

    def _write_settings(self):
        path = self._settings_path
        files.write(path.parent, {path.name: files.dump_json(self.settings)})

    def _go_on(self):
        try:
            kept = json.loads(self._settings_path.read_text("utf-8"))
        except (OSError, ValueError):
            kept = None
        if not isinstance(kept, dict):
            raise ValueError(
                f"{self.path} exists and is not the output of an earlier run. Pass "
                "--overwrite, or another --out."
            )
        now = dict(self.settings)
        if now.get("seed", 0) is None:
            now["seed"] = kept.get("seed")
        differing = [
            f"{name}: {kept.get(name)!r} there, {now.get(name)!r} now"
            for name in sorted(kept.keys() | now.keys())
            if kept.get(name) != now.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.path} holds rows that were made otherwise ("
                f"{'; '.join(differing)}). Pass --overwrite, or another --out."
            )
        self.settings = kept
        content = self.path.read_bytes()
        # A run that was killed may have left half a line.
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        self.n_done = whole.count(b"\n")
