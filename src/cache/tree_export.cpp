// The tree below one root as flat arrays (radix_tree_view): breadth first, siblings sorted by the
// tokens of their first block.
//
// Nothing is allocated: while nodes are put in order, the caller's depth_blocks is the queue of
// their ids.
#include <algorithm>

#include "base/error.h"
#include "cache/cache_manager.h"

namespace radixattn {
namespace {

class TreeExport {
 public:
  TreeExport(const RadixTree& tree, uint32_t block_size, radix_tree_view* out)
      : tree_(tree), block_size_(block_size), out_(*out) {}

  void count(uint32_t root) {
    tree_.for_each_below(root, [this](uint32_t id, uint32_t) {
      ++out_.num_nodes;
      out_.num_blocks += tree_.node(id).num;
    });
  }

  // child_begin, parent, and in depth_blocks the ids of the nodes.
  void order(uint32_t root) {
    int32_t end = 0;
    out_.child_begin[0] = 0;
    for (int32_t i = -1; i < static_cast<int32_t>(out_.num_nodes); ++i) {
      end = add_children(i < 0 ? root : id_of(i), i, end);
      out_.child_begin[i + 2] = end;
    }
  }

  void fill() {
    int32_t end = 0;
    out_.block_begin[0] = 0;
    for (int32_t i = 0; i < static_cast<int32_t>(out_.num_nodes); ++i) {
      const uint32_t id = id_of(i);
      const RadixTree::Node& n = tree_.node(id);
      std::memcpy(out_.block_ids + end, tree_.node_blocks(id), n.num * sizeof(int32_t));
      std::memcpy(out_.tokens + int64_t{end} * block_size_, tree_.node_tokens(id),
                  uint64_t{n.num} * block_size_ * sizeof(int32_t));
      end += static_cast<int32_t>(n.num);
      out_.block_begin[i + 1] = end;
      out_.depth_blocks[i] = static_cast<int32_t>(n.depth_blocks);
    }
  }

 private:
  uint32_t id_of(int32_t i) const { return static_cast<uint32_t>(out_.depth_blocks[i]); }

  // The children of `id` (which is `index`) from `begin` on; returns their end.
  int32_t add_children(uint32_t id, int32_t index, int32_t begin) {
    int32_t end = begin;
    for (uint32_t c = tree_.node(id).first_child; c != kNone; c = tree_.node(c).next_sibling) {
      out_.parent[end] = index;
      out_.depth_blocks[end++] = static_cast<int32_t>(c);
    }
    std::sort(out_.depth_blocks + begin, out_.depth_blocks + end, [this](int32_t a, int32_t b) {
      const int32_t* x = tree_.node_tokens(static_cast<uint32_t>(a));
      const int32_t* y = tree_.node_tokens(static_cast<uint32_t>(b));
      return std::lexicographical_compare(x, x + block_size_, y, y + block_size_);
    });
    return end;
  }

  const RadixTree& tree_;
  const uint32_t block_size_;
  radix_tree_view& out_;
};

radix_status check_room(const radix_tree_view& io) {
  if (io.nodes_cap < io.num_nodes || io.blocks_cap < io.num_blocks) {
    return fail(RADIX_E_BUFFER, "io has room for %u nodes and %u blocks: expected %u and %u",
                io.nodes_cap, io.blocks_cap, io.num_nodes, io.num_blocks);
  }
  const struct {
    const void* array;
    const char* name;
  } arrays[] = {{io.parent, "parent"},           {io.depth_blocks, "depth_blocks"},
                {io.child_begin, "child_begin"}, {io.block_begin, "block_begin"},
                {io.block_ids, "block_ids"},     {io.tokens, "tokens"}};
  for (const auto& a : arrays) {
    if (a.array == nullptr && io.num_nodes > 0) {
      return fail(RADIX_E_INVALID, "io->%s is NULL: the tree has %u nodes and %u blocks", a.name,
                  io.num_nodes, io.num_blocks);
    }
  }
  return RADIX_OK;
}

}  // namespace

radix_status CacheManager::export_tree(radix_ns id, uint64_t extra_key, radix_tree_view* io) {
  uint32_t ns;
  radix_status st = find_namespace(id, &ns);
  if (st != RADIX_OK) return st;
  const uint32_t root = tree_.find_root(ns, extra_key);
  TreeExport tree(tree_, config_.block_size, io);
  io->block_size = config_.block_size;
  io->num_nodes = io->num_blocks = 0;
  if (root != kNone) tree.count(root);
  st = check_room(*io);
  if (st != RADIX_OK) return st;
  if (io->num_nodes > 0) {
    tree.order(root);
    tree.fill();
    return RADIX_OK;
  }
  if (io->child_begin != nullptr) io->child_begin[0] = io->child_begin[1] = 0;
  if (io->block_begin != nullptr) io->block_begin[0] = 0;
  return RADIX_OK;
}

}  // namespace radixattn
