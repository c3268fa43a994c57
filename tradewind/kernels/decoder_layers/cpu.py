"""decoder_layers in C++ (kernels/native/decoder_layers.h)."""

import ctypes
from ctypes import Structure, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from tradewind.kernels.decoder_layers import DecoderLayers, LayerShape, LayerWeights
from tradewind.kernels.int8_pages import row_width
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear import cpu as linear_cpu
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.native import DTYPE_CODES, Library
from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import Rows


# These mirror the structures of decoder_layers.h.
class _Linear(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("bias", c_void_p),
        ("out_features", c_int64),
        ("in_features", c_int64),
        ("bits", c_int64),
        ("group", c_int64),
    )


class _Layer(Structure):
    _fields_ = (
        ("qkv", _Linear),
        ("out", _Linear),
        ("gate_up", _Linear),
        ("down", _Linear),
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("window", c_int64),
    )


class _Shape(Structure):
    _fields_ = (
        ("hidden", c_int64),
        ("ffn", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("cos_sin", c_void_p),
        ("eps", c_float),
        ("scale", c_float),
    )


class _Step(Structure):
    _fields_ = (
        ("tokens", c_int64),
        ("rows", c_int64),
        ("max_context", c_int64),
        ("positions", c_void_p),
        ("places", c_void_p),
        ("query_starts", c_void_p),
        ("context_lens", c_void_p),
        ("tables", c_void_p),
        ("table_stride", c_int64),
        ("pool", c_void_p),
        ("block_stride", c_int64),
        ("layer_stride", c_int64),
        ("kv_stride", c_int64),
        ("head_stride", c_int64),
        ("token_stride", c_int64),
        ("block_tokens", c_int64),
        ("page_number_bytes", c_int64),
        ("positions_are_64", c_int64),
        ("int8_pages", c_int64),
    )


class NativeDecoderLayers:
    """See `tradewind.kernels.decoder_layers.DecoderLayers`."""

    def __init__(
        self,
        library: Library,
        quantisation: Quantisation | None,
        layers: tuple[LayerWeights, ...],
        shape: LayerShape,
    ) -> None:
        self._run = library.function("decoder_layers", "iplppppi")
        self._weights = layers  # the structures hold their addresses
        self._shape = shape
        self._layers = (_Layer * len(layers))(*(_layer(layer, quantisation) for layer in layers))
        self._shape_struct = _shape(shape)

    def __call__(self, x_TD: Tensor, rows: Rows, pool: KVPool) -> tuple[Tensor, Tensor]:
        pages = pool.blocks_BL2GSK
        assert x_TD.is_contiguous()
        assert x_TD.shape[1] == self._shape.hidden
        assert pages.dtype in (x_TD.dtype, torch.uint8)
        assert pages.shape[5] == row_width(self._shape.heads.head_dim, pages.dtype)
        assert rows.query_starts_R1.dtype == rows.context_lens_R.dtype == rows.block_tables_RM.dtype == torch.int32
        assert rows.write_T.dtype == torch.int64
        residual_TD = torch.empty_like(x_TD)
        step = _step(rows, pool)
        self._run(
            DTYPE_CODES[x_TD.dtype], ctypes.addressof(self._layers), len(self._weights),
            ctypes.addressof(self._shape_struct), ctypes.addressof(step), x_TD.data_ptr(), residual_TD.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return x_TD, residual_TD


class Bind:
    """See `tradewind.kernels.decoder_layers.BindLayers`."""

    def __init__(self, library: Library, quantisation: Quantisation | None) -> None:
        self._library, self._quantisation = library, quantisation

    def __call__(self, layers: tuple[LayerWeights, ...], shape: LayerShape) -> DecoderLayers:
        return NativeDecoderLayers(self._library, self._quantisation, layers, shape)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _linear(weight: LinearWeight, quantisation: Quantisation | None) -> _Linear:
    form = None if weight.layout == linear_cpu.LAYOUT else quantisation  # some weights may have stayed as they were
    bits, group = (form.bits, form.group) if form else (0, 0)
    return _Linear(
        weight.data.data_ptr(), _pointer(weight.bias_N), weight.out_features, weight.in_features, bits, group
    )


def _layer(layer: LayerWeights, quantisation: Quantisation | None) -> _Layer:
    parts = (_linear(weight, quantisation) for weight in (layer.qkv, layer.out, layer.gate_up, layer.down))
    norms = (layer.input_norm_D, layer.post_norm_D, layer.q_norm_K, layer.k_norm_K)
    return _Layer(*parts, *(_pointer(norm) for norm in norms), layer.window or 0)


def _shape(shape: LayerShape) -> _Shape:
    heads = shape.heads
    assert shape.cos_sin_PK.dtype == torch.float32
    return _Shape(
        shape.hidden, shape.ffn, heads.heads, heads.kv_heads, heads.head_dim, shape.cos_sin_PK.data_ptr(), shape.eps,
        shape.scale,
    )  # fmt: skip


def _step(rows: Rows, pool: KVPool) -> _Step:
    pages, tables_RM = pool.blocks_BL2GSK, rows.block_tables_RM
    block_stride, layer_stride, kv_stride, head_stride, token_stride, _ = pages.stride()
    return _Step(
        len(rows.positions_T), len(rows.context_lens_R), rows.max_context, rows.positions_T.data_ptr(),
        rows.write_T.data_ptr(), rows.query_starts_R1.data_ptr(), rows.context_lens_R.data_ptr(), tables_RM.data_ptr(),
        tables_RM.stride(0), pages.data_ptr(), block_stride, layer_stride, kv_stride, head_stride, token_stride,
        pages.shape[4], pages.itemsize, rows.positions_T.dtype == torch.int64, pages.dtype == torch.uint8,
    )  # fmt: skip
