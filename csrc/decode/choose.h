// How a next token is chosen, but for arithmetic on whole rows of scores: random numbers, what the
// history forbids, the automaton, the best few. Free of torch, for host and device.
//
// The same in plain torch: fast_s2s/decoding/choice.py and philox.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "../lstm_math.h"
#include "decode.h"

namespace fast_s2s {

struct PhiloxWords {
  uint32_t word[4];
};

// Philox4x32-10, Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405
FAST_S2S_HD PhiloxWords philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = static_cast<uint32_t>(p1), c2 = n2, c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Gumbel noise is at most this: -log(-log(1 - 2^-24)), rounded up.
constexpr double kLargestGumbel = 16.6356;

FAST_S2S_HD double gumbel(uint32_t word) {
  const double u = (static_cast<double>(word >> 9) + 0.5) * 0x1p-23;
  return -std::log(-std::log(u));
}

// Noise for one slot's tokens; asked in rising order it computes each four once.
class GumbelStream {
 public:
  FAST_S2S_HD GumbelStream(int64_t seed, int64_t position, int64_t sequence)
      : key_(static_cast<uint64_t>(seed)),
        position_(static_cast<uint32_t>(position)),
        sequence_(static_cast<uint32_t>(sequence)) {}
  FAST_S2S_HD double at(int64_t token) {
    if (token / 4 != quad_) {
      quad_ = token / 4;
      words_ = philox(static_cast<uint32_t>(quad_), position_, sequence_, 0, key_);
    }
    // no index known only at run time: it would keep the words from registers
    const uint32_t (&w)[4] = words_.word;
    const int64_t which = token % 4;
    return gumbel(which == 0 ? w[0] : which == 1 ? w[1] : which == 2 ? w[2] : w[3]);
  }

 private:
  uint64_t key_;
  uint32_t position_, sequence_;
  int64_t quad_ = -1;
  PhiloxWords words_{};
};

FAST_S2S_HD bool contains(const Ids& ids, int64_t id) {
  for (int64_t i = 0; i < ids.size; ++i)
    if (ids.data[i] == id) return true;
  return false;
}

// A slot's tokens so far: the first input, then `position` chosen ones.
struct History {
  const int64_t* tokens;
  int64_t position;
};

// Calls `ban(token)` for tokens that would end an n-gram that was there before.
template <class Ban>
FAST_S2S_HD void for_repeated_ngrams(const History& history, int64_t size, const Ban& ban) {
  const int64_t head = size - 1, count = history.position + 1;
  if (size < 1 || count < size) return;
  const int64_t* ending = history.tokens + count - head;
  for (int64_t i = 0; i + head < count; ++i) {
    int64_t same = 0;
    while (same < head && history.tokens[i + same] == ending[same]) ++same;
    if (same == head) ban(history.tokens[i + head]);
  }
}

// Calls `ban(token)` for tokens that would complete a bad sequence.
template <class Ban>
FAST_S2S_HD void for_bad_words(const History& history, const DecodeRules& rules, const Ban& ban) {
  for (int64_t word = 0; word + 1 < rules.bad_offsets.size; ++word) {
    const int64_t begin = rules.bad_offsets.data[word], end = rules.bad_offsets.data[word + 1];
    const int64_t head = end - begin - 1;
    if (head > history.position + 1) continue;
    const int64_t* ending = history.tokens + history.position + 1 - head;
    int64_t same = 0;
    while (same < head && rules.bad_tokens.data[begin + same] == ending[same]) ++same;
    if (same == head) ban(rules.bad_tokens.data[end - 1]);
  }
}

// Arcs [begin, end) of an automaton's state; none where it is -1 or offsets are out of range.
struct Arcs {
  int64_t begin, end;
};

FAST_S2S_HD bool has_automaton(const DecodeRules& rules) { return rules.node_offsets.size > 0; }

FAST_S2S_HD Arcs arcs_of(const DecodeRules& rules, int64_t node) {
  if (node < 0 || node + 1 >= rules.node_offsets.size) return {0, 0};
  const int64_t begin = rules.node_offsets.data[node], end = rules.node_offsets.data[node + 1];
  if (begin < 0 || end > rules.arc_tokens.size || begin > end) return {0, 0};
  return {begin, end};
}

FAST_S2S_HD bool is_final(const DecodeRules& rules, int64_t node) {
  return node >= 0 && node + 1 < rules.node_offsets.size && rules.final_nodes[node];
}

// The first of these arcs whose token is not below `token`; their end if there is none.
FAST_S2S_HD int64_t find_arc(const DecodeRules& rules, const Arcs& arcs, int64_t token) {
  int64_t low = arcs.begin, high = arcs.end;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (rules.arc_tokens.data[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Where `token` leads; eos without an arc stays at a final node; -1: nowhere.
FAST_S2S_HD int64_t follow(const DecodeRules& rules, int64_t node, int64_t token) {
  if (!has_automaton(rules)) return node;
  const Arcs arcs = arcs_of(rules, node);
  const int64_t low = find_arc(rules, arcs, token);
  if (low < arcs.end && rules.arc_tokens.data[low] == token) {
    const int64_t target = rules.arc_targets.data[low];
    return target >= 0 && target + 1 < rules.node_offsets.size ? target : -1;
  }
  return is_final(rules, node) && contains(rules.eos, token) ? node : -1;
}

// A continuation of a slot.
struct Candidate {
  double total;  // the sequence's score with it
  double score;  // its own
  int64_t slot, token;
};

// The best of what is offered, best first; the earlier first among equals.
class BestCandidates {
 public:
  FAST_S2S_HD BestCandidates(Candidate* room, int64_t capacity)
      : found_(room), capacity_(capacity) {}
  // What a candidate's total must exceed.
  FAST_S2S_HD double threshold() const {
    return size_ < capacity_ ? -HUGE_VAL : found_[capacity_ - 1].total;
  }
  FAST_S2S_HD void offer(const Candidate& candidate) {
    if (!(candidate.total > threshold())) return;
    int64_t at = size_ < capacity_ ? size_++ : capacity_ - 1;
    for (; at > 0 && found_[at - 1].total < candidate.total; --at) found_[at] = found_[at - 1];
    found_[at] = candidate;
  }
  FAST_S2S_HD int64_t size() const { return size_; }
  FAST_S2S_HD const Candidate& operator[](int64_t i) const { return found_[i]; }

 private:
  Candidate* found_;
  int64_t capacity_, size_ = 0;
};

}  // namespace fast_s2s
