#include "beam.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "error.h"

namespace npc {

namespace {

struct Beam {
  radix_req req = 0;
  std::vector<int32_t> tokens;  // prompt and output so far
  double logprob = 0;
};

// One more token behind a beam.
struct Extension {
  size_t beam;
  int32_t token;
  double logprob;
};

class Search {
 public:
  Search(const BeamWorkshop& workshop, const std::vector<int32_t>& prompt,
         const BeamOptions& options)
      : w_(workshop), prompt_len_(prompt.size()), options_(options) {
    beams_.push_back({0, prompt, 0});
  }
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;
  ~Search() {
    for (const std::vector<Beam>* beams : {&beams_, &parents_}) {
      for (const Beam& b : *beams) {
        if (b.req != 0) radix_free_request(w_.cache->ctx(), b.req, RADIX_FREE_DISCARD);
      }
    }
  }

  std::vector<Hypothesis> run() {
    read_prompt();
    for (uint32_t length = 1; !beams_.empty(); ++length) {
      extend(length);
      if (length == options_.max_new_tokens || decided(length)) break;
      if (!beams_.empty()) compute();
    }
    for (const Beam& b : beams_) finish(b.tokens, b.logprob);
    std::stable_sort(done_.begin(), done_.end(), better);
    if (done_.size() > options_.width) done_.resize(options_.width);
    return done_;
  }

 private:
  static bool better(const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; }

  double score(double logprob, size_t length) const {
    return logprob / std::pow(static_cast<double>(length), double{options_.length_penalty});
  }

  void append(const std::vector<Append>& items) {
    if (!w_.cache->append(items)) throw Error("the pool is too small for this beam search");
  }

  void forward(const StepBatch& batch) {
    w_.model->forward(w_.attention, batch, w_.sampler->logits());
    if (!w_.cache_on) return;
    std::vector<radix_commit_item> items;
    for (const Chunk& c : batch.chunks) items.push_back({c.req, c.end});
    w_.cache->commit(items);
  }

  void read_prompt() {
    Beam& b = beams_[0];
    Found found;
    const uint32_t flags = w_.cache_on ? 0u : uint32_t{RADIX_BEGIN_NO_MATCH};
    b.req = w_.cache->begin(b.tokens, flags, &found);
    append({{b.req, std::span(b.tokens).subspan(found.cached)}});
    for (uint64_t at = found.cached; at < b.tokens.size();) {
      StepBatch batch;
      const uint64_t end = std::min<uint64_t>(at + w_.step_rows, b.tokens.size());
      batch.chunks = {{b.req, b.tokens.data(), at, end}};
      if (end == b.tokens.size()) batch.logit_rows = {static_cast<uint32_t>(end - at - 1)};
      forward(batch);
      at = end;
    }
  }

  // K/V of every beam's last token, and the logits behind it.
  void compute() {
    std::vector<Append> items;
    StepBatch batch;
    for (const Beam& b : beams_) {
      items.push_back({b.req, std::span(b.tokens).last(1)});
      batch.chunks.push_back({b.req, b.tokens.data(), b.tokens.size() - 1, b.tokens.size()});
      batch.logit_rows.push_back(batch.num_decode++);
    }
    append(items);
    forward(batch);
  }

  // The best extensions of all beams: those that end are hypotheses, `width` others live on.
  void extend(uint32_t length) {
    const SamplingParams greedy;
    std::vector<SampleRow> rows;
    for (const Beam& b : beams_) rows.push_back({&greedy, b.tokens, prompt_len_});
    // So many that `width` of them do not end.
    const auto ends = static_cast<uint32_t>(w_.model->config().eos.size());
    const std::vector<Candidates> next = w_.sampler->likeliest(rows, options_.width + ends);
    std::vector<Extension> extensions;
    for (size_t i = 0; i < beams_.size(); ++i) {
      for (size_t j = 0; j < next[i].tokens.size(); ++j) {
        const double logprob = beams_[i].logprob + double{next[i].logprobs[j]};
        if (std::isfinite(logprob)) extensions.push_back({i, next[i].tokens[j], logprob});
      }
    }
    std::stable_sort(extensions.begin(), extensions.end(),
                     [](const Extension& a, const Extension& b) { return a.logprob > b.logprob; });
    std::vector<Extension> chosen;
    for (size_t rank = 0; rank < extensions.size() && chosen.size() < options_.width; ++rank) {
      const Extension& e = extensions[rank];
      if (!is_end(e.token)) {
        chosen.push_back(e);
      } else if (rank < options_.width) {  // as good as a beam that lives on
        std::vector<int32_t> tokens = beams_[e.beam].tokens;
        tokens.push_back(e.token);
        finish(tokens, e.logprob);
      }
    }
    replace_beams(chosen, length);
  }

  bool is_end(int32_t token) const {
    const std::vector<int32_t>& eos = w_.model->config().eos;
    return std::find(eos.begin(), eos.end(), token) != eos.end();
  }

  // A beam with several successors is forked, the first of them takes the request itself; one
  // without is given back.
  void replace_beams(const std::vector<Extension>& chosen, uint32_t length) {
    parents_ = std::move(beams_);
    beams_.clear();
    for (const Extension& e : chosen) {
      beams_.push_back({0, parents_[e.beam].tokens, e.logprob});
      beams_.back().tokens.push_back(e.token);
    }
    std::vector<radix_req> heirs(parents_.size());  // who has a parent's request
    for (size_t i = 0; i < chosen.size() && length < options_.max_new_tokens; ++i) {
      const size_t parent = chosen[i].beam;
      beams_[i].req = heirs[parent] != 0 ? w_.cache->fork(heirs[parent])
                                         : std::exchange(parents_[parent].req, 0);
      heirs[parent] = beams_[i].req;
    }
    for (Beam& b : parents_) {
      if (b.req != 0) w_.cache->free(std::exchange(b.req, 0), w_.cache_on);
    }
  }

  void finish(const std::vector<int32_t>& tokens, double logprob) {
    Hypothesis h;
    h.output.assign(tokens.begin() + static_cast<std::ptrdiff_t>(prompt_len_), tokens.end());
    h.logprob = logprob;
    h.score = score(logprob, h.output.size());
    done_.push_back(std::move(h));
  }

  bool decided(uint32_t length) {
    if (done_.size() < options_.width) return false;
    std::stable_sort(done_.begin(), done_.end(), better);
    done_.resize(options_.width);
    double best = -INFINITY;
    for (const Beam& b : beams_) best = std::max(best, score(b.logprob, length));
    if (best > done_.back().score) return false;
    for (Beam& b : beams_) w_.cache->free(std::exchange(b.req, 0), w_.cache_on);
    beams_.clear();
    return true;
  }

  const BeamWorkshop w_;
  const size_t prompt_len_;
  const BeamOptions options_;
  std::vector<Beam> beams_;    // living
  std::vector<Beam> parents_;  // those they came from, while they are replaced
  std::vector<Hypothesis> done_;
};

}  // namespace

std::vector<Hypothesis> beam_search(const BeamWorkshop& workshop,
                                    const std::vector<int32_t>& prompt,
                                    const BeamOptions& options) {
  return Search(workshop, prompt, options).run();
}

}  // namespace npc
