"""One folder per op: the contract, a torch reference that is the truth, and faster implementations.

Shape letters, in all of this package: T tokens of the step, R rows (sequences) of the step, D hidden, H query heads,
G key-value heads, K head_dim, C = (H + 2 * G) * K, F ffn, N output features, V vocabulary, P positions, L layers,
B blocks of the pool, S block_tokens, M entries of a block table.

What every op keeps to:
- All tensors of a call are on one device. Activations and weights have one dtype (float32, bfloat16 or float16),
  unless the contract says otherwise. Arithmetic inside is at least float32; what is returned is rounded once.
- T and R may be 0; every row of a step has at least one token.
- The last dimension of every tensor is dense (stride 1); the others may be strided, if the contract does not say
  "contiguous". What is returned is contiguous.
- An op never reads what its contract calls garbage: uninitialised memory, NaN and infinity there change nothing.

An implementation is a module in the op's folder with the op's function and, if it does not work everywhere, a function
`unavailable(device, dtype) -> str | None` that says why not (None: it does). The op's `choose` lists the
implementations, fastest first.
"""
