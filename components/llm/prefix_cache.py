"""Keys and values of users' prefixes, kept from one request to the next: the users asked about last, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from components.llm.packing import Layers
from components.llm.tokens import TokenIds


class PrefixCache:
    """What a model, which must not change, knows of prefixes; safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds the keys and values that are kept, those of a single prefix included."""
        self._max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[bytes, tuple[TokenIds, Layers]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prefix: TokenIds) -> tuple[TokenIds, Layers] | None:
        """Return the tokens that were kept for a user's prefix, which are those and perhaps some more, with their keys and values."""
        with self._lock:
            if (found := self._kept.get(prefix.tobytes())) is not None:
                self._kept.move_to_end(prefix.tobytes())
            return found

    def keep(self, prefix: TokenIds, tokens: TokenIds, layers: Layers) -> None:
        """Keep the keys and values of `tokens`, which begin with a user's prefix; the users asked about longest ago make room."""
        with self._lock:
            if (before := self._kept.pop(prefix.tobytes(), None)) is not None:
                self.bytes -= _bytes(before[1])
            self._kept[prefix.tobytes()] = tokens, layers
            self.bytes += _bytes(layers)
            while self.bytes > self._max_bytes:
                self.bytes -= _bytes(self._kept.popitem(last=False)[1][1])


def _bytes(layers: Layers) -> int:
    return sum(each.nbytes for pair in layers for each in pair)
