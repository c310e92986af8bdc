#pragma once
// Certificates for one test: an authority, and what it signs.

#include <string>

namespace tokamak::server {

struct KeyPair {
  std::string certificate, key;  // PEM
};

// Valid for an hour, for "localhost". Signed by `authority`, or by itself when that is null.
KeyPair make_certificate(const std::string& common_name, const KeyPair* authority = nullptr);

}  // namespace tokamak::server
