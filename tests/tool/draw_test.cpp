// The four forms of a picture.
#include "draw.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "support.h"
#include "text.h"

namespace tool::test {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

using Draw = std::string (*)(const Graph&, const DrawOptions&);
constexpr Draw kForms[] = {draw_svg, draw_html, draw_dot, draw_text};

TEST(Draw, TextSaysEverything) {
  EXPECT_EQ(draw_text(small_graph(), {"A title"}),
            R"(A title

live requests                                         4
tokens they see, each alone                           36
blocks they hold, each alone                          10
of these, not stored twice                            3 (30.0%)
K/V bytes not read when a shared prefix is read once  30.0%
tokens stored in the tree                             28
of these, of no live request                          8 (28.6%)
nodes                                                 4
depth                                                 2 nodes, 20 tokens
namespaces and extra keys                             2
block size                                            4 tokens

namespace default; 1 request with nothing in the tree: 0x100000004
  node 5: 12 tokens from 0 [1, 2, 3, 4, ..], 2 requests, saves 3 blocks; 1 here: 0x100000001
    node 8: 4 tokens from 12 [7, 7, 7, 7], 1 request; 1 here: 0x100000002
    node 6: 8 tokens from 12 [-3, 2147483647, -2147483648, 0, ..], 0 requests
namespace "café", extra key 0x2a
  node 9: 4 tokens from 0 [9, ..], 1 request; 1 here: 0x100000003
)");
}

TEST(Draw, DotHasANodeForEachBoxAndAnEdgeForEachParent) {
  const std::string dot = draw_dot(small_graph(), {"A \"title\""});
  EXPECT_TRUE(contains(dot, "label=\"A \\\"title\\\"\""));
  EXPECT_TRUE(contains(dot, "b0 [label=\"namespace default\", shape=ellipse];"));
  EXPECT_TRUE(contains(dot, "b1 [label=\"12 tokens\\n2 requests, saves 3 blocks\", style=filled"));
  EXPECT_TRUE(contains(dot, "b0 -> b1;"));
  EXPECT_TRUE(contains(dot, "b1 -> b3;"));
  EXPECT_TRUE(contains(dot, "namespace \\\"café\\\", extra key 0x2a"));
  EXPECT_EQ(count_of(dot, " -> "), 4u);
}

TEST(Draw, SvgHasABoxForEachNodeAndRoot) {
  const std::string svg = draw_svg(small_graph(), {"A title"});
  ASSERT_TRUE(is_well_formed(svg));
  EXPECT_TRUE(contains(svg, "xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_EQ(count_of(svg, "<g class=\"root\">"), 2u);
  EXPECT_EQ(count_of(svg, "<g class=\"node l"), 4u);
  EXPECT_EQ(count_of(svg, "<path class=\"edge\""), 4u);
  EXPECT_TRUE(contains(svg,
                       "node 5: tokens 0 to 11&#10;begins with 1, 2, 3, 4&#10;"
                       "2 live requests at or below, saving 3 blocks; 9 hits&#10;"
                       "ending here: 0x100000001&#10;blocks 10, 11, 12"));
}

TEST(Draw, PagesAreSelfContained) {
  const std::string page = draw_html(small_graph(), {"A title"});
  ASSERT_TRUE(is_well_formed(page));
  EXPECT_TRUE(contains(page, "default-src 'none'"));
  for (const char* loads : {"<script", "<link", "src=", "href=", "url(", "@import", "http:"})
    EXPECT_FALSE(contains(page, loads)) << loads;
  // The only node that saves something.
  EXPECT_TRUE(contains(page, "<tr><td>5</td><td>default</td><td class=\"number\">0</td>"));
  EXPECT_FALSE(contains(page, "<tr><td>8</td>"));
}

TEST(Draw, PagesListTheBestPrefixesFirst) {
  Graph graph = small_graph();
  graph.nodes[1].saved_blocks = 3;
  graph.nodes[2].saved_blocks = 50;
  const std::string page = draw_html(graph, {});
  const size_t best = page.find("<tr><td>6</td>"), second = page.find("<tr><td>5</td>"),
               third = page.find("<tr><td>8</td>");
  EXPECT_TRUE(best < second && second < third && third != std::string::npos);
  for (Node& n : graph.nodes) n.saved_blocks = 0;
  EXPECT_TRUE(contains(draw_html(graph, {}), "No block is shared by live requests."));
}

TEST(Draw, NamesCannotLeaveTheirPlace) {
  const std::string bad = "]]><script>alert(1)</script>\"'&\\\n\x01\xff\xe2\x80\xae";
  Graph graph = small_graph();
  for (Root& root : graph.roots) root.name = root.extra_key = bad;
  for (Request& r : graph.requests) r.id = bad;
  for (const Draw draw : kForms) {
    const std::string out = draw(graph, {bad});
    EXPECT_TRUE(is_utf8(out));
    EXPECT_FALSE(contains(out, "\x01") || contains(out, "\xe2\x80\xae"));
    if (draw == draw_svg || draw == draw_html) {
      EXPECT_TRUE(is_well_formed(out));
      EXPECT_FALSE(contains(out, "<script"));
    }
    if (draw == draw_dot) {  // each quote of the name behind a backslash, each backslash doubled
      EXPECT_EQ(count_of(out, "</script>\\\"'&\\\\\\n\\\\u0001"), 5u);
    }
  }
}

TEST(Draw, WhatIsLeftOutIsCounted) {
  for (const Draw draw : kForms) {
    const std::string out = draw(small_graph(), {"T", 3});
    EXPECT_TRUE(contains(out, "1 node, 8 tokens")) << out;
    EXPECT_FALSE(contains(out, "node 9"));
    EXPECT_TRUE(draw != draw_text || contains(out, "left out of the picture"));
  }
}

TEST(Draw, EmptyAndRandomGraphsAreWellFormed) {
  EXPECT_TRUE(is_well_formed(draw_svg({}, {})));
  EXPECT_TRUE(is_well_formed(draw_html({}, {})));
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    const Graph graph = random_graph(1 + below(200, &random), &random);
    const DrawOptions options{"T", 1 + below(200, &random)};
    EXPECT_TRUE(is_well_formed(draw_svg(graph, options))) << "seed " << seed;
    EXPECT_TRUE(is_well_formed(draw_html(graph, options))) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tool::test
