#include "mails.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "file.hpp"

namespace training {
namespace {

struct Mail {
  std::vector<std::string> words;
  bool is_spam = false, is_test = false;
};

Mail read_mail(const std::filesystem::path& path, bool is_spam, std::size_t tokens) {
  support::InputFile file = support::open_file(path.string());
  const auto json = nlohmann::json::parse(file.in, nullptr, false);
  if (!json.is_object() || !json.contains("text") || !json["text"].is_string())
    throw support::InputError("'" + path.string() + "' is not a mail: it has no text");
  Mail mail;
  mail.words = words_of(visible_text(json["text"].get<std::string>()));
  if (mail.words.size() > tokens) mail.words.resize(tokens);
  mail.is_spam = is_spam;
  mail.is_test = std::atol(path.filename().c_str()) % 5 == 0;  // names begin with the number
  return mail;
}

std::vector<Mail> read_group(const std::filesystem::path& folder, bool is_spam,
                             std::size_t tokens) {
  std::error_code error;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".json") paths.push_back(entry.path());
  if (paths.empty())
    throw support::InputError("'" + folder.string() +
                              "' holds no mails; examples/training/fetch.sh gets them");
  std::sort(paths.begin(), paths.end());
  std::vector<Mail> mails;
  for (const auto& path : paths) mails.push_back(read_mail(path, is_spam, tokens));
  return mails;
}

std::map<std::string, std::int64_t> number_words(const std::vector<Mail>& mails,
                                                 std::int64_t vocabulary) {
  std::map<std::string, std::int64_t> counts;
  for (const Mail& mail : mails)
    if (!mail.is_test)
      for (const std::string& word : mail.words) ++counts[word];
  std::vector<std::pair<std::string, std::int64_t>> frequent(counts.begin(), counts.end());
  std::stable_sort(frequent.begin(), frequent.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::map<std::string, std::int64_t> numbers;
  for (const auto& [word, count] : frequent) {
    const auto number = static_cast<std::int64_t>(numbers.size()) + 2;
    if (number == vocabulary) break;
    numbers[word] = number;
  }
  return numbers;
}

}  // namespace

std::string visible_text(const std::string& mail) {
  const std::size_t end = std::min(mail.find("\n\n"), mail.size());
  std::string subject;
  if (const std::size_t at = mail.find("\nSubject:"); at < end) {
    const std::size_t from = at + 9;
    subject = mail.substr(from, mail.find('\n', from) - from);
  }
  return subject + "\n" + mail.substr(end);
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t i = 0; i < text.size();) {
    const auto take = [&](auto belongs) {
      const std::size_t from = i;
      while (i < text.size() && belongs(static_cast<unsigned char>(text[i]))) ++i;
      return text.substr(from, i - from);
    };
    const auto c = static_cast<unsigned char>(text[i]);
    if (std::isalpha(c)) {
      std::string word = take([](unsigned char x) { return std::isalpha(x) || x == '\''; });
      for (char& letter : word)
        letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      words.push_back(word);
    } else if (std::isdigit(c)) {
      take([](unsigned char x) { return std::isdigit(x) || x == '.' || x == ','; });
      words.emplace_back("0");
    } else if (c == '<' && text.find('>', i) != std::string::npos) {
      i = text.find('>', i) + 1;
    } else {
      if (std::string_view("!$%?@").find(text[i]) != std::string_view::npos)
        words.emplace_back(1, text[i]);
      ++i;
    }
  }
  return words;
}

Mails read_mails(const std::string& folder, std::int64_t tokens, std::int64_t vocabulary) {
  std::vector<Mail> all;
  for (const char* group : {"easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2"}) {
    const bool is_spam = std::string(group).starts_with("spam");
    for (Mail& mail : read_group(std::filesystem::path(folder) / group, is_spam,
                                 static_cast<std::size_t>(tokens)))
      all.push_back(std::move(mail));
  }
  const auto numbers = number_words(all, vocabulary);
  Mails mails;
  mails.vocabulary = vocabulary;
  for (const Mail& mail : all) {
    MailSplit& split = mail.is_test ? mails.test : mails.train;
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens); ++i) {
      if (i >= mail.words.size()) {
        split.words.push_back(0);
        continue;
      }
      const auto found = numbers.find(mail.words[i]);
      split.words.push_back(found == numbers.end() ? 1 : found->second);
    }
    split.spam.push_back(mail.is_spam ? 1 : 0);
  }
  return mails;
}

}  // namespace training
