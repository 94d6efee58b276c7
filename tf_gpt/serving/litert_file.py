"""What stands behind the graph and the weights in a .tflite file of this library.

The file ends with metadata in JSON, its length in eight bytes, and `ENDING`; LiteRT
reads no further than the weights. So a file is known for one of ours, and for
whole, before LiteRT sees it: LiteRT ends the process on some damaged files. Needs
the standard library alone; LiteRT's own reader of its files takes 4 MB of memory.
"""

import json
import os
import struct
import zlib

IDENTIFIER = b"TFL3"  # of LiteRT files, from their fifth byte on
ENDING = b"tf_gpt\0\n"
_TAIL = struct.Struct(f"<Q{len(ENDING)}s")
_MOST = 2**20  # bytes of metadata, at most


def append_metadata(stream, metadata):
    """Writes the metadata, a dict for JSON, behind what the stream has."""
    start = stream.seek(0, os.SEEK_END)
    text = json.dumps({**metadata, "start": start}, sort_keys=True).encode()
    stream.write(text + _TAIL.pack(len(text), ENDING))


def read_metadata(path):
    """Returns the metadata of a file, checked.

    Args:
        path: The file; its metadata must have `graph_bytes` and `graph_crc32`.

    Raises:
        ValueError: If it is no file that `export_litert` wrote, or damaged.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        if stream.read(8)[4:] != IDENTIFIER:
            raise ValueError(f"{path} is no LiteRT model: it does not begin like one.")
        stream.seek(max(0, size - _TAIL.size))
        tail = stream.read(_TAIL.size)
        length, ending = _TAIL.unpack(tail) if len(tail) == _TAIL.size else (0, b"")
        start = size - _TAIL.size - length
        if ending != ENDING or start < 0 or length > _MOST:
            raise ValueError(
                f"{path} was not written by `export_litert`, or is not whole: it does "
                "not end like such a file."
            )
        stream.seek(start)
        try:
            metadata = json.loads(stream.read(length))
            graph_bytes, crc32 = metadata["graph_bytes"], metadata["graph_crc32"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"{path} is damaged: its metadata is no JSON.") from None
        if metadata.get("start") != start:
            raise ValueError(
                f"{path} is damaged: its metadata should start at "
                f"{metadata.get('start')!r}. Received: {start}."
            )
        if type(graph_bytes) is not int or not 0 < graph_bytes <= start:
            raise ValueError(f"{path} is damaged: graph_bytes={graph_bytes!r}.")
        stream.seek(0)
        if zlib.crc32(stream.read(graph_bytes)) != crc32:
            raise ValueError(f"{path} is damaged: its graph is not what was written.")
    return metadata
