# Usage: awk -f filter.awk HEADER
# Doxygen's view of a header: plain comments that stand before or behind a declaration become comments that
# it reads, and the one on top the file's. Lines that are indented (formulas, tables) are kept as they are,
# and whatever Doxygen would take for a command is escaped. Comments in bodies of functions stay plain.

function escaped(text) {
  gsub(/&/, "\\&amp;", text)
  gsub(/</, "\\&lt;", text)
  gsub(/>/, "\\&gt;", text)
  gsub(/[\\@#*]/, "\\\\&", text)
  sub(/^ *\./, " \\.", text)  # would end a list
  return text
}

# Prints the comment lines held so far; `kind` is what the first one opens a comment with, or nothing.
function flush(kind, i, text, inside, is_figure, line) {
  for (i = 1; i <= held; ++i) {
    if (kind == "") {
      print comment[i]
      continue
    }
    text = comment[i]
    sub(/^ *\/\/ ?/, "", text)
    is_figure = text ~ /^  /
    line = (is_figure && !inside ? "<pre>" : "") (inside && !is_figure ? "</pre>" : "") escaped(text)
    inside = is_figure
    if (i == held) line = line (inside ? "</pre>" : "") " */"
    print (i == 1 ? kind : "") line
  }
  held = 0
}

# Notes which braces a line of code opens and closes. A scope may hold declarations; a body may not.
function follow(code, i, c) {
  gsub(/"([^"\\]|\\.)*"/, "\"\"", code)
  gsub(/'([^'\\]|\\.)'/, "''", code)
  for (i = 1; i <= length(code); ++i) {
    c = substr(code, i, 1)
    if (c == "(") ++parentheses
    else if (c == ")") --parentheses
    if (c == "{") {
      head = statement
      while (sub(/template *<[^<>]*(<[^<>]*>[^<>]*)*>/, "", head)) {}
      is_body[++depth] = head !~ /^ *(inline )?(namespace|struct|class|union|enum)( |$)/
      bodies += is_body[depth]
    } else if (c == "}") {
      if (depth > 0) bodies -= is_body[depth--]
    }
    statement = c ~ /[{};]/ ? "" : statement c
  }
  statement = statement " "
}

function holds_declarations() {
  return bodies == 0 && parentheses == 0
}

/^ *\/\// && (!behind || index($0, "//") != behind) {
  behind = 0
  comment[++held] = $0
  next
}
{
  if (held > 0) {
    if (!seen_code) flush("/** \\file\n")
    else if (holds_declarations() && $0 !~ /^ *($|#|\}|private:|public:|static_assert|LOWATT_API)/)
      flush("/** ")
    else flush("")
  }
  if (/^ *\/\//) {  # goes on with what stands behind the line above
    sub(/\/\/ ?/, "//!< ")
    print
    next
  }
  if ($0 !~ /^ *$/) seen_code = 1
  behind = 0
  code = $0
  at = index(code, "//")
  if (at > 0) code = substr(code, 1, at - 1)
  could = holds_declarations()
  if (code !~ /^ *(#|LOWATT_API_|public:|private:)/) follow(code)
  if (at > 0 && could && holds_declarations() && code !~ /^ *[#}]|\{ *$/) {
    print code "//!< " escaped(substr($0, at + 3))
    behind = at
    next
  }
  print
}
END { flush("") }
