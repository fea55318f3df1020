// Encrypted integers on OpenFHE's ciphertexts, where OpenFHE is found.
#include "lowatt/interop/openfhe.hpp"

#include <gtest/gtest.h>

#include "support/encrypted_formula.hpp"

namespace {

using test::formula, test::formula_first, test::formula_second;

TEST(OpenFhe, ACircuitIsThatOfIntegers) {
  // A short key, so that keys are made in seconds: not secure. The ring leaves room for messages of
  // 5 bits.
  lbcrypto::BinFHEContext context;
  context.GenerateBinFHEContext(lbcrypto::TOY, false, 12, 8192);
  const auto secret = context.KeyGen();
  context.BTKeyGen(secret);
  const int width = 5;
  ASSERT_LE(2U << width, context.GetMaxPlaintextSpace().ConvertToInt());
  const lowatt::OpenFheScheme scheme(context, width, 8);
  for (std::int64_t a = formula_first.lowest; a <= formula_first.highest; ++a)
    for (std::int64_t b = formula_second.lowest; b <= formula_second.highest; ++b) {
      lowatt::Circuit<lowatt::OpenFheScheme> circuit(scheme);
      const auto result = formula(circuit.input(scheme.encrypt(secret, a), formula_first),
                                  circuit.input(scheme.encrypt(secret, b), formula_second));
      EXPECT_EQ(scheme.decrypt(secret, circuit.output(result), result.interval().lowest),
                formula(a, b))
          << a << ' ' << b;
      EXPECT_TRUE(circuit.status().ok()) << circuit.status().message;
    }
}

}  // namespace
