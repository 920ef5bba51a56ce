#include "inspect.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

#include "draw.h"
#include "error.h"
#include "graph.h"
#include "text.h"

namespace tool {

namespace {

constexpr size_t kMaxFile = size_t{1} << 30;

struct InspectOptions {
  bool help = false;
  std::string input;
  std::string output = "-";
  std::string format;
  DrawOptions draw;
};

using Draw = std::string (*)(const Graph&, const DrawOptions&);

struct Format {
  const char* name;
  const char* ending;  // of a file that is to have it
  Draw draw;
};
constexpr Format kFormats[] = {{"html", ".html", draw_html},
                               {"svg", ".svg", draw_svg},
                               {"dot", ".dot", draw_dot},
                               {"text", ".txt", draw_text}};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// --format, else what the name of the output says, else HTML.
const Format& find_format(const InspectOptions& o) {
  for (const Format& f : kFormats) {
    if (o.format.empty() ? ends_with(o.output, f.ending) : o.format == f.name) return f;
  }
  if (o.format.empty()) return kFormats[0];
  throw UsageError("--format is \"" + plain_text(o.format) + "\": expected html, svg, dot or text");
}

uint64_t parse_count(const std::string& name, const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kMaxItems) {
    throw UsageError(name + " is \"" + plain_text(text) + "\": expected a whole number of 1.." +
                     std::to_string(kMaxItems));
  }
  return value;
}

InspectOptions parse_options(const std::vector<std::string>& arguments) {
  InspectOptions o;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw UsageError(name + " needs a value");
      return arguments[++i];
    };
    if (name == "--help" || name == "-h") {
      o.help = true;
    } else if (name == "-o" || name == "--output") {
      o.output = value();
    } else if (name == "--format") {
      o.format = value();
    } else if (name == "--title") {
      o.draw.title = value();
    } else if (name == "--max-nodes") {
      o.draw.max_nodes = parse_count(name, value());
    } else if (name.size() > 1 && name[0] == '-') {
      throw UsageError("unknown option " + plain_text(name));
    } else if (!o.input.empty()) {
      throw UsageError("\"" + plain_text(name) + "\" is one file too many: expected one graph");
    } else {
      o.input = name;
    }
  }
  if (o.input.empty() && !o.help) throw UsageError("inspect needs a file, or - for stdin");
  return o;
}

struct CloseFile {
  void operator()(std::FILE* file) const {
    if (file != stdin && file != stdout) std::fclose(file);
  }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void fail_file(const std::string& path, const char* what) {
  throw Error(plain_text(path) + ": " + what + ": " + std::strerror(errno));
}

}  // namespace

std::string read_input(const std::string& path) {
  const File file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"));
  if (!file) fail_file(path, "cannot be opened");
  std::string text;
  char piece[1 << 16];
  while (const size_t n = std::fread(piece, 1, sizeof piece, file.get())) {
    text.append(piece, n);
    if (text.size() > kMaxFile) {
      throw Error(plain_text(path) + " is larger than " + std::to_string(kMaxFile) +
                  " bytes: expected a sharing graph");
    }
  }
  if (std::ferror(file.get()) != 0) fail_file(path, "cannot be read");
  return text;
}

void write_output(const std::string& path, const std::string& text) {
  const File file(path == "-" ? stdout : std::fopen(path.c_str(), "wb"));
  if (!file) fail_file(path, "cannot be opened for writing");
  const bool written = std::fwrite(text.data(), 1, text.size(), file.get()) == text.size();
  if (!written || std::fflush(file.get()) != 0) fail_file(path, "cannot be written");
}

const char* inspect_usage() {
  return "usage: radixattn inspect GRAPH.json [-o FILE] [options]\n"
         "\n"
         "Draws what the requests of a cache share. GRAPH.json is what radix_sharing_graph writes "
         "with\n"
         "RADIX_GRAPH_JSON (Python: ctx.sharing_graph(\"json\"); npc_demo --graph FILE); - is "
         "stdin.\n"
         "\n"
         "  -o, --output FILE  where to write (stdout)\n"
         "  --format F         html: a page that needs nothing else (the default); svg: the "
         "picture alone;\n"
         "                     dot: for Graphviz; text. Without it the ending of FILE decides\n"
         "  --title T          the heading\n"
         "  --max-nodes N      boxes drawn at most, the heaviest first (400)\n"
         "  --help             this text\n";
}

int inspect(const std::vector<std::string>& arguments) {
  const InspectOptions o = parse_options(arguments);
  if (o.help) {
    write_output("-", inspect_usage());
    return 0;
  }
  const Format& format = find_format(o);
  const Graph graph =
      parse_graph(read_input(o.input), o.input == "-" ? "stdin" : plain_text(o.input));
  write_output(o.output, format.draw(graph, o.draw));
  return 0;
}

}  // namespace tool
