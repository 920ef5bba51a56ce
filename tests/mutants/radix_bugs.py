"""Bugs of radix attention's CUDA kernels."""
from entries import KERNELS, bug, plant

BUGS = []

RANDOM = "CudaRadix.RandomListsOfRandomTrees"
BITS = "CudaRadix.ABatchInvariantRowsBitsDoNotDependOnTheItems"
ORDER = "CudaRadix.EveryOrderGivesTheSame"
LIES = "CudaRadix.ContentsThatLieStayInside"
STRAYS = "CudaRadix.ItemsOfSequencesAndRowsThatDoNotExistAreSkipped"

BUGS += plant(
    KERNELS + "radix.cu", "radix",
    bug("items of sequences that do not exist",
        "if (it.seq < 0 || static_cast<uint32_t>(it.seq) >= p.num_seqs) return item;", "",
        STRAYS, under="asan"),
    bug("keys past the sequence's end",
        "clamped(it.token_end, begin, context)", "it.token_end",
        "CudaRadix.KeysPastTheSequencesEndAreNotSeen", under="asan"),
    bug("items past the room for them",
        "clamped(p.radix.sizes->num_items, 0, p.radix.max_items)", "p.radix.sizes->num_items",
        "CudaRadix.CountsAreCutToTheRoom", under="asan"),
    bug("a token that a window hides",
        "int64_t{place.position} - p.window + 1;", "int64_t{place.position} - p.window;", RANDOM),
    bug("causal order off by one",
        "static_cast<int32_t>(item.range.end) : place.position + 1}",
        "static_cast<int32_t>(item.range.end) : place.position}", RANDOM),
    bug("edge tiles not masked",
        "first + kTile <= row.span.high &&", "first <= row.span.high &&", RANDOM),
    bug("tiles skipped that a row sees",
        "if (at >= span.high || at + kTile <= span.low) continue;",
        "if (at + 1 >= span.high || at + kTile <= span.low) continue;", RANDOM),
    bug("tree masks not looked at",
        "if (p.tree_mask == nullptr || key < item.shift) return true;", "return true;", RANDOM),
    bug("tokens of the tile before",
        "seen_now >> (t * kTile) & kAllSeen", "seen_now & kAllSeen", RANDOM),
    bug("values of the tile before",
        "k + (W::kTiles + t) * G::kTileBytes", "k + W::kTiles * G::kTileBytes", RANDOM),
    bug("both halves of o from the first columns",
        "warp.first_column, s[i], state);", "0, s[i], state);", RANDOM),
    bug("segments end a step late",
        "if ((first + W::kTokens) % kSegmentTokens != 0 &&", "if (first % kSegmentTokens != 0 &&",
        BITS),
    bug("the last segment instead of all", "fold(*state, total);", "*total = *state;", RANDOM),
    bug("the warps' segments folded in another order",
        "for (int w = 0; w < warps; ++w) {\n      const Fold f = fold_of",
        "for (int w = warps - 1; w >= 0; --w) {\n      const Fold f = fold_of", RANDOM),
    bug("states of segments counted from the sequence's first",
        "int64_t{part} - item.first_segment", "int64_t{part}", RANDOM),
    bug("segments that nobody sees have no state",
        "if (!every_segment) item.walk_begin", "item.walk_begin",
        "CudaRadix.SegmentsThatNobodySeesHaveAnEmptyState"),
    bug("missing barrier before states go over rings",
        "__syncthreads();  // all warps are done with their rings", "", ORDER),
)

BUGS += plant(
    KERNELS + "radix_rows.h", "radix",
    bug("rows that do not exist",
        "if (query < 0 || query >= num_queries(p)) return {-1, -1};", "", LIES, under="asan"),
    bug("queries that q does not have",
        "clamped(p.cu_q_lens[p.num_seqs], 0, p.num_q_rows)", "p.cu_q_lens[p.num_seqs]",
        "CudaRadix.RowsThatQDoesNotHaveAreNone", under="asan"),
    bug("states past the room for them",
        "index < 0 || index >= static_cast<int64_t>(split.max_states)", "index < 0",
        LIES, under="asan"),
    bug("a state not scaled",
        "return fmaf(first, fold.of_first, mul_rn(second, fold.of_second));",
        "return fmaf(first, fold.of_first, second);", RANDOM),
)

BUGS += plant(
    KERNELS + "radix_merge.cu", "radix",
    bug("terms past their end",
        "clamped(merge.term_end, begin, p.radix.max_terms)", "merge.term_end", LIES,
        under="asan"),
    bug("rows without a key keep what stood there",
        "if (place.query >= 0) write(p, place.query, head, sum);", "", RANDOM),
    bug("the last segment left out",
        "i <= last / kSegmentTokens; ++i)", "i < last / kSegmentTokens; ++i)", BITS),
)

BUGS += plant(
    KERNELS + "decode_tile.h", "radix",
    bug("every warp brings the first tokens",
        "const int r = share + i + lane / kLanesPerRow;", "const int r = i + lane / kLanesPerRow;",
        RANDOM),
)
