// Text that is safe where its name says, and the tests' own XML checker.
#include "text.h"

#include <gtest/gtest.h>

#include <random>

#include "support.h"

namespace tool::test {
namespace {

TEST(Text, XmlSpecialsAreEscaped) {
  EXPECT_EQ(xml_text("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c&#39;");
  EXPECT_EQ(xml_text("]]>"), "]]&gt;");
  EXPECT_EQ(xml_text("one\ntwo"), "one&#10;two");
}

TEST(Text, DotSpecialsAreEscaped) { EXPECT_EQ(dot_text("\"\\N\n"), "\\\"\\\\N\\n"); }

TEST(Text, HiddenCharactersBecomeVisible) {
  EXPECT_EQ(plain_text("a\x1b[31mb\n"), "a\\u001b[31mb\\u000a");
  EXPECT_EQ(plain_text("\xe2\x80\xae"
                       "abc"),
            "\\u202eabc");  // right to left
  EXPECT_EQ(plain_text("\xd8\x9c"), "\\u061c");
  EXPECT_EQ(plain_text("\xc2\x9b"), "\\u009b");  // what some terminals obey
  EXPECT_EQ(xml_text(std::string_view("\0\x0b", 2)), "\\u0000\\u000b");
  EXPECT_EQ(xml_text("\xef\xbf\xbf"), "\\uffff");
  EXPECT_EQ(dot_text("\x07"), "\\\\u0007");
}

TEST(Text, WhatIsNotUtf8IsReplaced) {
  const std::string mark = "\xef\xbf\xbd";
  EXPECT_EQ(plain_text("a\xff"
                       "b"),
            "a" + mark + "b");
  EXPECT_EQ(plain_text("\xc3"), mark);             // cut off
  EXPECT_EQ(plain_text("\xc0\xaf"), mark + mark);  // a longer form of '/'
  EXPECT_EQ(plain_text("\xe0\x80\xaf"), mark + mark + mark);
  EXPECT_EQ(plain_text("\xf0\x80\x80\xaf"), mark + mark + mark + mark);
  EXPECT_EQ(plain_text("\xed\xa0\x80"), mark + mark + mark);             // half of a pair
  EXPECT_EQ(plain_text("\xf4\x90\x80\x80"), mark + mark + mark + mark);  // beyond U+10FFFF
  EXPECT_EQ(plain_text("\xf0\x9f\x8c\xb3 \xc3\xa9"), "\xf0\x9f\x8c\xb3 \xc3\xa9");
}

TEST(Text, EveryFormOfRandomBytesIsUtf8WithoutControls) {
  std::mt19937 random(3);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(below(12, &random), ' ');
    for (char& c : bytes) c = static_cast<char>(below(256, &random));
    for (const std::string& out : {plain_text(bytes), xml_text(bytes), dot_text(bytes)}) {
      ASSERT_TRUE(is_utf8(out));
      for (const char c : out) ASSERT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    }
    ASSERT_TRUE(is_well_formed("<a b=\"" + xml_text(bytes) + "\">" + xml_text(bytes) + "</a>"));
  }
}

TEST(Text, NamesOfBytesAreRestored) {
  EXPECT_EQ(restore_utf8("caf\xc3\x83\xc2\xa9"), "caf\xc3\xa9");  // U+00C3 U+00A9
  EXPECT_EQ(restore_utf8("caf\xc3\xa9"), "caf\xc3\xa9");          // U+00E9 is no UTF-8 alone
  EXPECT_EQ(restore_utf8("\xe2\x82\xac"), "\xe2\x82\xac");        // beyond a byte
  EXPECT_EQ(restore_utf8("plain"), "plain");
}

TEST(Text, Numbers) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(UINT64_MAX), "18,446,744,073,709,551,615");
  EXPECT_EQ(counted(1, "node"), "1 node");
  EXPECT_EQ(counted(2000, "node"), "2,000 nodes");
  EXPECT_EQ(percent(1, 3), "33.3%");
  EXPECT_EQ(percent(0, 0), "-");
}

TEST(XmlChecker, AcceptsAndRefuses) {
  EXPECT_TRUE(is_well_formed("<?xml version=\"1.0\"?>\n<a b=\"1\" c=\"\"><d/>x &lt; y</a>\n"));
  for (const char* bad : {"", "x", "<a>", "</a>", "<a></b>", "<a><b></a></b>", "<a>&</a>",
                          "<a>&nbsp;</a>", "<a b=1/>", "<a b=\"1\" b=\"2\"/>", "<a b=\"<\"/>",
                          "<a/>x", "<a>\x01</a>", "<a b=\"1/>", "<a", "<a>< b</a>"}) {
    EXPECT_FALSE(is_well_formed(bad)) << bad;
  }
}

}  // namespace
}  // namespace tool::test
