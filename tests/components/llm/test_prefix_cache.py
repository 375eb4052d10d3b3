import numpy as np
import torch

from components.llm.packing import Layers
from components.llm.prefix_cache import PrefixCache


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def layers(count: int) -> Layers:
    """Keys and values of `count` tokens in one layer: 8 bytes a token."""
    return [(torch.zeros(count, 1, 1), torch.ones(count, 1, 1))]


def test_what_was_kept_is_found_by_the_users_prefix() -> None:
    cache, known = PrefixCache(100), layers(3)
    cache.keep(tokens(1, 2), tokens(1, 2, 9), known)
    found = cache.find(tokens(1, 2))
    assert found is not None
    assert found[0].tolist() == [1, 2, 9]
    assert found[1] is known
    assert cache.find(tokens(1, 2, 9)) is None


def test_the_prefix_used_longest_ago_makes_room() -> None:
    cache = PrefixCache(16)
    for user in (1, 2):
        cache.keep(tokens(user), tokens(user), layers(1))
    cache.find(tokens(1))
    cache.keep(tokens(3), tokens(3), layers(1))
    assert [cache.find(tokens(user)) is not None for user in (1, 2, 3)] == [True, False, True]
    assert (len(cache), cache.bytes) == (2, 16)


def test_a_prefix_kept_again_counts_once() -> None:
    cache = PrefixCache(100)
    cache.keep(tokens(1), tokens(1), layers(5))
    cache.keep(tokens(1), tokens(1, 2), layers(2))
    assert (len(cache), cache.bytes) == (1, 16)


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    cache = PrefixCache(15)
    cache.keep(tokens(1), tokens(1), layers(1))
    cache.keep(tokens(2), tokens(2, 3), layers(2))
    assert (len(cache), cache.bytes) == (0, 0)
