"""A cache with room behind it holds what the library's does, and does not copy it for every token."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from limbeck.lm.growing_cache import LEAST, Growing, with_room


def states(columns, rows=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(rows, 2, columns, 5), torch.randn(rows, 2, columns, 5)


def begun(columns=4):
    layer = DynamicLayer()
    layer.update(*states(columns))
    return layer


def test_it_holds_what_a_layer_of_the_library_holds():
    ours, theirs = Growing(begun(), most=10_000), begun()
    rows = 3
    for step in range(400):
        if step % 90 == 40:  # drop, repeat and change the order
            chosen = torch.tensor([2, 0, 0, 1])[: 4 - step // 100]
            rows = len(chosen)
            ours.reorder_cache(chosen % len(ours.keys))
            theirs.reorder_cache(chosen % len(theirs.keys))
        new = states(1 + step % 2, rows, seed=step)
        for mine, other in zip(ours.update(*new), theirs.update(*new), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_a_token_is_written_where_the_others_are():
    layer = Growing(begun(), most=10_000)
    places = set()
    for step in range(1_000):
        layer.update(*states(1, seed=step))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) < 20, "copied for growth alone"


def test_there_is_no_room_for_more_than_will_come():
    layer = Growing(begun(), most=4 + LEAST // 2)
    for step in range(LEAST // 2):
        layer.update(*states(1, seed=step))
    assert layer.keys.untyped_storage().nbytes() == layer.keys.numel() * 4
    layer.update(*states(1))  # nevertheless
    assert layer.get_seq_length() == 4 + LEAST // 2 + 1


@pytest.mark.parametrize("encoder_decoder", [False, True])
def test_windows_and_what_is_read_of_an_encoder_stay(encoder_decoder):
    cache = DynamicCache()
    cache.layers = [begun(), DynamicSlidingWindowLayer(sliding_window=4), DynamicLayer()]
    read = DynamicCache()
    read.layers = [begun()]
    with_room(EncoderDecoderCache(cache, read) if encoder_decoder else cache, 9)
    assert [type(one) for one in cache.layers] == [Growing, DynamicSlidingWindowLayer, DynamicLayer]
    assert type(read.layers[0]) is DynamicLayer
