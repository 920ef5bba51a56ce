// How the tool fails: an exception whose message names what was read, where, and what was expected.
#pragma once

#include <stdexcept>

namespace tool {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A wrong command line: exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace tool
