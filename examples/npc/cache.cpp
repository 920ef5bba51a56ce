#include "cache.h"

#include "error.h"

namespace npc {

namespace {

int64_t append_to(void* user, const void* buf, uint64_t len) {
  static_cast<std::string*>(user)->append(static_cast<const char*>(buf), len);
  return static_cast<int64_t>(len);
}

}  // namespace

Cache::Cache(DeviceMemory* device, const radix_config& config) : device_(device) {
  radix_ctx* ctx = nullptr;
  npc::check(radix_ctx_create(&config, &ctx), "radix_ctx_create");
  ctx_.reset(ctx);
}

radix_req Cache::begin(std::span<const int32_t> tokens, uint32_t flags, Found* found) {
  radix_request_desc d = {};
  d.struct_size = sizeof d;
  d.flags = flags;
  d.tokens = tokens.data();
  d.num_tokens = tokens.size();
  radix_match m = {};
  m.struct_size = sizeof m;
  radix_req req = 0;
  npc::check(radix_begin_request(ctx(), &d, &req, &m), "radix_begin_request");
  *found = {m.cached_tokens, m.pending_tokens};
  return req;
}

bool Cache::append(std::span<const Append> items) {
  std::vector<radix_append> appends;
  for (const Append& a : items) {
    radix_append item = {};
    item.req = a.req;
    item.tokens = a.tokens.data();
    item.num_tokens = static_cast<uint32_t>(a.tokens.size());
    appends.push_back(item);
  }
  std::vector<radix_op> ops(items.size());  // at most one copy an item
  radix_append_out out = {};
  out.struct_size = sizeof out;
  out.ops = ops.data();
  out.ops_cap = static_cast<uint32_t>(ops.size());
  const radix_status status =
      radix_append_slot(ctx(), appends.data(), static_cast<uint32_t>(appends.size()), &out);
  if (status == RADIX_E_NO_BLOCKS) return false;
  npc::check(status, "radix_append_slot");
  if (out.num_ops > 0)
    npc::check(radix_run_ops(ctx(), ops.data(), out.num_ops, device_->stream()), "radix_run_ops");
  return true;
}

radix_req Cache::fork(radix_req parent) {
  radix_req child = 0;
  npc::check(radix_fork(ctx(), parent, 1, &child), "radix_fork");
  return child;
}

void Cache::truncate(radix_req req, uint64_t length) {
  npc::check(radix_truncate(ctx(), req, length), "radix_truncate");
}

void Cache::commit(std::span<const radix_commit_item> items) {
  npc::check(radix_commit(ctx(), items.data(), static_cast<uint32_t>(items.size()), nullptr),
             "radix_commit");
}

void Cache::free(radix_req req, bool keep) {
  npc::check(radix_free_request(ctx(), req, keep ? 0 : RADIX_FREE_DISCARD), "radix_free_request");
}

radix_request_info Cache::info(radix_req req) const {
  radix_request_info info = {};
  info.struct_size = sizeof info;
  npc::check(radix_get_request(ctx(), req, &info), "radix_get_request");
  return info;
}

radix_stats Cache::stats() const {
  radix_stats s = {};
  s.struct_size = sizeof s;
  npc::check(radix_get_stats(ctx(), &s), "radix_get_stats");
  return s;
}

std::string Cache::sharing_graph() const {
  std::string text;
  npc::check(radix_sharing_graph(ctx(), append_to, &text, RADIX_GRAPH_JSON), "radix_sharing_graph");
  return text;
}

void Cache::check() const { npc::check(radix_check(ctx()), "radix_check"); }

}  // namespace npc
