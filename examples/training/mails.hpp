// The SpamAssassin mails as words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace training {

// What a reader sees of a mail: the subject, then the body; other headers name the mailing list or
// the relay, and so give the answer away.
std::string visible_text(const std::string& mail);

// Lower-case words, numbers as "0", and the signs ! $ % ? and @; tags of HTML left out.
std::vector<std::string> words_of(const std::string& text);

struct MailSplit {
  std::vector<std::int64_t> words;  // [mails, tokens]
  std::vector<std::int64_t> spam;   // [mails], 0 or 1
};

struct Mails {
  MailSplit train, test;
  std::int64_t vocabulary = 0;  // 0 is padding, 1 an unknown word
};

// The first `tokens` words of each mail; every fifth mail by number is for testing. The vocabulary
// is the most frequent words of the training part. Throws support::InputError for a folder that
// does not hold the data set.
Mails read_mails(const std::string& folder, std::int64_t tokens, std::int64_t vocabulary);

}  // namespace training
