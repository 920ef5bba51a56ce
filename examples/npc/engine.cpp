#include "engine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "draft.h"
#include "error.h"

namespace npc {

Engine::Engine(Model* model, const EngineOptions& options)
    : model_(model), options_(options), device_(open_device(options.device)) {
  make_cache();
  const StepBounds b = bounds();
  attention_ = std::make_unique<Attention>(cache_.get(), device_.get(), model_->config(),
                                           model_->attention_weights(), b, options_.reads);
  sampler_ = std::make_unique<Sampler>(cache_.get(), device_.get(), model_->config().vocab_size,
                                       b.logit_rows);
  const radix_stats s = stats();
  block_bytes_ = s.kv_bytes / s.blocks_total;
}

void Engine::make_cache() {
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
  cache_ = std::make_unique<Cache>(device_.get(), config);
}

// As plan_step() and submit() keep them.
StepBounds Engine::bounds() const {
  const uint32_t limit = model_->config().max_positions;
  const uint64_t pool = uint64_t{options_.num_blocks} * options_.block_size;
  StepBounds b;
  b.rows = std::max(options_.step_tokens, options_.max_running * (1 + options_.draft_tokens) + 1);
  b.seqs = options_.max_running;
  b.context_len = static_cast<uint32_t>(std::min<uint64_t>(limit, pool));
  b.logit_rows = options_.max_running * (1 + options_.draft_tokens);
  return b;
}

uint32_t Engine::submit(std::vector<int32_t> prompt, uint32_t max_new_tokens,
                        const SamplingParams& params, uint32_t n) {
  const uint32_t limit = model_->config().max_positions;
  if (prompt.empty() || prompt.size() >= limit || max_new_tokens == 0) {
    throw Error("a prompt of " + std::to_string(prompt.size()) + " tokens: expected 1.." +
                std::to_string(limit - 1) + ", and at least one token to generate");
  }
  if (n == 0 || n > options_.max_running) {
    throw Error(std::to_string(n) + " generations of a prompt: expected 1.." +
                std::to_string(options_.max_running) + ", as many as may run at once");
  }
  const auto first = static_cast<uint32_t>(generations_.size());
  for (uint32_t i = 0; i < n; ++i) {
    Generation& g = generations_.emplace_back();
    g.id = first + i;
    g.prompt = prompt;
  }
  Sequence& s = sequences_.emplace_back();
  s.generation = &generations_[first];
  s.params = params;
  s.forks = n - 1;
  s.max_new_tokens = std::min(max_new_tokens, limit - static_cast<uint32_t>(prompt.size()));
  s.submitted = Clock::now();
  s.tokens = std::move(prompt);
  waiting_.push_back(&s);
  return first;
}

std::vector<uint32_t> Engine::take_finished() { return std::exchange(finished_, {}); }

std::vector<Hypothesis> Engine::beam_search(const std::vector<int32_t>& prompt,
                                            const BeamOptions& options) {
  const uint32_t limit = model_->config().max_positions;
  if (!running_.empty() || !waiting_.empty())
    throw Error("a beam search has the engine for itself: finish the other requests first");
  const size_t ends = std::min<size_t>(model_->config().eos.size(), Sampler::kMaxCandidates);
  const size_t widest = std::min<size_t>(options_.max_running, Sampler::kMaxCandidates - ends);
  if (options.width == 0 || options.width > widest) {
    throw Error("a beam search of width " + std::to_string(options.width) + ": expected 1.." +
                std::to_string(widest));
  }
  if (prompt.empty() || options.max_new_tokens == 0 ||
      prompt.size() + options.max_new_tokens > limit) {
    throw Error("a beam search from " + std::to_string(prompt.size()) + " tokens to " +
                std::to_string(options.max_new_tokens) + " more: expected 1.." +
                std::to_string(limit) + " in all");
  }
  const BeamWorkshop workshop = {
      cache_.get(), model_, attention_.get(), sampler_.get(), options_.step_tokens, options_.cache};
  return npc::beam_search(workshop, prompt, options);
}

bool Engine::step() {
  if (waiting_.empty() && running_.empty()) return false;
  admission_closed_ = false;
  draft();
  reserve_running();
  admit_waiting();
  track_memory();
  refresh_borrowers();
  std::vector<Part> parts = plan_step();
  build_batch(parts);
  model_->forward(attention_.get(), batch_, sampler_->logits());
  for (const Part& p : parts) {
    p.sequence->computed += p.num_tokens;
    p.sequence->borrows = false;  // its lender ran no later: what was promised is written
  }
  commit(parts, false);  // before forks: who borrows cannot be forked
  parts = fork_finished_prompts(parts);
  choose_tokens(parts);
  commit(parts, true);
  track_graph();
  for (const Part& p : parts) {
    if (p.sequence->generation->done) finish(p.sequence);
  }
  ++steps_;
  return true;
}

// ---- memory: draft, reserve, admit, preempt

// A guess costs rows, not steps: the rows after the last token show whether it stands.
void Engine::draft() {
  if (options_.draft_tokens == 0) return;
  for (Sequence* s : running_) {
    if (!s->decoding() || s->reserved != s->computed) continue;
    const size_t left = s->max_new_tokens - s->generation->output.size();
    const auto most = static_cast<uint32_t>(std::min<size_t>(options_.draft_tokens, left - 1));
    const std::vector<int32_t> guess = lookup_draft(s->tokens, options_.draft_ngram, most);
    s->tokens.insert(s->tokens.end(), guess.begin(), guess.end());
    s->num_drafts = static_cast<uint32_t>(guess.size());
  }
}

// Only before slots are reserved for them.
void Engine::drop_drafts(Sequence* s) {
  s->tokens.resize(s->length());
  s->num_drafts = 0;
}

// Slots for all tokens that `sequences` have beyond their reserved ones, all or none.
bool Engine::append(const std::vector<Sequence*>& sequences) {
  std::vector<Append> items;
  for (const Sequence* s : sequences)
    items.push_back({s->req, std::span(s->tokens).subspan(s->reserved)});
  if (!cache_->append(items)) return false;
  for (Sequence* s : sequences) s->reserved = s->tokens.size();
  return true;
}

void Engine::reserve_running() {
  for (;;) {
    std::vector<Sequence*> growing;
    bool drafts = false;
    for (Sequence* s : running_) {
      if (s->reserved < s->tokens.size()) growing.push_back(s);
      drafts = drafts || s->num_drafts > 0;
    }
    if (growing.empty() || append(growing)) return;
    if (drafts) {  // guesses take no blocks that somebody needs
      for (Sequence* s : running_) drop_drafts(s);
    } else {
      preempt_last();
    }
  }
}

void Engine::give_back(Sequence* s) {
  cache_->free(s->req, options_.cache);
  s->req = 0;
  s->reserved = s->computed = 0;
  s->borrows = false;
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
  give_back(s);
  ++s->generation->preemptions;
  ++preemptions_;
  waiting_.push_front(s);
  admission_closed_ = true;
}

void Engine::admit_waiting() {
  while (!admission_closed_ && !waiting_.empty()) {
    size_t seats = 1 + waiting_.front()->forks;  // theirs are kept free
    for (const Sequence* s : running_) seats += 1 + s->forks;
    if (seats > options_.max_running || !try_admit(waiting_.front())) return;
    waiting_.pop_front();
  }
}

// NOTE: the whole prompt is reserved at once, though it may be computed in chunks: only so can the
// next request, in this same step, see all of it as pending and borrow it.
bool Engine::try_admit(Sequence* s) {
  Found found;
  s->req = cache_->begin(s->tokens,
                         options_.cache ? RADIX_BEGIN_SHARE_PENDING : RADIX_BEGIN_NO_MATCH, &found);
  s->reserved = s->computed = found.tokens();
  s->borrows = found.pending > 0;
  if (!append({s})) {
    give_back(s);
    if (!running_.empty()) return false;
    throw Error("a pool of " + std::to_string(options_.num_blocks) +
                " blocks is too small for one sequence of " + std::to_string(s->tokens.size()) +
                " tokens");
  }
  if (!s->begun) s->generation->cached_tokens = found.tokens();
  s->begun = true;
  running_.push_back(s);
  return true;
}

// A promise that broke (its lender left) or was kept (somebody committed the blocks) is read from
// the library.
void Engine::refresh_borrowers() {
  for (Sequence* s : running_) {
    if (!s->borrows) continue;
    const radix_request_info info = cache_->info(s->req);
    s->computed = std::min(s->computed, info.ready_tokens);
    s->borrows = info.pending_tokens > 0;
  }
}

void Engine::track_memory() {
  const radix_stats s = stats();
  peak_kv_bytes_ = std::max(peak_kv_bytes_, (s.blocks_total - s.blocks_free) * block_bytes_);
}

void Engine::track_graph() {
  if (!options_.keep_graph) return;
  const radix_stats s = stats();
  const std::pair size(s.requests_live, s.blocks_total - s.blocks_free);
  if (size < graph_size_) return;
  graph_size_ = size;
  graph_ = cache_->sharing_graph();
}

// ---- the batch

// Every decoding sequence, with its drafts if it has some, then prompts in order of admission until
// the budget is spent. A borrower waits behind its lender by that order alone: while an earlier
// prompt is not finished, the budget is.
std::vector<Engine::Part> Engine::plan_step() {
  std::vector<Part> parts;
  for (Sequence* s : running_) {
    if (s->decoding() && s->num_drafts == 0) parts.push_back({s, 1, 1});
  }
  batch_.num_decode = static_cast<uint32_t>(parts.size());
  uint64_t rows = parts.size();
  for (Sequence* s : running_) {
    if (!s->decoding() || s->num_drafts == 0) continue;
    parts.push_back({s, 1 + s->num_drafts, 1 + s->num_drafts});
    rows += 1 + s->num_drafts;
  }
  uint64_t budget = std::max<uint64_t>(options_.step_tokens, rows + 1) - rows;
  for (Sequence* s : running_) {
    if (s->decoding()) continue;
    const uint64_t left = s->tokens.size() - s->computed, n = std::min(left, budget);
    if (n == 0) break;
    parts.push_back({s, static_cast<uint32_t>(n), n == left ? 1u : 0u});
    budget -= n;
  }
  return parts;
}

void Engine::build_batch(const std::vector<Part>& parts) {
  batch_.chunks.clear();
  batch_.logit_rows.clear();
  uint32_t row = 0;
  for (const Part& p : parts) {
    Sequence& s = *p.sequence;
    const uint64_t end = s.computed + p.num_tokens;
    batch_.chunks.push_back({s.req, s.tokens.data(), s.computed, end});
    const uint64_t prompt_end = std::min<uint64_t>(end, s.generation->prompt.size());
    if (prompt_end > s.computed) s.generation->computed_tokens += prompt_end - s.computed;
    row += p.num_tokens;
    // A row for each sequence that goes on from here.
    const uint32_t times = p.num_logits == 1 ? 1 + s.forks : 1;
    for (uint32_t i = p.num_logits; i > 0; --i)
      batch_.logit_rows.insert(batch_.logit_rows.end(), times, row - i);
  }
}

// ---- tokens

// The siblings of a prompt that is computed go on beside it, each from the same logits.
std::vector<Engine::Part> Engine::fork_finished_prompts(const std::vector<Part>& parts) {
  std::vector<Part> all;
  for (const Part& p : parts) {
    all.push_back(p);
    if (p.num_logits == 0) continue;
    for (uint32_t i = 1; i <= p.sequence->forks; ++i)
      all.push_back({fork(p.sequence, i), p.num_tokens, p.num_logits});
    p.sequence->forks = 0;
  }
  return all;
}

Engine::Sequence* Engine::fork(Sequence* parent, uint32_t index) {
  Sequence& s = sequences_.emplace_back(*parent);
  s.generation = &generations_[parent->generation->id + index];
  s.generation->cached_tokens = s.generation->prompt.size();
  s.params.seed += index;
  s.forks = 0;
  s.req = cache_->fork(parent->req);
  running_.push_back(&s);
  return &s;
}

void Engine::choose_tokens(const std::vector<Part>& parts) {
  std::vector<Part> ready;
  std::vector<SampleRow> rows;
  std::vector<std::vector<int32_t>> drafts;
  bool drafted = false;
  for (const Part& p : parts) {
    if (p.num_logits == 0) continue;  // a prompt still on its way
    ready.push_back(p);
    const std::span<const int32_t> tokens = p.sequence->tokens;
    for (size_t n = tokens.size() - p.num_logits + 1; n <= tokens.size(); ++n)
      rows.push_back({&p.sequence->params, tokens.first(n), p.sequence->generation->prompt.size()});
    const auto guess = tokens.last(p.num_logits - 1);
    drafts.emplace_back(guess.begin(), guess.end());
    drafted = drafted || !guess.empty();
  }
  std::vector<std::vector<int32_t>> chosen;
  if (drafted) {
    chosen = sampler_->verify(rows, drafts);
  } else {
    for (const int32_t token : sampler_->sample(rows)) chosen.push_back({token});
  }
  const float* logits = sampler_->logits();
  for (size_t i = 0; i < ready.size(); ++i) {
    settle(ready[i], chosen[i], logits);
    logits += size_t{ready[i].num_logits} * model_->config().vocab_size;
  }
}

// Drafts that do not stand are cut off, from the tokens and from the cache; then the chosen tokens
// are the sequence's.
void Engine::settle(const Part& part, const std::vector<int32_t>& chosen, const float* logits) {
  Sequence* s = part.sequence;
  Generation& g = *s->generation;
  const uint64_t stand = chosen.size() - 1;  // drafts, whose K/V is written
  g.drafted_tokens += s->num_drafts;
  g.accepted_drafts += stand;
  if (stand < s->num_drafts) {
    s->computed -= s->num_drafts - stand;
    s->reserved = s->computed;
    cache_->truncate(s->req, s->computed);
  }
  drop_drafts(s);
  for (size_t i = 0; i < chosen.size() && !g.done; ++i)
    g.done = accept(s, chosen[i], logits + i * model_->config().vocab_size);
}

// True: that was the last one.
bool Engine::accept(Sequence* s, int32_t token, const float* logits) {
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
  g.output.push_back(token);
  s->tokens.push_back(token);
  const bool ends = std::find(config.eos.begin(), config.eos.end(), token) != config.eos.end();
  g.total_s = now;
  return ends || g.output.size() == s->max_new_tokens;
}

// K/V behind a draft counts only when it is known which of it stands.
void Engine::commit(const std::vector<Part>& parts, bool drafted) {
  if (!options_.cache) return;
  std::vector<radix_commit_item> items;
  for (const Part& p : parts) {
    if ((p.num_logits > 1) == drafted) items.push_back({p.sequence->req, p.sequence->computed});
  }
  cache_->commit(items);
}

void Engine::finish(Sequence* s) {
  cache_->free(s->req, options_.cache);
  finished_.push_back(s->generation->id);
  running_.erase(std::find(running_.begin(), running_.end(), s));
  sequences_.remove_if([s](const Sequence& other) { return &other == s; });
}

}  // namespace npc
