// An image and what a classifier makes of it, drawn in ASCII.
#pragma once

#include <string>
#include <vector>

#include "idx.hpp"

namespace support {

// The image on the left, on the right a bar for each class as long as its probability; the answer
// is pointed at, and the label where it is another. A character stands for two pixels, one above
// the other, or for more where the image is wide.
std::string picture(const LabelledImages& images, lowatt::Index image,
                    const std::vector<double>& probabilities);

}  // namespace support
