// TEST FIXTURE: not audited, not constant-time, its randomness is not secure. Not for production.
//
// What the noise should be, as variances relative to the torus: the usual formulas for binary keys
// (Chillotti, Gama, Georgieva, Izabachene 2018/421; Bergerat and others 2022/704). A test holds
// them against measured noise, and against the probabilities of failure that are published with the
// sets.
#pragma once
#include "parameters.hpp"

namespace lowatt::fhe {

// Of a fresh result of a lookup.
double lookup_variance(const Parameters& parameters);

// What switching keys and rounding to exponents of X add, inside a lookup.
double key_switching_variance(const Parameters& parameters);
double exponent_variance(const Parameters& parameters);

// log2 of the probability that a lookup goes wrong whose input has that many times the variance of
// a fresh result.
double log2_lookup_failure(const Parameters& parameters, double squared_norm);

}  // namespace lowatt::fhe
