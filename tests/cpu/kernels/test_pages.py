"""The pool's pages."""

import torch

from tradewind.kernels.pages import KVPool, PoolShape, to_next_layer


def test_the_next_layers_pages_are_found_from_a_layers_own() -> None:
    pool = KVPool.allocate(PoolShape(num_blocks=5, layers=3, kv_heads=2, block_tokens=4, head_dim=8), torch.bfloat16)
    for index, following in ((0, 1), (1, 2), (2, 0)):
        k_pages_BGSK, v_pages_BGSK = pool.layer(index)
        numbers = to_next_layer(k_pages_BGSK, v_pages_BGSK)
        for pages, next_pages in zip((k_pages_BGSK, v_pages_BGSK), pool.layer(following), strict=True):
            assert pages.data_ptr() + numbers * pages.itemsize == next_pages.data_ptr()


def test_pages_that_are_no_pools_have_no_next_layer() -> None:
    k_pages_BGSK, v_pages_BGSK = torch.zeros(2, 5, 2, 4, 8)
    assert to_next_layer(k_pages_BGSK, v_pages_BGSK) == 0
    assert to_next_layer(k_pages_BGSK.clone(), v_pages_BGSK.clone()) == 0
