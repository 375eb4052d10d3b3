"""Text files in blocks of whole lines, so that a file of any size is read with little memory."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported, out of a type checker's sight)
from __future__ import annotations

import zlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from components import storage
from components.errors import DataError

BLOCK_BYTES = 4 << 20
BYTE_ORDER_MARK = "\ufeff"


def text_blocks(path: str, encoding: str = "utf-8", block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, str]]:
    """Yield the number of a block's first line and the block's text, without its last line break.

    Compression is known by the name (.gz). Bytes that are no text of the encoding become U+FFFD, which the row checks find.
    Empty lines at the end of the file are no lines. Raises DataError where a compressed file is damaged.
    """
    line = 1
    for number, block in enumerate(_byte_blocks(path, block_bytes)):
        text = block.decode(encoding, errors="replace")
        yield line, text.removeprefix(BYTE_ORDER_MARK) if number == 0 else text
        line += block.count(b"\n") + 1


def require_lines(path: str, expected: str) -> None:
    """Raise DataError where a file holds nothing, or empty lines alone; `expected` says what should be there."""
    if next(text_blocks(path), None) is None:
        raise DataError(f"{path} is empty: expected {expected}")


def split_lines(text: str) -> pa.StringArray:
    """Cut a block into its lines, [lines]; both Unix and Windows line breaks are understood."""
    return pc.utf8_rtrim(pc.split_pattern(pa.array([text]), "\n").flatten(), "\r")


def _byte_blocks(path: str, block_bytes: int) -> Iterator[bytes]:
    rest = b""
    for block in _read(path, block_bytes):
        whole = rest + block
        # Empty lines wait with the rest: only the next block shows whether the file ends with them.
        body = whole[: max(whole.rfind(b"\n"), 0)].rstrip(b"\r\n")
        if body:
            yield body
            rest = whole[whole.index(b"\n", len(body)) + 1 :]
        else:
            rest = whole
    if last := rest.rstrip(b"\r\n"):
        yield last


def _read(path: str, block_bytes: int) -> Iterator[bytes]:
    try:
        with storage.open_file(path, compression="infer") as file:
            while block := file.read(block_bytes):
                yield block
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off: {error}") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error}") from error
