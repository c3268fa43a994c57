"""A decoder as the list of tensors it is made of: known before any weight is read.

Shape letters as in tradewind.kernels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from tradewind.models.family import TensorNames
from tradewind.models.spec import ModelSpec


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class LinearSpec:
    """A linear layer: one weight, or several stacked along their outputs; biases likewise, or none."""

    weights: tuple[TensorSpec, ...]
    biases: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class LayerDeclaration:
    """The tensors of one decoder layer."""

    input_norm: TensorSpec
    qkv: LinearSpec
    q_norm: TensorSpec | None
    k_norm: TensorSpec | None
    out: LinearSpec
    post_norm: TensorSpec
    gate_up: LinearSpec
    down: LinearSpec

    def tensors(self) -> Iterator[TensorSpec]:
        """All of them, in the order in which they are read."""
        yield self.input_norm
        for linear in (self.qkv, self.out, self.gate_up, self.down):
            yield from linear.weights
            yield from linear.biases
        yield self.post_norm
        yield from (norm for norm in (self.q_norm, self.k_norm) if norm)


@dataclass(frozen=True)
class Declaration:
    """The tensors of a decoder. `lm_head` is None if it is the embedding; `ignored` may be there, and is not read."""

    embedding: TensorSpec
    layers: tuple[LayerDeclaration, ...]
    final_norm: TensorSpec
    lm_head: TensorSpec | None
    ignored: tuple[str, ...]

    def tensors(self) -> Iterator[TensorSpec]:
        """All of them, in the order in which they are read."""
        yield self.embedding
        for layer in self.layers:
            yield from layer.tensors()
        yield self.final_norm
        if self.lm_head:
            yield self.lm_head


def declare(spec: ModelSpec, names: TensorNames) -> Declaration:
    """The tensors of a model of this shape, under the family's names."""
    vocab_shape = (spec.vocab, spec.hidden)
    return Declaration(
        embedding=TensorSpec(names.embedding, vocab_shape),
        layers=tuple(_declare_layer(spec, names, names.layer.format(layer=i)) for i in range(spec.layers)),
        final_norm=TensorSpec(names.final_norm, (spec.hidden,)),
        lm_head=None if spec.tied else TensorSpec(names.lm_head, vocab_shape),
        ignored=(names.lm_head,) if spec.tied else (),
    )


def _declare_layer(spec: ModelSpec, names: TensorNames, prefix: str) -> LayerDeclaration:
    def vector(name: str, size: int) -> TensorSpec:
        return TensorSpec(prefix + name, (size,))

    def linear(parts: list[tuple[str, int]], inputs: int, bias: bool) -> LinearSpec:
        weights = tuple(TensorSpec(f"{prefix}{name}.weight", (outputs, inputs)) for name, outputs in parts)
        return LinearSpec(weights, tuple(vector(f"{name}.bias", outputs) for name, outputs in parts) if bias else ())

    q_features, kv_features = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    qkv = [(names.q, q_features), (names.k, kv_features), (names.v, kv_features)]
    return LayerDeclaration(
        input_norm=vector(names.input_norm, spec.hidden),
        qkv=linear(qkv, spec.hidden, spec.qkv_bias),
        q_norm=vector(names.q_norm, spec.head_dim) if spec.qk_norm else None,
        k_norm=vector(names.k_norm, spec.head_dim) if spec.qk_norm else None,
        out=linear([(names.out, spec.hidden)], q_features, spec.out_bias),
        post_norm=vector(names.post_norm, spec.hidden),
        gate_up=linear([(names.gate, spec.ffn), (names.up, spec.ffn)], spec.hidden, spec.ffn_bias),
        down=linear([(names.down, spec.hidden)], spec.ffn, spec.ffn_bias),
    )
