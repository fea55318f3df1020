// Softmax for peers that only multiply matrices. Plain pointers: see CMakeLists.txt.
#pragma once

namespace bench {

// Turns each row of scores into exp(score - largest of its row), and says what its sum has to be
// multiplied by to make 1.
void weigh_rows(float* scores, long rows, long columns, float* inverse_sums);

// Multiplies each row by its factor.
void scale_rows(float* values, long rows, long columns, const float* factors);

}  // namespace bench
