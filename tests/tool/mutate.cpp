// Damaged graphs: each is read and drawn in every form, or refused with a short message that begins
// with the file's name; nothing else.
//
//   tool_mutate [--seed S] [--runs N]
//
// Prints each seed before its run; one run is replayed with --seed S --runs 1.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "draw.h"
#include "error.h"
#include "support.h"
#include "text.h"

namespace {

using nlohmann::json;
using Random = std::mt19937_64;

// ---- damage

std::string change_bytes(std::string text, Random* random) {
  for (uint64_t edits = 1 + (*random)() % 4; edits > 0 && !text.empty(); --edits) {
    const size_t at = (*random)() % text.size();
    switch ((*random)() % 4) {
      case 0:
        text[at] = static_cast<char>((*random)());
        break;
      case 1:
        text.erase(at, 1 + (*random)() % 20);
        break;
      case 2:
        text.insert(at, text.substr((*random)() % text.size(), (*random)() % 300));
        break;
      default:
        text.insert(at, std::string(1 + (*random)() % 40, "[{\"9-\\"[(*random)() % 6]));
        break;
    }
  }
  return text;
}

json strange_value(Random* random) {
  static const json kValues[] = {nullptr,
                                 true,
                                 0,
                                 1,
                                 -1,
                                 5,
                                 8,
                                 12,
                                 1.5,
                                 1e300,
                                 INT32_MAX,
                                 INT64_MIN,
                                 INT64_MAX,
                                 UINT64_MAX,
                                 uint64_t{1} << 40,
                                 "",
                                 "0x0",
                                 "</title><script>\"'&",
                                 "\xe2\x80\xae\x01\x7f",
                                 "caf\xc3\x83\xc2\xa9",
                                 json::array(),
                                 json::object(),
                                 {1, 2, 3}};
  return kValues[(*random)() % std::size(kValues)];
}

// A value somewhere below `top`, itself included.
json* any_value(json* top, Random* random) {
  json* at = top;
  while (at->is_structured() && !at->empty() && (*random)() % 6 != 0) {
    auto it = at->begin();
    std::advance(it, static_cast<std::ptrdiff_t>((*random)() % at->size()));
    at = &*it;
  }
  return at;
}

std::string change_values(const std::string& text, Random* random) {
  json doc = json::parse(text);
  for (uint64_t edits = 1 + (*random)() % 3; edits > 0; --edits) {
    json* at = any_value(&doc, random);
    switch ((*random)() % 5) {
      case 0:
        if (at->is_object() && !at->empty()) at->erase(at->begin());
        break;
      case 1:
        if (at->is_array() && !at->empty()) at->push_back(at->front());
        break;
      case 2: {
        const json copy = *any_value(&doc, random);
        *at = copy;
        break;
      }
      default:
        *at = strange_value(random);
        break;
    }
  }
  return doc.dump(-1, ' ', false, json::error_handler_t::replace);
}

// ---- what must hold

bool fail(const char* what, const std::string& text, const std::string& shown) {
  std::fprintf(stderr, "\n%s\n---- the file\n%s\n---- got\n%s\n", what, text.c_str(),
               shown.c_str());
  return false;
}

bool drawn_well(const tool::Graph& graph, const std::string& text, Random* random) {
  const tool::DrawOptions options{"T", 1 + (*random)() % 8};
  for (const auto draw : {tool::draw_svg, tool::draw_html}) {
    const std::string out = draw(graph, options);
    if (!tool::test::is_well_formed(out)) return fail("not well-formed", text, out);
  }
  for (const auto draw : {tool::draw_svg, tool::draw_html, tool::draw_dot, tool::draw_text}) {
    const std::string out = draw(graph, options);
    if (!tool::is_utf8(out)) return fail("not UTF-8", text, out);
  }
  return true;
}

bool refused_well(const std::string& message, const std::string& text) {
  if (message.rfind("FILE: ", 0) != 0) return fail("does not name the file", text, message);
  if (message.size() > 600) return fail("a long message", text, message);
  if (tool::plain_text(message) != message) return fail("hidden characters", text, message);
  return true;
}

struct Counts {
  uint64_t read = 0, refused = 0;
};

bool run(uint64_t seed, Counts* counts) {
  Random random(seed);
  const std::string good = tool::test::small_graph_json();
  const std::string text =
      random() % 3 == 0 ? change_bytes(good, &random) : change_values(good, &random);
  try {
    const tool::Graph graph = tool::parse_graph(text, "FILE");
    ++counts->read;
    return drawn_well(graph, text, &random);
  } catch (const tool::Error& e) {
    ++counts->refused;
    return refused_well(e.what(), text);
  }
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = 1, runs = 800;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if ((name != "--seed" && name != "--runs") || i + 1 == argc) {
      std::fputs("usage: tool_mutate [--seed S] [--runs N]\n", stderr);
      return 2;
    }
    (name == "--seed" ? seed : runs) = std::strtoull(argv[i + 1], nullptr, 10);
  }
  Counts counts;
  for (uint64_t s = seed; s < seed + runs; ++s) {
    std::fprintf(stderr, "\rseed %llu", static_cast<unsigned long long>(s));
    if (!run(s, &counts)) return 1;
  }
  std::fprintf(stderr, ": %llu files read, %llu refused\n",
               static_cast<unsigned long long>(counts.read),
               static_cast<unsigned long long>(counts.refused));
  // A driver that never damages, or never spares, tests nothing.
  return runs < 100 || (counts.read > runs / 20 && counts.refused > runs / 5) ? 0 : 1;
}
