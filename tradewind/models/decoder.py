"""The model that runs: embedding, decoder layers, final norm, logits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tradewind.kernels.chained_linear import ChainedLinear
from tradewind.kernels.decoder_layers import DecoderLayers, LayerShape, LayerWeights
from tradewind.kernels.linear import fp8
from tradewind.kernels.linear_add_norm import Bounded
from tradewind.kernels.ops import Ops
from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.layers.attention import Attention, QkNorm
from tradewind.layers.decoder_layer import Bounds, DecoderLayer
from tradewind.layers.embedding import Embedding, TiedEmbedding
from tradewind.layers.feed_forward import FeedForward
from tradewind.layers.linear import Linear
from tradewind.layers.norm import RmsNorm
from tradewind.layers.rope import cos_sin_table
from tradewind.models.declaration import Declaration, LayerDeclaration
from tradewind.models.loader import Loader
from tradewind.models.spec import ModelSpec


@dataclass(frozen=True)
class Model:
    """A decoder-only model on one device. It has no state but its weights.

    `max_positions`: a token's position must be below this. `in_one_call`: the layers, where an op runs them all.
    `chained`: for steps of some tokens, where all layers' weights fit it.
    """

    spec: ModelSpec
    embedding: Embedding | TiedEmbedding
    layers: tuple[DecoderLayer, ...]
    final_norm: RmsNorm
    lm_head: Linear
    cos_sin_PK: Tensor
    ops: Ops
    in_one_call: DecoderLayers | None = None
    chained: ChainedLinear | None = None

    @torch.inference_mode()
    def forward(self, ids_T: Tensor, rows: Rows, pool: KVPool) -> Tensor:
        """hidden_TD of the step's tokens, after the final norm. Their keys and values are written to the pool.

        ids_T: int32 or int64, in [0, vocab). The pool has the dtype and the `pool_shape` of this model's spec.
        """
        x_TD, residual_TD = self._run_layers(self.embedding(ids_T), rows, pool)
        hidden_TD, _ = self.final_norm(x_TD, residual_TD)
        assert isinstance(hidden_TD, Tensor)
        return hidden_TD

    def _run_layers(self, x_TD: Tensor, rows: Rows, pool: KVPool) -> tuple[Tensor, Tensor | None]:
        if self.in_one_call is not None:
            return self.in_one_call(x_TD, rows, pool)
        if self.chained is not None and len(x_TD) in self.chained.steps:
            return self._run_chained(x_TD, rows, pool, self.chained), None
        if self._takes_8_bits(len(x_TD), rows):
            return self._run_in_8_bits(x_TD, rows, pool), None
        residual_TD: Tensor | None = None
        for index, layer in enumerate(self.layers):
            x_TD, residual_TD = layer(x_TD, residual_TD, rows, pool.layer(index))
        return x_TD, residual_TD

    def _run_chained(self, x_TD: Tensor, rows: Rows, pool: KVPool, run: ChainedLinear) -> Tensor:
        next_norms = [*(layer.input_norm for layer in self.layers[1:]), self.final_norm]
        prepared = run.prepare(x_TD, self.layers[0].input_norm.as_part)
        for index, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            prepared = layer.chained(prepared, x_TD, rows, pool.layer(index), run, next_norm.as_part)
        return x_TD

    def _takes_8_bits(self, tokens: int, rows: Rows) -> bool:
        """Whether the step is one whose norms are left to the products around them."""
        run, attention, first = self.ops.linear_add_norm, self.ops.fused_attention, self.layers[0]
        if run is None or attention is None or first.bounds is None:
            return False
        fits = run.takes(tokens, (linear.weight for linear in first.linears))  # layers are of one size
        return fits and attention.quantises(rows, first.attention.shape)

    def _run_in_8_bits(self, x_TD: Tensor, rows: Rows, pool: KVPool) -> Tensor:
        run, first = self.ops.linear_add_norm, self.layers[0].bounds
        assert run is not None
        assert first is not None
        normed = run.begin(x_TD, first.input, 1 + 2 * len(self.layers))
        for index, layer in enumerate(self.layers):
            normed = layer.in_8_bits(normed, x_TD, rows, pool.layer(index), run)
        return x_TD

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor, memory_NV: Tensor | None = None) -> Tensor:
        """logits_RV, float32, of rows of what `forward` gave.

        `memory_NV`: float32, for R rows at least. Where the op can, the result is its first rows: memory that is used
        step after step is there already, and new memory has to be got from the system, page by page.
        """
        if memory_NV is not None and self.ops.fill_logits is not None:
            out_RV = memory_NV[: len(hidden_RD)]
            self.ops.fill_logits(hidden_RD, self.lm_head.weight, out_RV)
            return out_RV
        return self.ops.logits(hidden_RD, self.lm_head.weight)

    @torch.inference_mode()
    def masked_logits(self, hidden_RD: Tensor, bits_RW: Tensor, memory_NV: Tensor) -> Tensor:
        """What `logits` gives where bits_RW allow it (see MaskedLogits, an op that must be there), -inf elsewhere."""
        assert self.ops.masked_logits is not None
        out_RV = memory_NV[: len(hidden_RD)]
        self.ops.masked_logits(hidden_RD, self.lm_head.weight, bits_RW, out_RV)
        return out_RV

    @property
    def thin(self) -> "Model":
        """A layer of each kind of this model's: it launches all kernels that the whole model does."""
        kinds: dict[tuple[object, ...], DecoderLayer] = {}
        for layer in self.layers:
            kinds.setdefault(_kind(layer), layer)
        return replace(self, layers=tuple(kinds.values()), in_one_call=None)

    @property
    def max_positions(self) -> int:
        return self.cos_sin_PK.shape[0]

    @property
    def device(self) -> torch.device:
        return self.cos_sin_PK.device

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights; a tied output layer that shares the embedding's memory counts once."""
        plain_VD = self.embedding.weight_VD if isinstance(self.embedding, Embedding) else None
        shared = plain_VD is not None and self.lm_head.weight.data.data_ptr() == plain_VD.data_ptr()
        head_bytes = self.lm_head.weight.copy_bytes if shared else self.lm_head.nbytes
        layer_bytes = sum(layer.nbytes for layer in self.layers)
        return self.embedding.nbytes + layer_bytes + self.final_norm.nbytes + head_bytes

    @property
    def copy_bytes(self) -> int:
        """Of the weights' copies for one row, which are a part of `weights_bytes`; 0 if there are none."""
        linears = [self.lm_head, *(linear for layer in self.layers for linear in layer.linears)]
        return sum(linear.weight.copy_bytes for linear in linears)


def _kind(layer: DecoderLayer) -> tuple[object, ...]:
    """Layers of one kind launch the same kernels: they differ in the numbers of their weights alone."""
    weights = [linear.weight for linear in layer.linears]
    weights += [weight.for_rows(1) for weight in weights]
    places = [tuple(extra.shape[1:]) for weight in weights for extra in weight.extras]
    return layer.attention.window, *(weight.layout for weight in weights), *places


def build(spec: ModelSpec, declaration: Declaration, loader: Loader, max_positions: int) -> Model:
    """Read the declared tensors and put the layers together. `max_positions` is the length of the rotary table."""
    ops = loader.ops
    embedding, lm_head = _build_ends(declaration, loader)
    cos_sin_PK = cos_sin_table(spec.rope, spec.head_dim, max_positions, loader.device)
    layers = tuple(
        _build_layer(spec, layer, window, cos_sin_PK, loader)
        for layer, window in zip(declaration.layers, spec.windows, strict=True)
    )
    final_norm = RmsNorm(loader.tensor(declaration.final_norm), spec.norm_eps, ops.add_rms_norm)
    if ops.linear_add_norm is not None:
        layers = _with_bounds(layers, final_norm)
    in_one_call = _bind(spec, layers, cos_sin_PK, ops)
    chained = ops.chained_linear
    if chained is not None and not all(layer.fits(chained) for layer in layers):
        chained = None
    return Model(spec, embedding, layers, final_norm, lm_head, cos_sin_PK, ops, in_one_call, chained)


def _with_bounds(layers: tuple[DecoderLayer, ...], final_norm: RmsNorm) -> tuple[DecoderLayer, ...]:
    """All layers that have weights of 8 bits, or none."""
    if any(linear.weight.layout != fp8.LAYOUT for layer in layers for linear in layer.linears):
        return layers
    next_norms = [*(layer.input_norm for layer in layers[1:]), final_norm]
    return tuple(
        replace(
            layer,
            bounds=Bounds(
                input=Bounded.of(layer.input_norm.as_part),
                out=Bounded.of(layer.post_norm.as_part, layer.attention.out.weight),
                down=Bounded.of(next_norm.as_part, layer.feed_forward.down.weight),
            ),
        )
        for layer, next_norm in zip(layers, next_norms, strict=True)
    )


def _build_ends(declaration: Declaration, loader: Loader) -> tuple[Embedding | TiedEmbedding, Linear]:
    """Embedding and output layer, the largest weights: read first, so that unpacked they meet no others in memory.

    A tied output layer is packed from the embedding itself: an implementation that keeps it as it is shares it, and one
    that repacks it can read the embedding's rows from the packed copy.
    """
    ops = loader.ops
    embedding_VD = loader.tensor(declaration.embedding)
    head_VD = embedding_VD if declaration.lm_head is None else loader.tensor(declaration.lm_head)
    lm_head = Linear.build(head_VD, None, ops)
    if declaration.lm_head is None and ops.packed_embedding is not None:
        return TiedEmbedding(lm_head.weight, ops.packed_embedding), lm_head
    return Embedding(embedding_VD, ops.embedding), lm_head


def _bind(spec: ModelSpec, layers: tuple[DecoderLayer, ...], cos_sin_PK: Tensor, ops: Ops) -> DecoderLayers | None:
    if ops.bind_layers is None:
        return None
    heads = HeadShape(spec.heads, spec.kv_heads, spec.head_dim)
    shape = LayerShape(heads, spec.hidden, spec.ffn, cos_sin_PK, spec.norm_eps, spec.head_dim**-0.5)
    return ops.bind_layers(tuple(_weights_of(layer) for layer in layers), shape)


def _weights_of(layer: DecoderLayer) -> LayerWeights:
    attention, norm = layer.attention, layer.attention.qk_norm
    return LayerWeights(
        input_norm_D=layer.input_norm.weight_D,
        qkv=attention.qkv.weight,
        q_norm_K=norm.q_norm_K if norm else None,
        k_norm_K=norm.k_norm_K if norm else None,
        window=attention.window,
        out=attention.out.weight,
        post_norm_D=layer.post_norm.weight_D,
        gate_up=layer.feed_forward.gate_up.weight,
        down=layer.feed_forward.down.weight,
    )


def _largest_value(spec: ModelSpec, qkv: Linear, norm: RmsNorm) -> float:
    """See Attention."""
    return fp8.largest_of_normed(qkv.weight, norm.weight_D, spec.kv_heads * spec.head_dim)


def _build_layer(
    spec: ModelSpec, declared: LayerDeclaration, window: int | None, cos_sin_PK: Tensor, loader: Loader
) -> DecoderLayer:
    ops = loader.ops
    qk_norm = None
    if declared.q_norm and declared.k_norm:
        qk_norm = QkNorm(loader.tensor(declared.q_norm), loader.tensor(declared.k_norm), spec.norm_eps)
    qkv = loader.linear(declared.qkv)
    input_norm = RmsNorm(loader.tensor(declared.input_norm), spec.norm_eps, ops.norm_for_linear)
    attention = Attention(
        shape=HeadShape(spec.heads, spec.kv_heads, spec.head_dim),
        qkv=qkv,
        out=loader.linear(declared.out),
        cos_sin_PK=cos_sin_PK,
        qk_norm=qk_norm,
        scale=spec.head_dim**-0.5,
        window=window,
        ops=ops,
        largest=_largest_value(spec, qkv, input_norm) if ops.quantises_rows else None,
    )
    return DecoderLayer(
        input_norm=input_norm,
        attention=attention,
        post_norm=RmsNorm(loader.tensor(declared.post_norm), spec.norm_eps, ops.norm_for_linear),
        feed_forward=FeedForward(
            loader.linear(declared.gate_up), loader.linear(declared.down), ops.silu_mul, ops.gated_linear
        ),
        fused=ops.fused_linear,
        fused_rows=ops.fused_rows,
    )
