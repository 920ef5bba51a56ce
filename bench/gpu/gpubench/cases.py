"""What is measured: shapes in order of importance, their bytes and FLOPs. Pure.

A name says what differs from the usual 32 query heads, 8 KV heads, head dim 128, blocks of 16:
gpu.decode.bf16.b32.c4096, gpu.decode.bf16.b32.c4096.h32x32.d64.bs64. rank 0 runs first; inside a
rank the order is that of `grid`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "e4m3": 1, "e5m2": 1}


@dataclass(frozen=True)
class Shape:
    """What attention and K/V writes share."""

    dtype: str = "bf16"  # of K/V
    q_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    block_size: int = 16

    @property
    def q_dtype(self) -> str:
        """Queries of fp8 K/V are bf16."""
        return self.dtype if ELEMENT_BYTES[self.dtype] > 1 else "bf16"

    @property
    def token_bytes(self) -> int:
        """K and V of one token in one layer."""
        return 2 * self.kv_heads * self.head_dim * ELEMENT_BYTES[self.dtype]

    @property
    def suffix(self) -> str:
        usual = Shape()
        parts = []
        if (self.q_heads, self.kv_heads) != (usual.q_heads, usual.kv_heads):
            parts.append(f".h{self.q_heads}x{self.kv_heads}")
        if self.head_dim != usual.head_dim:
            parts.append(f".d{self.head_dim}")
        if self.block_size != usual.block_size:
            parts.append(f".bs{self.block_size}")
        return "".join(parts)


@dataclass(frozen=True)
class Case:
    """One line of the table. bytes and flops are those of one launch; the floor is whichever of
    bytes / copy bandwidth and flops / matrix rate `bound` names."""

    rank: int = field(kw_only=True, default=9)
    shape: Shape = field(kw_only=True, default=Shape())
    peers: tuple[str, ...] = field(kw_only=True, default=())
    label: str = field(kw_only=True, default="")  # behind the name, where a shape runs twice

    kind = ""
    bound = "copy"  # copy, read, matmul, d2h or h2d: which limit

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """Bytes that must move; 0 where FLOPs are the bound."""
        return 0

    @property
    def flops(self) -> int:
        return 0

    @property
    def limit(self) -> str:
        """The name of the limit's row."""
        if self.bound != "matmul":
            return f"gpu.limit.{self.bound}"
        compute = self.shape.dtype if self.shape.dtype in ("bf16", "f16") else "f16"
        return f"gpu.limit.matmul.{compute}"


@dataclass(frozen=True)
class Attention(Case):
    """q_len new tokens (1: decode) at the end of context tokens, for each sequence of a batch."""

    batch: int = 32
    context: int = 4096
    q_len: int = 1

    @property
    def rows(self) -> int:
        return self.batch * self.q_len

    @property
    def blocks_per_seq(self) -> int:
        return -(-self.context // self.shape.block_size)

    @property
    def lens(self) -> list[int]:
        """Tokens of each sequence."""
        return [self.context] * self.batch

    @property
    def num_blocks(self) -> int:
        """Of the pool of one layer."""
        return self.batch * self.blocks_per_seq

    @property
    def kv_bytes(self) -> int:
        """K and V of all sequences in one layer, whole blocks of the longest."""
        return self.num_blocks * self.shape.block_size * self.shape.token_bytes

    @property
    def attention_flops(self) -> int:
        """Two products of the visible pairs: causal, so q_len * (q_len + 1) / 2 among the new."""
        pairs = self.q_len * (self.context - self.q_len) + self.q_len * (self.q_len + 1) // 2
        return 4 * self.batch * pairs * self.shape.q_heads * self.shape.head_dim

    @property
    def dense_bytes(self) -> int:
        """The same gathered without blocks, in the queries' dtype."""
        scale = ELEMENT_BYTES[self.shape.q_dtype] / ELEMENT_BYTES[self.shape.dtype]
        return int(self.batch * self.context * self.shape.token_bytes * scale)


@dataclass(frozen=True)
class Decode(Attention):
    graph: bool = False  # replayed from a CUDA graph
    plan: bool = False  # by a plan's work list, not by bounds alone
    ragged: bool = False  # context is the longest of lengths that fall evenly to nearly none
    kind = "decode"

    @property
    def lens(self) -> list[int]:
        if not self.ragged:
            return super().lens
        return [self.context * (self.batch - i) // self.batch for i in range(self.batch)]

    @property
    def name(self) -> str:
        ways = {".ragged": self.ragged, ".plan": self.plan, ".graph": self.graph}
        end = self.shape.suffix + "".join(w for w, on in ways.items() if on) + self.label
        return f"gpu.decode.{self.shape.dtype}.b{self.batch}.c{self.context}{end}"

    @property
    def bytes(self) -> int:
        """K and V once for each KV head, whatever the number of query heads."""
        return sum(self.lens) * self.shape.token_bytes


@dataclass(frozen=True)
class Radix(Decode):
    """Decode of sequences that share blocks, read once for all: `shared` tokens lie under all of
    them, then `group_shared` under each of `groups` groups. All are whole blocks."""

    batch: int = 64
    context: int = 4352
    plan: bool = True
    shared: int = 4096
    groups: int = 1
    group_shared: int = 0
    invariant: bool = False  # batch-invariant
    kind = "radix"

    @property
    def own(self) -> int:
        """Tokens that each sequence has alone."""
        return self.context - self.shared - self.group_shared

    @property
    def name(self) -> str:
        level = f".g{self.groups}x{self.group_shared}" if self.group_shared else ""
        end = self.shape.suffix + (".invariant" if self.invariant else "") + self.label
        size = f"b{self.batch}.s{self.shared}{level}.own{self.own}"
        return f"gpu.radix.{self.shape.dtype}.{size}{end}"

    @property
    def distinct_tokens(self) -> int:
        return self.shared + self.groups * self.group_shared + self.batch * self.own

    @property
    def num_blocks(self) -> int:
        return self.distinct_tokens // self.shape.block_size

    @property
    def bytes(self) -> int:
        """Each distinct block once."""
        return self.distinct_tokens * self.shape.token_bytes


@dataclass(frozen=True)
class Prefill(Attention):
    kind = "prefill"
    bound = "matmul"

    @property
    def name(self) -> str:
        return (
            f"gpu.prefill.{self.shape.dtype}.b{self.batch}.q{self.q_len}.c{self.context}"
            f"{self.shape.suffix}{self.label}"
        )

    @property
    def flops(self) -> int:
        return self.attention_flops


@dataclass(frozen=True)
class Layer(Attention):
    """The attention block of a model's layer: norm, product, rotary embedding, K/V write,
    attention, product. One new token a sequence is decode, more are prefill."""

    hidden: int = 4096
    kind = "layer"

    @property
    def bound(self) -> str:  # type: ignore[override]
        return "copy" if self.q_len == 1 else "matmul"

    @property
    def name(self) -> str:
        new = f".q{self.q_len}" if self.q_len > 1 else ""
        size = f".m{self.hidden}" if self.hidden != 4096 else ""
        end = f"{new}.c{self.context}{size}{self.shape.suffix}"
        return f"gpu.layer.{self.shape.dtype}.b{self.batch}{end}"

    @property
    def weights(self) -> int:
        """Elements of both matrices."""
        heads = 2 * self.shape.q_heads + 2 * self.shape.kv_heads
        return self.hidden * heads * self.shape.head_dim

    @property
    def weight_bytes(self) -> int:
        return self.weights * ELEMENT_BYTES[self.shape.q_dtype]

    @property
    def bytes(self) -> int:
        """Weights and K/V read once, x read and y written."""
        rows = 2 * self.rows * self.hidden * ELEMENT_BYTES[self.shape.q_dtype]
        return self.weight_bytes + sum(self.lens) * self.shape.token_bytes + rows

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.weights + self.attention_flops


@dataclass(frozen=True)
class Rope(Case):
    """Rotary embedding of q and k, and the write of K and V to their slots."""

    tokens: int = 8192
    kind = "rope"

    @property
    def name(self) -> str:
        return f"gpu.rope_append.{self.shape.dtype}.t{self.tokens}{self.shape.suffix}"

    @property
    def row_bytes(self) -> int:
        """q, k and v of one token, as they are handed in."""
        heads = self.shape.q_heads + 2 * self.shape.kv_heads
        return heads * self.shape.head_dim * ELEMENT_BYTES[self.shape.q_dtype]

    @property
    def bytes(self) -> int:
        """q read and written, k and v read, K and V written, a slot and a position."""
        q = self.shape.q_heads * self.shape.head_dim * ELEMENT_BYTES[self.shape.q_dtype]
        return self.tokens * (self.row_bytes + q + self.shape.token_bytes + 8 + 4)


@dataclass(frozen=True)
class CopyBlocks(Case):
    """Whole blocks, all layers, to other places of the pool."""

    blocks: int = 64
    layers: int = 32
    pool_blocks: int = 1024
    kind = "copy"

    @property
    def name(self) -> str:
        end = f".n{self.blocks}.l{self.layers}{self.shape.suffix}"
        return f"gpu.copy_blocks.{self.shape.dtype}{end}"

    @property
    def block_bytes(self) -> int:
        """All layers of a block."""
        return self.layers * self.shape.block_size * self.shape.token_bytes

    @property
    def bytes(self) -> int:
        return 2 * self.blocks * self.block_bytes  # read and written


@dataclass(frozen=True)
class Swap(CopyBlocks):
    """Blocks to pinned host memory or back."""

    out: bool = True
    runs: bool = False  # the blocks are neighbours
    kind = "swap"

    @property
    def bound(self) -> str:  # type: ignore[override]
        return "d2h" if self.out else "h2d"

    @property
    def name(self) -> str:
        way = "out" if self.out else "in"
        end = ".neighbours" if self.runs else ".scattered"
        return f"gpu.swap_{way}.{self.shape.dtype}.n{self.blocks}.l{self.layers}{end}"

    @property
    def bytes(self) -> int:
        return self.blocks * self.block_bytes  # over the bus once


SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_p": {"temperature": 0.8, "top_p": 0.95},
    "all": {"temperature": 0.8, "top_k": 200, "top_p": 0.95, "min_p": 0.02},
}


@dataclass(frozen=True)
class Sample(Case):
    """A token from each row of logits (their dtype: the shape's), by a way of SAMPLING."""

    way: str = "greedy"
    rows: int = 64
    vocab: int = 128256
    kind = "sample"
    bound = "read"

    @property
    def name(self) -> str:
        return f"gpu.sample.{self.way}.{self.shape.dtype}.b{self.rows}.v{self.vocab}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Of every row; None: not given."""
        names = ("temperature", "top_k", "top_p", "min_p")
        return {name: SAMPLING[self.way].get(name) for name in names}

    @property
    def bytes(self) -> int:
        """The logits once."""
        return self.rows * self.vocab * ELEMENT_BYTES[self.shape.dtype]


HEADLINE = Decode(rank=0, peers=("sdpa_flash", "sdpa_cudnn", "flashinfer"))
BATCHES, CONTEXTS = (1, 8, 32, 128), (1024, 4096, 32768)
HEADS, HEAD_DIMS = ((32, 8), (32, 32)), (128, 64)
BLOCK_SIZES, DTYPES = (16, 64), ("bf16", "f16", "e4m3")


def _distance(batch: int, context: int, shape: Shape) -> int:
    """How many things differ from the headline: what is near it runs first."""
    usual = Shape()
    return (
        (batch != HEADLINE.batch)
        + (context != HEADLINE.context)
        + (shape.dtype != usual.dtype)
        + (shape.kv_heads != usual.kv_heads)
        + (shape.head_dim != usual.head_dim)
        + (shape.block_size != usual.block_size)
    )


def decode_grid() -> list[Decode]:
    """Every combination; rank 0 the headline, 2 what differs in one thing, 5 in two, then 7."""
    made = []
    axes = (BATCHES, CONTEXTS, DTYPES, HEADS, HEAD_DIMS, BLOCK_SIZES)
    for batch, context, dtype, heads, head_dim, block_size in itertools.product(*axes):
        shape = Shape(dtype, *heads, head_dim, block_size)
        distance = _distance(batch, context, shape)
        rank = (0, 2, 5)[distance] if distance < 3 else 7
        peers = HEADLINE.peers if distance == 0 else ("sdpa_flash", "flashinfer")
        if dtype == "e4m3":
            peers = ("flashinfer",)
        made.append(Decode(rank=rank, shape=shape, peers=peers, batch=batch, context=context))
    return made


def prefill_grid() -> list[Prefill]:
    """8,192 rows whole prompts; one prompt alone; 512 new tokens behind 7,680."""
    peers = ("sdpa_flash", "sdpa_cudnn", "flashinfer")
    made = [
        Prefill(rank=0, peers=peers, batch=1, context=8192, q_len=8192),
        Prefill(rank=1, peers=peers, batch=8, context=8192, q_len=512),
    ]
    for rank, dtype in ((1, "bf16"), (3, "f16"), (3, "e4m3")):
        for length in (512, 1024, 2048, 4096, 8192):
            case = Prefill(
                rank=rank,
                shape=Shape(dtype),
                peers=peers if dtype != "e4m3" else ("flashinfer",),
                batch=8192 // length,
                context=length,
                q_len=length,
            )
            if case.name != made[0].name:
                made.append(case)
    for shape in (Shape(head_dim=64), Shape(kv_heads=32), Shape(block_size=64)):
        made.append(replace(made[0], rank=3, shape=shape))
    made.append(replace(made[1], rank=3, batch=1))
    for length in (512, 1024, 2048, 4096):
        made.append(Prefill(rank=4, peers=peers, batch=1, context=length, q_len=length))
    return made


def _ways_of_decode() -> Iterable[Decode]:
    """Lengths that differ, and plans, which are for them."""
    peers = ("flashinfer",)
    yield replace(HEADLINE, rank=1, peers=(), plan=True)
    for plan in (False, True):
        yield replace(HEADLINE, rank=1, peers=peers, context=8192, ragged=True, plan=plan)
    yield Decode(rank=4, batch=1, context=32768, plan=True)
    yield Decode(rank=4, batch=8, context=32768, ragged=True, plan=True)


def other_grid() -> list[Case]:
    made: list[Case] = [
        replace(HEADLINE, rank=1, graph=True, peers=()),
        Decode(rank=1, batch=1, context=1024, graph=True),
        Decode(rank=4, batch=8, context=4096, graph=True),
        *_ways_of_decode(),
        Rope(rank=1, tokens=8192),
        Rope(rank=1, tokens=32),
        Rope(rank=4, tokens=8192, shape=Shape("e4m3")),
        Layer(rank=1, peers=("torch",)),
        Layer(rank=1, batch=1, context=2048, q_len=2048, peers=("torch",)),
        Layer(rank=4, batch=1, peers=("torch",)),
        Layer(rank=4, batch=8, context=4096, q_len=512, peers=("torch",)),
        CopyBlocks(rank=1, blocks=64, peers=("torch_index",)),
        CopyBlocks(rank=4, blocks=448, peers=("torch_index",)),
        CopyBlocks(rank=4, blocks=1),
    ]
    for out, runs in itertools.product((True, False), (False, True)):
        made.append(Swap(rank=1 if not runs else 4, blocks=256, out=out, runs=runs))
    # Compiling takes long: behind all but the rest of the product.
    late: dict[str, Any] = {"rank": 6, "peers": ("flex",), "label": ".late"}
    made.append(replace(HEADLINE, **late))
    made.append(Prefill(batch=1, context=8192, q_len=8192, **late))
    return made


def radix_grid() -> list[Case]:
    """One prefix at the sizes of the published figures, two levels, nothing shared."""
    peers = ("unshared", "flashinfer_cascade")
    made: list[Case] = [
        Radix(rank=0, peers=peers),
        Radix(rank=1, peers=peers, invariant=True),
        Radix(rank=1, peers=peers, shared=0, context=4096, batch=32),
        Radix(rank=1, peers=peers, shared=1024, groups=8, group_shared=2048, context=3328),
    ]
    mha = Shape(kv_heads=32)
    for shared in (1024, 2048, 4096):  # ChunkAttention's
        case = Radix(rank=4, peers=peers, shape=mha, batch=32, shared=shared, context=shared + 256)
        made.append(case)
    for batch, shared in ((256, 32768), (256, 2048), (8, 8192), (128, 16384)):
        made.append(Radix(rank=4, peers=peers, batch=batch, shared=shared, context=shared + 256))
    return made


def sample_grid() -> list[Sample]:
    """Rows of a small and of a large vocabulary; the largest batch is what throughput is about."""
    made = []
    for way, rows, vocab in itertools.product(SAMPLING, (1, 64, 256), (32000, 128256)):
        rank = 1 if rows == 64 and vocab == 128256 and way in ("greedy", "all") else 4
        made.append(Sample(rank=rank, peers=("torch",), way=way, rows=rows, vocab=vocab))
    return made


def grid() -> list[Case]:
    """All cases, most important first."""
    made = [*decode_grid(), *prefill_grid(), *other_grid(), *radix_grid(), *sample_grid()]
    return sorted(made, key=lambda case: case.rank)


def small_grid(device: str = "cuda") -> list[Case]:
    """One small case of each kind and peer: a look at whether everything runs. On the CPU without
    what only CUDA has: fp8, graphs, and the peers that need it."""
    cuda = device == "cuda"
    attention: dict[str, Any] = {"batch": 2, "context": 80}
    peers = ("sdpa_flash", "sdpa_cudnn", "flashinfer") if cuda else ("sdpa_flash",)
    flex = ("flex",) if cuda else ()
    made: list[Case] = [
        Decode(rank=0, peers=peers, shape=Shape(dtype), **attention)
        for dtype in (("bf16", "f16", "e4m3") if cuda else ("bf16", "f16"))
    ]
    if cuda:
        made.append(Decode(rank=0, graph=True, **attention))
    plain: dict[str, Any] = {"rank": 0, "batch": 3, "context": 90}
    made += [
        Decode(**plain, ragged=True, peers=("flashinfer",) if cuda else ()),
        Decode(**plain, ragged=True, plan=True),
        Decode(**plain, plan=True, shape=Shape("f16")),
        Decode(rank=0, shape=Shape("f16", 8, 8, 64, 64), peers=(*peers, *flex), **attention),
        Prefill(rank=0, peers=(*peers, *flex), q_len=80, **attention),
        Prefill(rank=0, peers=(*peers, *flex), q_len=16, **attention),
        Layer(rank=0, hidden=256, peers=("torch",), **attention),
        Layer(rank=0, hidden=256, q_len=80, peers=("torch",), **attention),
        Layer(rank=0, hidden=256, q_len=16, shape=Shape("f16"), peers=("torch",), **attention),
        Rope(rank=0, tokens=40),
        Rope(rank=0, tokens=300),
        CopyBlocks(rank=0, blocks=3, layers=2, pool_blocks=16, peers=("torch_index",)),
    ]
    tree: dict[str, Any] = {
        "rank": 0,
        "peers": ("unshared", "flashinfer_cascade") if cuda else ("unshared",),
        "batch": 6,
        "shared": 64,
        "groups": 2,
        "group_shared": 32,
        "context": 112,
    }
    made += [Radix(**tree), Radix(**tree, invariant=True, shape=Shape("f16"))]
    made += [Sample(rank=0, peers=("torch",), way=way, rows=5, vocab=3000) for way in SAMPLING]
    for out, runs in itertools.product((True, False), (False, True)):
        made.append(Swap(rank=0, blocks=4, layers=2, pool_blocks=16, out=out, runs=runs))
    return made
