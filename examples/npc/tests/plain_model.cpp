#include "plain_model.h"

#include <cmath>
#include <numbers>

namespace npc::test {

using nlohmann::json;
using Vector = std::vector<double>;
using Rows = std::vector<Vector>;

namespace {

class PlainModel {
 public:
  PlainModel(const json& config, const Tensors& weights) : config_(config), weights_(weights) {}

  Rows forward(const std::vector<int32_t>& tokens) {
    Rows x;
    const Tensor& embedding = weights_.at("model.embed_tokens.weight");
    for (const int32_t t : tokens) x.push_back(row(embedding, static_cast<size_t>(t)));
    for (int layer = 0; layer < config_["num_hidden_layers"]; ++layer) {
      prefix_ = "model.layers." + std::to_string(layer) + ".";
      attention(&x);
      mlp(&x);
    }
    const Tensor& head =
        weights_.count("lm_head.weight") ? weights_.at("lm_head.weight") : embedding;
    Rows logits;
    for (const Vector& v : x) logits.push_back(multiply(head, norm(v, "model.norm.weight")));
    return logits;
  }

 private:
  static Vector row(const Tensor& t, size_t i) {
    const auto n = static_cast<std::ptrdiff_t>(t.shape[1]);
    const auto begin = t.values.begin() + static_cast<std::ptrdiff_t>(i) * n;
    return Vector(begin, begin + n);
  }
  static Vector multiply(const Tensor& w, const Vector& x) {
    Vector y(static_cast<size_t>(w.shape[0]));
    for (size_t i = 0; i < y.size(); ++i) {
      for (size_t k = 0; k < x.size(); ++k) y[i] += double{w.values[i * x.size() + k]} * x[k];
    }
    return y;
  }
  Vector project(const std::string& name, const Vector& x) const {
    Vector y = multiply(weights_.at(prefix_ + name + ".weight"), x);
    const auto bias = weights_.find(prefix_ + name + ".bias");
    for (size_t i = 0; bias != weights_.end() && i < y.size(); ++i) y[i] += bias->second.values[i];
    return y;
  }
  Vector norm(const Vector& x, const std::string& weight) const {
    double sum = 0;
    for (const double v : x) sum += v * v;
    const double scale =
        1 / std::sqrt(sum / static_cast<double>(x.size()) + config_["rms_norm_eps"].get<double>());
    Vector y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * scale * weights_.at(weight).values[i]);
    return y;
  }

  // Frequency i of dim/2 after rope_scaling, and the factor YaRN puts on cos and sin.
  double frequency(size_t i, size_t dim, double* attention_factor) const {
    const double theta = config_["rope_theta"], pi = std::numbers::pi;
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dim);
    const double f = std::pow(theta, -exponent);
    *attention_factor = 1;
    if (!config_.contains("rope_scaling")) return f;
    const json& s = config_["rope_scaling"];
    const std::string type = s.value("rope_type", s.value("type", ""));
    const double factor = s["factor"], original = s.value("original_max_position_embeddings", 0.0);
    if (type == "linear") return f / factor;
    if (type == "llama3") {
      const double low = s["low_freq_factor"], high = s["high_freq_factor"],
                   wavelength = 2 * pi / f;
      if (wavelength < original / high) return f;
      if (wavelength > original / low) return f / factor;
      const double smooth = (original / wavelength - low) / (high - low);
      return (1 - smooth) * f / factor + smooth * f;
    }
    const auto correction = [&](double rotations) {
      return static_cast<double>(dim) * std::log(original / (rotations * 2 * pi)) /
             (2 * std::log(theta));
    };
    const double low = std::max(std::floor(correction(32)), 0.0);
    const double high = std::min(std::ceil(correction(1)), static_cast<double>(dim) - 1);
    const double ramp = std::min(
        std::max((static_cast<double>(i) - low) / (high == low ? 0.001 : high - low), 0.0), 1.0);
    *attention_factor = 0.1 * std::log(factor) + 1;
    return f / factor * ramp + f * (1 - ramp);
  }

  void rotate(double* head, size_t dim, size_t position) const {
    for (size_t i = 0; i < dim / 2; ++i) {
      double factor = 1;
      const double angle = static_cast<double>(position) * frequency(i, dim, &factor);
      const double a = head[i], b = head[i + dim / 2], c = std::cos(angle) * factor,
                   s = std::sin(angle) * factor;
      head[i] = a * c - b * s;
      head[i + dim / 2] = b * c + a * s;
    }
  }
  void norm_heads(Vector* x, size_t dim, const std::string& weight) const {
    if (weights_.count(prefix_ + weight) == 0) return;
    for (size_t at = 0; at < x->size(); at += dim) {
      const auto begin = x->begin() + static_cast<std::ptrdiff_t>(at);
      const Vector y =
          norm(Vector(begin, begin + static_cast<std::ptrdiff_t>(dim)), prefix_ + weight);
      std::copy(y.begin(), y.end(), begin);
    }
  }

  void attention(Rows* x) {
    const size_t heads = config_["num_attention_heads"], kv_heads = config_["num_key_value_heads"];
    const size_t dim = config_["head_dim"], group = heads / kv_heads;
    const size_t window = config_.value("sliding_window", size_t{1} << 30);
    Rows q, k, v;
    for (size_t p = 0; p < x->size(); ++p) {
      const Vector h = norm((*x)[p], prefix_ + "input_layernorm.weight");
      q.push_back(project("self_attn.q_proj", h));
      k.push_back(project("self_attn.k_proj", h));
      v.push_back(project("self_attn.v_proj", h));
      norm_heads(&q[p], dim, "self_attn.q_norm.weight");
      norm_heads(&k[p], dim, "self_attn.k_norm.weight");
      for (size_t n = 0; n < heads; ++n) rotate(q[p].data() + n * dim, dim, p);
      for (size_t n = 0; n < kv_heads; ++n) rotate(k[p].data() + n * dim, dim, p);
    }
    for (size_t p = 0; p < x->size(); ++p) {
      Vector out(heads * dim);
      for (size_t n = 0; n < heads; ++n) {
        const size_t first = p + 1 > window ? p + 1 - window : 0;
        attend(q[p].data() + n * dim, k, v, n / group * dim, dim, first, p, out.data() + n * dim);
      }
      add(&(*x)[p], project("self_attn.o_proj", out));
    }
  }

  static void attend(const double* q, const Rows& k, const Rows& v, size_t at, size_t dim,
                     size_t first, size_t last, double* out) {
    Vector scores;
    double sum = 0, top = -1e300;
    for (size_t j = first; j <= last; ++j) {
      double s = 0;
      for (size_t d = 0; d < dim; ++d) s += q[d] * k[j][at + d];
      scores.push_back(s / std::sqrt(static_cast<double>(dim)));
      top = std::max(top, scores.back());
    }
    for (double& s : scores) sum += s = std::exp(s - top);
    for (size_t j = first; j <= last; ++j) {
      for (size_t d = 0; d < dim; ++d) out[d] += scores[j - first] / sum * v[j][at + d];
    }
  }

  void mlp(Rows* x) {
    for (Vector& v : *x) {
      const Vector h = norm(v, prefix_ + "post_attention_layernorm.weight");
      Vector gate = project("mlp.gate_proj", h);
      const Vector up = project("mlp.up_proj", h);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add(&v, project("mlp.down_proj", gate));
    }
  }
  static void add(Vector* x, const Vector& y) {
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
  }

  const json& config_;
  const Tensors& weights_;
  std::string prefix_;
};

}  // namespace

Rows plain_forward(const json& config, const Tensors& weights, const std::vector<int32_t>& tokens) {
  return PlainModel(config, weights).forward(tokens);
}

}  // namespace npc::test
