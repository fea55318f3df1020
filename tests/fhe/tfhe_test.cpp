// The small TFHE: products of polynomials, encryption, lookups and noise.
#include "fhe/keys.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace {

using namespace lowatt;

TEST(Tfhe, LookupsOfAllMessages) {
  fhe::ClientKey client(*fhe::smallest_set(3, 1), 1);
  const fhe::ServerKey server(client);
  const std::vector<std::int64_t> squares = {9, 4, 1, 0, 1, 4, 9, 16};
  for (std::int64_t m = -3; m <= 4; ++m) {
    EXPECT_EQ(client.decrypt(server.lookup(client.encrypt(m), -3, squares), 0) % 16, m * m % 16)
        << m;
  }
}

}  // namespace
