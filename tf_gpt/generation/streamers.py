"""Text as it is made."""


class TextStreamer:
    """Passes on the new text word by word.

    Args:
        tokenizer: Its `decode` turns ids into text.
        write: Called with each new piece of text.
        skip_special_tokens: Whether padding and end tokens are left out.

    `generate(streamer=...)` calls `put` with the ids made and then `end`. A piece
    is held back while its last word may still grow.
    """

    def __init__(self, tokenizer, write, skip_special_tokens=True):
        self.tokenizer = tokenizer
        self.write = write
        self.skip_special_tokens = skip_special_tokens
        self._ids = []
        self._n_written = 0

    def put(self, ids):
        self._ids.extend(int(token_id) for token_id in ids)
        text = self._text()
        # A word ends where the next begins.
        self._write_up_to(text, max(text.rfind(" "), text.rfind("\n"), 0))

    def end(self):
        text = self._text()
        self._write_up_to(text, len(text))
        self._ids, self._n_written = [], 0

    def _text(self):
        return self.tokenizer.decode(
            self._ids, skip_special_tokens=self.skip_special_tokens
        )

    def _write_up_to(self, text, end):
        if end > self._n_written:
            self.write(text[self._n_written : end])
            self._n_written = end
