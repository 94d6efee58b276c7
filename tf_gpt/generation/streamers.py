"""Text as it is made."""

import queue


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


class TextIteratorStreamer(TextStreamer):
    """Hands the new text to another thread, which iterates over its pieces.

    Args:
        tokenizer, skip_special_tokens: See `TextStreamer`.
        timeout: Seconds to wait for a piece; None waits for ever.

    Run `generate(streamer=...)` in a thread and iterate here:

        streamer = TextIteratorStreamer(tokenizer)
        options = {"streamer": streamer, "max_new_tokens": 40}
        threading.Thread(target=model.generate, args=(ids,), kwargs=options).start()
        for piece in streamer:
            print(piece, end="", flush=True)

    If `generate` may raise, call `end` when it does, or set a timeout.

    Raises:
        TimeoutError: In the iteration, if no piece came in time.
    """

    def __init__(self, tokenizer, skip_special_tokens=True, timeout=None):
        self._pieces = queue.Queue()
        self.timeout = timeout
        super().__init__(tokenizer, self._pieces.put, skip_special_tokens)

    def end(self):
        super().end()
        self._pieces.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            piece = self._pieces.get(timeout=self.timeout)
        except queue.Empty:
            raise TimeoutError(f"No text within {self.timeout} s.") from None
        if piece is None:
            raise StopIteration
        return piece
