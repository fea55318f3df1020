// Encrypted integers on real ciphertexts: the small TFHE of the tests.
#include <gtest/gtest.h>

#include <string>

#include "fhe/keys.hpp"
#include "fhe/parameters.hpp"
#include "support/encrypted_formula.hpp"

namespace {

using lowatt::Circuit;
using lowatt::fhe::ServerKey;
using test::formula, test::formula_first, test::formula_second;

static_assert(lowatt::Scheme<ServerKey>);
static_assert(lowatt::ArithmeticWithProduct<lowatt::EncryptedInteger<ServerKey>>);

TEST(EncryptedTfhe, ACircuitIsThatOfIntegers) {
  const lowatt::CountingScheme counting;
  Circuit<lowatt::CountingScheme> plan(counting);
  plan.output(formula(plan.input({}, formula_first), plan.input({}, formula_second)));
  ASSERT_TRUE(plan.status().ok()) << plan.status().message;
  const lowatt::fhe::Parameters* set =
      lowatt::fhe::smallest_set(plan.cost().width, plan.cost().noise);
  ASSERT_NE(set, nullptr);

  lowatt::fhe::ClientKey client(*set, 5);
  const ServerKey server(client);
  for (std::int64_t a = -2; a <= 1; ++a)
    for (std::int64_t b = -1; b <= 2; b += 3) {
      Circuit<ServerKey> circuit(server);
      const auto result = formula(circuit.input(client.encrypt(a), formula_first),
                                  circuit.input(client.encrypt(b), formula_second));
      EXPECT_EQ(client.decrypt(circuit.output(result), result.interval().lowest), formula(a, b))
          << a << ' ' << b;
      EXPECT_TRUE(circuit.status().ok()) << circuit.status().message;
    }
}

TEST(EncryptedTfhe, ATooNarrowSchemeIsAnErrorNotAWrongResult) {
  lowatt::fhe::ClientKey client(*lowatt::fhe::smallest_set(2, 1), 6);
  const ServerKey server(client);
  Circuit<ServerKey> circuit(server);
  const auto a = circuit.input(client.encrypt(3), {0, 3}),
             b = circuit.input(client.encrypt(2), {0, 3});
  circuit.output(a * b);
  EXPECT_EQ(circuit.status().message,
            std::string("the circuit needs messages of 3 bits; the scheme has 2"));
}

}  // namespace
