#include "engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "error.h"
#include "ops.h"

namespace npc {

Engine::Engine(Model* model, const EngineOptions& options)
    : model_(model), options_(options), device_(open_device(options.device)) {
  make_context();
  attention_ = std::make_unique<Attention>(ctx_.get(), device_.get(), model_->config(), bounds());
  const radix_stats s = stats();
  block_bytes_ = s.kv_bytes / s.blocks_total;
}

void Engine::make_context() {
  radix_config config = {};
  config.struct_size = sizeof config;
  config.abi = RADIXATTN_ABI;
  config.device = device_->kind();
  config.flags = RADIX_CTX_EXTERNAL_SYNC;
  config.kv_dtype = options_.kv_dtype;
  config.num_blocks = options_.num_blocks;
  config.block_size = options_.block_size;
  config.num_threads = device_->kind() == RADIX_DEV_CPU ? options_.threads : 0;
  model_->describe_cache(&config);
  radix_ctx* ctx = nullptr;
  check(radix_ctx_create(&config, &ctx), "radix_ctx_create");
  ctx_.reset(ctx);
}

// As plan_step() and submit() keep them.
StepBounds Engine::bounds() const {
  const uint32_t limit = model_->config().max_positions;
  const uint64_t pool = uint64_t{options_.num_blocks} * options_.block_size;
  StepBounds b;
  b.rows = std::max(options_.step_tokens, options_.max_running + 1);
  b.seqs = options_.max_running;
  b.context_len = static_cast<uint32_t>(std::min<uint64_t>(limit, pool));
  b.table_width = (b.context_len + options_.block_size - 1) / options_.block_size;
  return b;
}

radix_stats Engine::stats() const {
  radix_stats s = {};
  s.struct_size = sizeof s;
  check(radix_get_stats(ctx_.get(), &s), "radix_get_stats");
  return s;
}

void Engine::check_cache() const { check(radix_check(ctx_.get()), "radix_check"); }

uint32_t Engine::submit(std::vector<int32_t> prompt, uint32_t max_new_tokens) {
  const uint32_t limit = model_->config().max_positions;
  if (prompt.empty() || prompt.size() >= limit || max_new_tokens == 0) {
    throw Error("a prompt of " + std::to_string(prompt.size()) + " tokens: expected 1.." +
                std::to_string(limit - 1) + ", and at least one token to generate");
  }
  Generation& g = generations_.emplace_back();
  g.id = static_cast<uint32_t>(generations_.size() - 1);
  Sequence& s = sequences_.emplace_back();
  s.generation = &g;
  s.tokens = prompt;
  s.max_new_tokens = std::min(max_new_tokens, limit - static_cast<uint32_t>(prompt.size()));
  s.submitted = Clock::now();
  g.prompt = std::move(prompt);
  waiting_.push_back(&s);
  return g.id;
}

std::vector<uint32_t> Engine::take_finished() { return std::exchange(finished_, {}); }

bool Engine::step() {
  if (waiting_.empty() && running_.empty()) return false;
  admission_closed_ = false;
  reserve_running();
  admit_waiting();
  track_memory();
  refresh_borrowers();
  const std::vector<Chunk> chunks = plan_step();
  build_batch(chunks);
  model_->forward(attention_.get(), batch_, &logits_);
  for (const Chunk& c : chunks) {
    c.sequence->computed += c.num_tokens;
    c.sequence->borrows = false;  // its lender ran no later: what was promised is written
  }
  commit(chunks);
  accept_tokens(chunks);
  ++steps_;
  return true;
}

// ---- memory: reserve, admit, preempt

// Slots for all tokens that `sequences` have beyond their reserved ones, all or none.
radix_status Engine::append(const std::vector<Sequence*>& sequences) {
  std::vector<radix_append> items;
  for (const Sequence* s : sequences) {
    radix_append item = {};
    item.req = s->req;
    item.tokens = s->tokens.data() + s->reserved;
    item.num_tokens = static_cast<uint32_t>(s->tokens.size() - s->reserved);
    items.push_back(item);
  }
  std::vector<radix_op> ops(items.size());  // at most one copy an item
  radix_append_out out = {};
  out.struct_size = sizeof out;
  out.ops = ops.data();
  out.ops_cap = static_cast<uint32_t>(ops.size());
  const radix_status status =
      radix_append_slot(ctx_.get(), items.data(), static_cast<uint32_t>(items.size()), &out);
  if (status == RADIX_E_NO_BLOCKS) return status;
  check(status, "radix_append_slot");
  if (out.num_ops > 0)
    check(radix_run_ops(ctx_.get(), ops.data(), out.num_ops, device_->stream()), "radix_run_ops");
  for (Sequence* s : sequences) s->reserved = s->tokens.size();
  return RADIX_OK;
}

void Engine::reserve_running() {
  for (;;) {
    std::vector<Sequence*> growing;
    for (Sequence* s : running_) {
      if (s->reserved < s->tokens.size()) growing.push_back(s);
    }
    if (growing.empty() || append(growing) == RADIX_OK) return;
    preempt_last();
  }
}

// Invariant 2: the last admitted goes, so a lender never goes before its borrowers.
void Engine::preempt_last() {
  Sequence* s = running_.back();
  if (running_.size() == 1) {
    throw Error("a pool of " + std::to_string(options_.num_blocks) +
                " blocks is too small for one sequence of " + std::to_string(s->tokens.size()) +
                " tokens");
  }
  running_.pop_back();
  check(radix_free_request(ctx_.get(), s->req, options_.cache ? 0 : RADIX_FREE_DISCARD),
        "radix_free_request");
  s->req = 0;
  s->reserved = s->computed = 0;
  s->borrows = false;
  ++s->generation->preemptions;
  ++preemptions_;
  waiting_.push_front(s);
  admission_closed_ = true;
}

void Engine::admit_waiting() {
  while (!admission_closed_ && !waiting_.empty() && running_.size() < options_.max_running) {
    if (!try_admit(waiting_.front())) return;
    waiting_.pop_front();
  }
}

// NOTE: the whole prompt is reserved at once, though it may be computed in chunks: only so can the
// next request, in this same step, see all of it as pending and borrow it.
bool Engine::try_admit(Sequence* s) {
  radix_request_desc d = {};
  d.struct_size = sizeof d;
  d.flags = options_.cache ? RADIX_BEGIN_SHARE_PENDING : RADIX_BEGIN_NO_MATCH;
  d.tokens = s->tokens.data();
  d.num_tokens = s->tokens.size();
  radix_match m = {};
  m.struct_size = sizeof m;
  check(radix_begin_request(ctx_.get(), &d, &s->req, &m), "radix_begin_request");
  s->reserved = s->computed = m.cached_tokens + m.pending_tokens;
  s->borrows = m.pending_tokens > 0;
  const uint64_t found = s->computed;
  if (append({s}) != RADIX_OK) {
    check(radix_free_request(ctx_.get(), s->req, 0), "radix_free_request");
    s->req = 0;
    s->reserved = s->computed = 0;
    if (!running_.empty()) return false;
    throw Error("a pool of " + std::to_string(options_.num_blocks) +
                " blocks is too small for one sequence of " + std::to_string(s->tokens.size()) +
                " tokens");
  }
  if (!s->begun) s->generation->cached_tokens = found;
  s->begun = true;
  running_.push_back(s);
  return true;
}

// A promise that broke (its lender left) or was kept (somebody committed the blocks) is read from
// the library.
void Engine::refresh_borrowers() {
  for (Sequence* s : running_) {
    if (!s->borrows) continue;
    radix_request_info info = {};
    info.struct_size = sizeof info;
    check(radix_get_request(ctx_.get(), s->req, &info), "radix_get_request");
    s->computed = std::min(s->computed, info.ready_tokens);
    s->borrows = info.pending_tokens > 0;
  }
}

void Engine::track_memory() {
  const radix_stats s = stats();
  peak_kv_bytes_ = std::max(peak_kv_bytes_, (s.blocks_total - s.blocks_free) * block_bytes_);
}

// ---- the batch

// Every decoding sequence, then prompts in order of admission until the budget is spent. A borrower
// waits behind its lender by that order alone: while an earlier prompt is not finished, the budget
// is.
std::vector<Engine::Chunk> Engine::plan_step() {
  std::vector<Chunk> chunks;
  for (Sequence* s : running_) {
    if (s->decoding() && s->tokens.size() - s->computed == 1) chunks.push_back({s, 1});
  }
  batch_.num_decode = static_cast<uint32_t>(chunks.size());
  uint64_t budget = std::max<uint64_t>(options_.step_tokens, chunks.size() + 1) - chunks.size();
  for (Sequence* s : running_) {
    const uint64_t left = s->tokens.size() - s->computed;
    if (s->decoding() && left == 1) continue;
    const uint64_t n = std::min(left, budget);
    if (n == 0) break;
    chunks.push_back({s, static_cast<uint32_t>(n)});
    budget -= n;
  }
  return chunks;
}

void Engine::build_batch(const std::vector<Chunk>& chunks) {
  StepBatch& b = batch_;
  b.tokens.clear();
  b.positions.clear();
  b.slots.clear();
  b.context_lens.clear();
  b.cu_q_lens.assign(1, 0);
  b.logit_rows.clear();
  std::vector<radix_req> reqs;
  uint64_t longest = 0;
  for (const Chunk& c : chunks) {
    reqs.push_back(c.sequence->req);
    longest = std::max(longest, c.sequence->reserved);
  }
  b.table_stride = static_cast<int64_t>((longest + options_.block_size - 1) / options_.block_size);
  b.tables.resize(chunks.size() * static_cast<size_t>(b.table_stride));
  check(radix_get_block_tables(ctx_.get(), reqs.data(), static_cast<uint32_t>(reqs.size()),
                               b.tables.data(), b.table_stride, nullptr, nullptr),
        "radix_get_block_tables");
  for (size_t i = 0; i < chunks.size(); ++i)
    add_rows(chunks[i], b.tables.data() + i * static_cast<size_t>(b.table_stride));
}

void Engine::add_rows(const Chunk& chunk, const int32_t* table) {
  StepBatch& b = batch_;
  Sequence& s = *chunk.sequence;
  const uint64_t end = s.computed + chunk.num_tokens;
  for (uint64_t position = s.computed; position < end; ++position) {
    b.tokens.push_back(s.tokens[position]);
    b.positions.push_back(static_cast<int32_t>(position));
    const uint64_t block = position / options_.block_size, offset = position % options_.block_size;
    b.slots.push_back(int64_t{table[block]} * options_.block_size + static_cast<int64_t>(offset));
  }
  const uint64_t prompt_end = std::min<uint64_t>(end, s.generation->prompt.size());
  if (prompt_end > s.computed) s.generation->computed_tokens += prompt_end - s.computed;
  b.context_lens.push_back(static_cast<int32_t>(end));
  if (b.context_lens.size() > b.num_decode)
    b.cu_q_lens.push_back(static_cast<int32_t>(b.rows() - b.num_decode));
  if (end == s.tokens.size()) b.logit_rows.push_back(b.rows() - 1);
}

void Engine::commit(const std::vector<Chunk>& chunks) {
  if (!options_.cache) return;
  std::vector<radix_commit_item> items;
  for (const Chunk& c : chunks) items.push_back({c.sequence->req, c.sequence->computed});
  check(radix_commit(ctx_.get(), items.data(), static_cast<uint32_t>(items.size()), nullptr),
        "radix_commit");
}

// ---- sampling

void Engine::accept_tokens(const std::vector<Chunk>& chunks) {
  const float* row = logits_.data();
  for (const Chunk& c : chunks) {
    if (c.sequence->computed < c.sequence->tokens.size()) continue;  // a prompt still on its way
    accept(c.sequence, row);
    row += model_->config().vocab_size;
  }
}

void Engine::accept(Sequence* s, const float* logits) {
  const ModelConfig& config = model_->config();
  Generation& g = *s->generation;
  const double now = std::chrono::duration<double>(Clock::now() - s->submitted).count();
  if (g.output.empty()) g.first_token_s = now;
  const uint64_t bytes = uint64_t{config.vocab_size} * sizeof(float);
  const bool complete =
      g.logits.size() == g.output.size() * config.vocab_size;  // rows stay a prefix of the output
  if (complete && kept_logit_bytes_ + bytes <= options_.max_logit_bytes) {
    g.logits.insert(g.logits.end(), logits, logits + config.vocab_size);
    kept_logit_bytes_ += bytes;
  }
  const auto token = static_cast<int32_t>(argmax(logits, config.vocab_size));
  g.output.push_back(token);
  s->tokens.push_back(token);
  const bool ends = std::find(config.eos.begin(), config.eos.end(), token) != config.eos.end();
  if (!ends && g.output.size() < s->max_new_tokens) return;
  g.total_s = now;
  finish(s);
}

void Engine::finish(Sequence* s) {
  check(radix_free_request(ctx_.get(), s->req, options_.cache ? 0 : RADIX_FREE_DISCARD),
        "radix_free_request");
  s->generation->done = true;
  finished_.push_back(s->generation->id);
  running_.erase(std::find(running_.begin(), running_.end(), s));
  sequences_.remove_if([s](const Sequence& other) { return &other == s; });
}

}  // namespace npc
